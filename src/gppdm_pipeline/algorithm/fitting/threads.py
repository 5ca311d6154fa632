"""What threads of one process share on the CPU: parts of what is drawn, matrices of one kind.

Threads that share every layer (OpenMP) meet after each of a thousand small operations, and where
one of them has to wait for a processor, all do. With a part of the batch each, they meet once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

from gppdm_pipeline.algorithm.team import parts

Item = TypeVar("Item")
Result = TypeVar("Result")


def parts_of(images: int, device: torch.device) -> list[slice]:
    """A batch of so many images cut for the threads of the CPU; whole on other devices.

    torch.get_num_threads() says how many threads there are. Parts differ by an image at most.
    """
    return parts(images, _threads(device))


def together(
    work: Callable[[Item], Result], items: Sequence[Item], device: torch.device
) -> list[Result]:
    """`work` on each item, several at a time on the CPU; in this thread if it is the only one.

    Args:
        work: changes nothing that it has not got to itself. Whether gradients are recorded, and
            autocast, it says itself: both are a thread's own.
        items: for instance parts of a batch.
        device: where it is done.

    Returns:
        What came of each, in the order of the items, whoever was first.
    """
    threads = _threads(device)
    number = min(threads, len(items))
    if number < 2:
        return [work(item) for item in items]
    return list(_pool(number, threads // number).map(work, items))


def _threads(device: torch.device) -> int:
    return torch.get_num_threads() if device.type == "cpu" else 1


@cache
def _pool(number: int, threads_each: int) -> ThreadPoolExecutor:
    threads, all_there = torch.get_num_threads(), Barrier(number)

    def begin() -> None:
        torch.get_num_threads()  # a thread's first question sets it to what was last set anywhere
        torch.set_num_threads(threads_each)

    pool = ThreadPoolExecutor(number, "part", initializer=begin)
    list(pool.map(lambda _: all_there.wait(), range(number)))
    torch.set_num_threads(threads)  # for threads that begin later
    return pool
