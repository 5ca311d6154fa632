"""Parts of a training batch on the CPU, each by a process of its own.

Python lets one thread at a time ask for the next operation, and in networks this small threads wake
each other for so long as they compute. Processes that are forked when a training begins meet once a
step; parameters, batches and gradients lie in memory that they share.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import mmap
import os
import signal
import socket
import struct
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock
from typing import NoReturn

import torch
from torch import Tensor

from gppdm_pipeline.algorithm.fitting import threads
from gppdm_pipeline.algorithm.fitting.threads import Minimised, parts_of

logger = logging.getLogger(__name__)

Batch = Sequence[Tensor]
"""Tensors [b, ...], whose shapes and dtypes are always the same."""

_GO = b"."
_PR_SET_PDEATHSIG = 1  # of sys/prctl.h
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if sys.platform != "win32" else ()
_FORKING = Lock()  # what one fork opens, another one's process shall not keep open


class WorkerError(RuntimeError):
    """A process that computes a part of each batch has ended before the training."""


@contextmanager
def backward_of(
    objective: Minimised, parameters: Sequence[Tensor]
) -> Iterator[Callable[[Batch], dict[str, Tensor]]]:
    """What sets the gradients of what is minimised, batch after batch of a training.

    Each of torch.get_num_threads() takes a part of every batch, 16 images at least: by processes on
    Linux, elsewhere by threads; the same comes of both, but for rounding. (A GPU in the machine
    forbids processes, too: autograd has threads then.) What is not a parameter stays for them as
    it is at the first batch.

    Args:
        objective: changes nothing, and draws no random numbers.
        parameters: float32 leaves; those that no loss depends on get no gradient.

    Yields:
        A function of a batch: sets the gradients, which were None, and returns the losses,
        detached.

    Raises:
        WorkerError: in the function, if a process has died.
    """
    team: _Team | None = None
    forks = _can_fork()

    def backward(batch: Batch) -> dict[str, Tensor]:
        nonlocal team, forks
        if team is not None:
            return team.backward(batch)
        images = len(batch[0])
        parts = [slice(0, images)] if objective.whole else parts_of(images, batch[0].device)
        if forks and len(parts) > 1:
            try:
                team = _Team(objective, parameters, batch, parts)
            except OSError as error:
                logger.warning("no process for a part of a batch (%s): threads take it", error)
                forks = False
            else:
                return team.backward(batch)
        return threads.backward(objective, batch, parts, parameters)

    try:
        yield backward
    finally:
        if team is not None:
            team.end()


def cut(batch: Batch, part: slice) -> list[Tensor]:
    """Some images of a batch."""
    return [tensor[part] for tensor in batch]


def _can_fork() -> bool:
    return sys.platform == "linux" and not torch.cuda.is_available()


@dataclass(frozen=True)
class _Shared:
    """What a process has in common with the one that forked it.

    Attributes:
        part: of each batch.
        batch: that part.
        gradients: of the parameters.
        found: bool, which of them there are.
    """

    part: slice
    batch: list[Tensor]
    gradients: list[Tensor]
    found: Tensor


@dataclass(frozen=True)
class _Worker:
    """A process, and where it is told to begin and says its losses."""

    process: int
    link: socket.socket
    shared: _Shared


class _Team:
    """This process, which takes the first part, and one for each other part.

    Each has one thread: others would be on processors that the parts need.
    """

    def __init__(
        self,
        objective: Minimised,
        parameters: Sequence[Tensor],
        batch: Batch,
        parts: Sequence[slice],
    ) -> None:
        self._objective, self._parameters, self._parts = objective, list(parameters), parts
        self._workers: list[_Worker] = []
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for parameter, place in zip(parameters, _shared_like(parameters), strict=True):
                parameter.data = place.copy_(parameter.data)
            for part in parts[1:]:
                self._fork(part, batch)
        except BaseException:
            self.end()
            raise

    def backward(self, batch: Batch) -> dict[str, Tensor]:
        """As `backward_of` says."""
        for worker in self._workers:
            shared = worker.shared
            for place, tensor in zip(shared.batch, cut(batch, shared.part), strict=True):
                place.copy_(tensor)
            with suppress(BrokenPipeError):  # it has ended: below, nothing will come
                worker.link.send(_GO)
        losses, gradients = self._share(self._parts[0], cut(batch, self._parts[0]))
        values = [list(losses.values())]
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        for worker in self._workers:
            values.append(self._taken_from(worker, len(losses)))
        totals = (torch.stack(some).sum() for some in zip(*values, strict=True))
        return dict(zip(losses, totals, strict=True))

    def _taken_from(self, worker: _Worker, number: int) -> list[Tensor]:
        """Add the gradients of a worker; returns its losses."""
        said = b""
        with suppress(ConnectionResetError):
            said = worker.link.recv(8 * number, socket.MSG_WAITALL)
        if len(said) != 8 * number:
            self._workers.remove(worker)
            raise WorkerError(
                f"a process that computes a part of each batch ended ({_ended(worker)}); start "
                "again, and the run goes on from its last checkpoint"
            )
        there = worker.shared.found.nonzero().flatten().tolist()
        moved = [self._parameters[i] for i in there]
        for parameter in moved:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        sums = torch._foreach_add(
            [parameter.grad for parameter in moved], [worker.shared.gradients[i] for i in there]
        )
        for parameter, total in zip(moved, sums, strict=True):
            parameter.grad = total
        return [torch.tensor(loss) for loss in struct.unpack(f"{number}d", said)]

    def end(self) -> None:
        """End the processes; threads are as many as before, parameters have their own memory."""
        while self._workers:
            _ended(self._workers.pop())
        torch.set_num_threads(self._threads)
        for parameter in self._parameters:
            parameter.data = parameter.data.clone()

    def _share(
        self, part: slice, batch: Batch
    ) -> tuple[dict[str, Tensor], tuple[Tensor | None, ...]]:
        """What a part adds to the losses of the batch, and to their gradients."""
        share = (part.stop - part.start) / self._parts[-1].stop
        losses = {name: share * loss for name, loss in self._objective.losses(batch).items()}
        total = self._objective.total(losses)
        gradients = torch.autograd.grad(total, self._parameters, allow_unused=True)
        return {name: loss.detach() for name, loss in losses.items()}, gradients

    def _fork(self, part: slice, batch: Batch) -> None:
        (found,) = _shared_like([torch.zeros(len(self._parameters), dtype=torch.bool)])
        places, gradients = _shared_like(cut(batch, part)), _shared_like(self._parameters)
        shared = _Shared(part, places, gradients, found)
        with _FORKING, _signals_wait() as before, warnings.catch_warnings():
            # Of other threads: they wait, and hold nothing.
            warnings.simplefilter("ignore", DeprecationWarning)
            here, there = socket.socketpair()
            parent = os.getpid()
            with there:
                try:
                    process = os.fork()
                except BaseException:
                    here.close()
                    raise
                if not process:
                    for link in (here, *(worker.link for worker in self._workers)):
                        os.close(link.fileno())
                    self._work(there, shared, parent, before)
            self._workers.append(_Worker(process, here, shared))

    def _work(
        self, link: socket.socket, shared: _Shared, parent: int, mask: set[signal.Signals]
    ) -> NoReturn:
        """The part of each batch, until this process is killed or the other one dies."""
        code = 1
        try:
            gc.freeze()  # what is not this process's is not this process's to finalise
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other one's, which then ends this
            for stop in (signal.SIGTERM, signal.SIGHUP):
                if callable(signal.getsignal(stop)):
                    signal.signal(stop, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            torch.set_num_threads(1)  # those that there were are not here
            while os.getppid() == parent and link.recv(1) == _GO:
                losses, gradients = self._share(shared.part, shared.batch)
                there = [i for i, gradient in enumerate(gradients) if gradient is not None]
                torch._foreach_copy_(
                    [shared.gradients[i] for i in there],
                    [gradient for gradient in gradients if gradient is not None],
                )
                shared.found.zero_()[there] = True
                link.send(struct.pack(f"{len(losses)}d", *map(float, losses.values())))
            code = 0
        except BaseException:
            # Not by sys.stderr, whose lock a thread may have held, and which may be a buffer.
            with suppress(OSError):
                os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)


@contextmanager
def _signals_wait() -> Iterator[set[signal.Signals]]:
    """Inside, those that stop a run do not come; gives the mask of before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield before  # type: ignore[misc]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _shared_like(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Zeros of such shapes and dtypes, in memory that is shared with processes forked later.

    It is anonymous: /dev/shm is small in many containers.
    """
    ends = [0]
    for tensor in tensors:
        ends.append(ends[-1] + -(-tensor.nbytes // 64) * 64)
    memory = torch.frombuffer(mmap.mmap(-1, max(1, ends[-1])), dtype=torch.uint8)
    return [
        memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for tensor, start in zip(tensors, ends, strict=False)
    ]


def _ended(worker: _Worker) -> str:
    """End a process, if it has not; returns how it did."""
    worker.link.close()
    with suppress(ProcessLookupError):
        os.kill(worker.process, signal.SIGKILL)
    try:
        _, status = os.waitpid(worker.process, 0)
    except ChildProcessError:  # where the system is told not to keep what children say
        return "how is not known"
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}; its error is above"
    name = signal.Signals(-code).name
    return f"{name}: out of memory?" if name == "SIGKILL" else name
