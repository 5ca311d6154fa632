"""Stop and go on within a loop: what a loop asks for.

A loop asks `Context.checkpoints` for its place by name, begins with the latest snapshot there, and
offers a new one after every step; whoever keeps them decides when one is taken. Batches and initial
weights are drawn again from the seed, and the learning rate is a function of the step, so that a
snapshot holds little more than weights, moments and the state of the random numbers. What only
grows, such as the images that are drawn, is kept in parts: a snapshot has what came since the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Snapshot:
    """A loop between two steps.

    Attributes:
        step: how many are done, or images drawn.
        tensors: by name.
        record: the rest; plain JSON values.
        follows: the step of the snapshot whose next part this is; None for a whole one.
    """

    step: int
    tensors: Mapping[str, Tensor]
    record: Mapping[str, Any] = field(default_factory=dict)
    follows: int | None = None


class Checkpoint(Protocol):
    """Where one loop's snapshots are kept."""

    def latest(self) -> Snapshot | None:
        """Where the loop was when it was stopped, if it was."""

    def parts(self) -> Iterator[Snapshot]:
        """Those that follow each other, from step 0 to where the loop was when it was stopped."""

    def offer(self, take: Callable[[], Snapshot], now: bool = False) -> None:
        """Keep a snapshot, if it is time for one or it has to be now."""


class Checkpoints(Protocol):
    """Gives each loop of a stage its place."""

    def __call__(self, loop: str) -> Checkpoint:
        """The place of the loop of this name."""


class _Nowhere:
    def latest(self) -> Snapshot | None:
        return None

    def parts(self) -> Iterator[Snapshot]:
        return iter(())

    def offer(self, take: Callable[[], Snapshot], now: bool = False) -> None:
        """Keep nothing."""


NOWHERE: Checkpoint = _Nowhere()


def no_checkpoints(loop: str) -> Checkpoint:
    """Every loop starts at its beginning and keeps nothing: the default for library use."""
    return NOWHERE


class DrawnOnce(Protocol):
    """Gives images that never change the place where they are kept."""

    def __call__(self, name: str, *given: object) -> Checkpoint:
        """The place of the images of this name, empty unless they were drawn from the same."""


def not_kept(name: str, *given: object) -> Checkpoint:
    """Images are drawn again whenever they are asked for: the default for library use."""
    return NOWHERE
