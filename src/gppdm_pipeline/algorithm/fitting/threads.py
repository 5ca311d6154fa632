"""What several threads share on the CPU: whole parts of a batch, not the insides of a layer.

Threads that share every layer (OpenMP) meet after each of a thousand small operations, and where
one of them has to wait for a processor, all do. With a part of the batch each, they meet once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, reduce
from itertools import pairwise
from threading import Barrier
from typing import Protocol, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

_LEAST = 16  # images; the calls for fewer take longer than what they compute


def parts_of(images: int, device: torch.device) -> list[slice]:
    """A batch of so many images cut for the threads of the CPU; whole on other devices.

    torch.get_num_threads() says how many threads there are. Parts differ by an image at most.
    """
    number = max(1, min(_threads(device), images // _LEAST))
    ends = [images * part // number for part in range(number + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


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


class Minimised(Protocol):
    """What a training minimises, of a batch or of a part of one."""

    @property
    def whole(self) -> bool:
        """Whether a batch cannot be cut."""

    def losses(self, drawn: Sequence[Tensor]) -> dict[str, Tensor]:
        """Means over the images: scalars by name, always the same names."""

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """What is minimised, linear in the losses."""


def added(losses: dict[str, Tensor]) -> Tensor:
    """The sum of losses, a scalar."""
    return torch.stack(list(losses.values())).sum()


def backward(
    objective: Minimised,
    batch: Sequence[Tensor],
    parts: Sequence[slice],
    parameters: Sequence[Tensor],
) -> dict[str, Tensor]:
    """Set the gradients of a batch, each part's by a thread.

    Args:
        objective: changes nothing, and draws no random numbers.
        batch: tensors [b, ...].
        parts: of the batch, all of it.
        parameters: leaves without a gradient; those that no loss depends on stay so.

    Returns:
        The losses of the batch, detached.
    """
    if len(parts) == 1:
        whole = objective.losses(batch)
        objective.total(whole).backward()
        return {name: loss.detach() for name, loss in whole.items()}
    images = parts[-1].stop

    def of(part: slice) -> tuple[dict[str, Tensor], tuple[Tensor | None, ...]]:
        share = (part.stop - part.start) / images
        losses = objective.losses([tensor[part] for tensor in batch])
        losses = {name: share * loss for name, loss in losses.items()}
        total = objective.total(losses)
        gradients = torch.autograd.grad(total, list(parameters), allow_unused=True)
        return {name: loss.detach() for name, loss in losses.items()}, gradients

    losses, gradients = zip(*together(of, parts, parameters[0].device), strict=True)
    for parameter, *terms in zip(parameters, *gradients, strict=True):
        there = [term for term in terms if term is not None]
        parameter.grad = reduce(torch.add, there) if there else None
    return {name: torch.stack([some[name] for some in losses]).sum() for name in losses[0]}


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
