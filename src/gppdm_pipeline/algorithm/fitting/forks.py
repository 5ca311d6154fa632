"""The team of one training on the CPU of one machine: processes that are forked for it.

Python lets one thread at a time ask for the next operation, and in networks this small threads wake
each other for so long as they compute. Forked processes begin with all that this one has; each
takes the same steps, and they meet once a step. This one is rank 0, whose result counts.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import multiprocessing

from gppdm_pipeline.algorithm.team import ALONE, RankError, Team, meeting, parts

logger = logging.getLogger(__name__)

Work = Callable[[Team], None]

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if sys.platform != "win32" else ()
_LOOPBACK = "127.0.0.1"
_MEETING = timedelta(seconds=20)
"""How long ranks wait to meet, which they begin to when all have arrived."""


def ranks_for(images: int, device: torch.device) -> int:
    """By how many processes batches of so many images are shared: by each thread's, if it pays.

    torch.get_num_threads() says how many there may be. A GPU in the machine forbids processes, for
    autograd has threads then; so does a team that torchrun started.
    """
    forbidden = (
        sys.platform != "linux"
        or device.type != "cpu"
        or torch.cuda.is_available()
        or dist.is_initialized()
        or multiprocessing.current_process().daemon
    )
    return 1 if forbidden else len(parts(images, torch.get_num_threads()))


def share(work: Work, size: int) -> None:
    """Do `work` as rank 0 of a team of processes, each of one thread, that all do it.

    The others end with it, or with this process, however that ends. Where no process can be
    started, this one does it alone.

    Args:
        work: the same steps on every rank; what only one may do is rank 0's.
        size: how many ranks.

    Raises:
        RankError: if one has ended before the work has.
    """
    others: list[BaseProcess] = []
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        try:
            work(_begun(work, size, Path(folder) / "meeting", others))
            for other in others:
                other.join()
        except RankError as error:
            raise RankError(
                f"a process that shares the training ended ({_how(others)}); start again, and the "
                "run goes on from its last checkpoint"
            ) from error
        finally:
            _end(others)
            torch.set_num_threads(threads)


def _begun(work: Work, size: int, place: Path, others: list[BaseProcess]) -> Team:
    """Rank 0 of a team of forks, which are added to `others`; alone where that cannot be."""
    if size < 2:
        return ALONE
    fork, arrivals = multiprocessing.get_context("fork"), list[Connection]()
    try:
        with _signals_wait(), warnings.catch_warnings():
            # Of other threads: they wait, and hold nothing.
            warnings.simplefilter("ignore", DeprecationWarning)
            for rank in range(1, size):
                arrival, arrives = fork.Pipe()
                given = (work, rank, size, place, arrives)
                other = fork.Process(target=_take_part, args=given, daemon=True)
                other.start()
                arrives.close()  # so that it is closed when the other one has ended
                others.append(other)
                arrivals.append(arrival)
    except OSError as error:
        logger.warning("no process for a part of a batch (%s): one takes all", error)
        _end(others)
        return ALONE
    torch.set_num_threads(1)
    try:
        for arrival in arrivals:
            arrival.recv_bytes()
        for arrival in arrivals:
            arrival.send_bytes(b"")  # all are here
    except (EOFError, OSError) as error:
        raise RankError("a process that shares the training ended before it began") from error
    return _met(rank=0, size=size, place=place)


def _take_part(work: Work, rank: int, size: int, place: Path, arrives: Connection) -> NoReturn:
    """The work of another rank.

    Signals that stop a run are blocked here since before the fork: they are rank 0's, which then
    ends this process. If rank 0 is gone, so is the connection.
    """
    code = 1
    try:
        gc.freeze()  # what is not this process's is not this process's to finalise
        torch.set_num_threads(1)  # those that there were are not here
        arrives.send_bytes(b"")
        _wait_for_all(arrives)
        work(_met(rank, size, place))
        code = 0
    except RankError:
        pass  # told by rank 0, if it is there
    except BaseException:
        # Not by sys.stderr, whose lock a thread may have held, and which may be a buffer.
        with suppress(OSError):
            os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _wait_for_all(arrives: Connection) -> None:
    """Until rank 0 says that all have arrived.

    Raises:
        RankError: if it has ended; its end of the connection is open in other ranks.
    """
    rank_0 = parent_process()
    assert rank_0 is not None
    if arrives not in wait([arrives, rank_0.sentinel]):
        raise RankError("rank 0 ended before it began")


def _met(rank: int, size: int, place: Path) -> Team:
    """The team, once all ranks have met at a file; they talk over the loopback interface."""
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=_LOOPBACK)]
    options._timeout = _MEETING
    with meeting():
        store = dist.FileStore(str(place), size)  # type: ignore[attr-defined]
        return Team(rank, size, dist.ProcessGroupGloo(store, rank, size, options))


def _end(others: list[BaseProcess]) -> None:
    while others:
        other = others.pop()
        other.kill()
        other.join()
        other.close()


def _how(others: Sequence[BaseProcess]) -> str:
    """How the rank ended that did so first, as far as is known."""
    for other in others:
        other.join(timeout=1)
    codes = [other.exitcode for other in others if other.exitcode is not None]
    killed = [signal.Signals(-code).name for code in codes if code < 0]
    if killed:
        return f"{killed[0]}: out of memory?" if killed[0] == "SIGKILL" else killed[0]
    return f"exit code {codes[0]}; its error is above" if codes else "how is not known"


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Inside, signals that stop a run do not come; what is forked inside never gets them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
