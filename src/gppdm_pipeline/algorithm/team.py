"""Processes that share one training: torch.distributed.

Every rank draws the whole batch from the same seeds, takes its part, and meets the others once a
step, in one all_reduce of one flat buffer. All then hold the same gradients, so that clipping,
optimiser, projection and average need know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

LEAST = 16
"""Images of a part; the calls for fewer take longer than what they compute."""

WAIT = timedelta(days=30)
"""How long ranks wait for each other: a rank that dies closes its connections at once."""


class RankError(RuntimeError):
    """A process that shares a training has ended before it."""


def parts(images: int, number: int) -> list[slice]:
    """A batch of so many images in at most so many parts, of LEAST images at least.

    Parts differ by an image at most; a batch that is not worth cutting is one part.
    """
    return even(images, max(1, min(number, images // LEAST)))


def even(rows: int, number: int) -> list[slice]:
    """So many rows in exactly so many parts, which differ by a row at most."""
    ends = [rows * part // number for part in range(number + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


@contextmanager
def meeting() -> Iterator[None]:
    """What torch says inside of a connection that has ended, as RankError."""
    try:
        yield
    except RuntimeError as error:
        raise RankError(
            f"a process that shares the training has ended ({error}); start again, and the run "
            "goes on from its last checkpoint"
        ) from error


@dataclass(frozen=True)
class Team:
    """The ranks that share a training, as one of them sees them.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        group: of torch.distributed; None for one rank.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | dist.ProcessGroupGloo | None = None

    def cut(self, images: int) -> list[slice]:
        """A batch of so many images in as many parts as are worth it; some ranks may get none."""
        return parts(images, self.size)

    def part(self, images: int) -> slice:
        """This rank's part of so many images: all of them if they are not cut."""
        cut = self.cut(images)
        if len(cut) == 1:
            return cut[0]
        return cut[self.rank] if self.rank < len(cut) else slice(images, images)

    def sum_gradients(
        self, parameters: Sequence[Tensor], losses: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Add up what the ranks' parts give to gradients and losses, in one all_reduce.

        Args:
            parameters: float32 leaves, in the same order on all ranks; their gradients are set, and
                stay None where no rank has one. (On CUDA, where a recorded step cannot ask, where
                this rank has none: what a step moves must not depend on the batch there.)
            losses: this part's shares, scalars by the same names on all ranks.

        Returns:
            The sums of the losses, float32 scalars.

        Raises:
            RankError: if a rank has ended.
        """
        own = [parameter.grad for parameter in parameters]
        device = parameters[0].device
        found = torch.tensor([float(gradient is not None) for gradient in own])
        gradients = [
            torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(parameters, own, strict=True)
        ]
        pieces = [*gradients, *losses.values(), *([found] if device.type == "cpu" else [])]
        flat = torch.cat([piece.detach().reshape(-1).float() for piece in pieces])
        self._sum(flat)
        sums = flat.split([piece.numel() for piece in pieces])
        there = (sums[-1] if device.type == "cpu" else found).tolist()
        # In the memory that autograd gave, whose strides decide how optimisers round.
        totals = [
            total.view_as(parameter) for total, parameter in zip(sums, parameters, strict=False)
        ]
        torch._foreach_copy_(gradients, totals)
        for parameter, gradient, some in zip(parameters, gradients, there, strict=True):
            parameter.grad = gradient if some else None
        values = sums[len(parameters) : len(parameters) + len(losses)]
        return {name: value.reshape(()) for name, value in zip(losses, values, strict=True)}

    def gather(self, samples: Tensor, images: int) -> Tensor:
        """All images of a batch of which each rank has computed its part.

        Args:
            samples: [p, ...], the images at `part(images)`.
            images: n, of the batch.

        Returns:
            [n, ...], on every rank.

        Raises:
            RankError: if a rank has ended.
        """
        if len(self.cut(images)) == 1:
            return samples
        whole = samples.new_zeros((images, *samples.shape[1:]))
        whole[self.part(images)] = samples
        self._sum(whole)
        return whole

    def in_parts(self, work: Callable[..., Tensor], *given: Any) -> Tensor:
        """What `work` gives for images, of which each rank does its part.

        Args:
            work: as many rows of all that is given -> [p, ...], a row for each.
            given: arrays or tensors [n, ...], the same on all ranks.

        Returns:
            [n, ...], on every rank.

        Raises:
            RankError: if a rank has ended.
        """
        images = len(given[0])
        own = self.part(images)
        nothing = own.start == own.stop < images
        done = slice(0, 1) if nothing else own  # one for its shape alone
        return self.gather(work(*(rows[done] for rows in given))[: own.stop - own.start], images)

    def _sum(self, tensor: Tensor) -> None:
        assert self.group is not None
        options = dist.AllreduceOptions()
        options.timeout = WAIT
        with meeting():
            self.group.allreduce([tensor], options).wait()  # type: ignore[union-attr]


ALONE = Team()
"""One process."""
