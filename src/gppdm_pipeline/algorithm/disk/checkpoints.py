"""Stop and go on within a loop: what a loop asks for, and all that a training loop changes.

A loop asks `Context.checkpoints` for its place by name, begins with the latest snapshot there, and
offers a new one after every step; whoever keeps them decides when one is taken. Batches and initial
weights are drawn again from the seed, and the learning rate is a function of the step, so that a
snapshot holds little more than weights, moments and the state of the random numbers. What only
grows, such as the images that are drawn, is kept in parts: a snapshot has what came since the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gppdm_pipeline.algorithm.fitting.log import LossRecorder
from gppdm_pipeline.algorithm.fitting.schedule import continue_at


@dataclass(frozen=True)
class Snapshot:
    """A loop between two steps.

    Attributes:
        step: how many are done, or images drawn.
        tensors: by name.
        record: the rest; plain JSON values.
        follows: the step of the snapshot that it is the next part after; None: it is whole.
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


class Averaged(Protocol):
    """An average of parameters, of which `tensors` and `count` are all that changes."""

    count: int

    @property
    def tensors(self) -> Sequence[Tensor]:
        """Changed in place."""


@dataclass(frozen=True)
class Training:
    """All that a training loop changes.

    Attributes:
        parameters: that the optimiser moves, always in the same order.
        optimiser: its state is tensors only (as AdamW's is).
        schedule: of its learning rates.
        generator: of the random numbers drawn in the loop.
        recorder: of the losses.
        average: of the parameters, if there is one.
    """

    parameters: Sequence[nn.Parameter]
    optimiser: Optimizer
    schedule: LambdaLR
    generator: torch.Generator
    recorder: LossRecorder
    average: Averaged | None = None

    def remaining(self, batches: Tensor, checkpoint: Checkpoint) -> Iterator[tuple[int, Tensor]]:
        """The steps that are left, and the batch of each.

        Args:
            batches: [steps, ...], the same whenever it is drawn.
            checkpoint: gives the first step, and is offered a snapshot after each.

        Yields:
            How many steps are done with this one that were not before: 1, but for the first to
            come after a restored snapshot; and the batch.
        """
        latest = checkpoint.latest()
        first = 0 if latest is None else self._restore(latest)
        for step in range(first, len(batches)):
            yield (step + 1 if step == first else 1), batches[step]
            checkpoint.offer(partial(self._snapshot, step + 1))

    def _snapshot(self, step: int) -> Snapshot:
        tensors = {f"parameter.{i}": value.detach() for i, value in enumerate(self.parameters)}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{name}": value for name, value in state.items()}
        tensors |= {f"average.{i}": value for i, value in enumerate(self._averages())}
        tensors |= {f"losses.{name}": value for name, value in self.recorder.pending().items()}
        tensors["generator"] = self.generator.get_state()
        return Snapshot(step, tensors, {"curves": self.recorder.curves})

    @torch.no_grad()
    def _restore(self, snapshot: Snapshot) -> int:
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in snapshot.tensors.items():
            group, _, key = name.partition(".")
            groups.setdefault(group, {})[key] = tensor
        for i, parameter in enumerate(self.parameters):
            parameter.copy_(groups["parameter"][str(i)])
        for i, average in enumerate(self._averages()):
            average.copy_(groups["average"][str(i)])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups.get("optimiser", {}).items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
        now = self.optimiser.state_dict()
        self.optimiser.load_state_dict({**now, "state": state})
        continue_at(self.schedule, snapshot.step)
        if self.average is not None:
            self.average.count = snapshot.step
        losses = groups.get("losses", {})
        pending = {name: values.to(self.generator.device) for name, values in losses.items()}
        self.recorder.restore(snapshot.step, snapshot.record["curves"], pending)
        self.generator.set_state(groups["generator"][""])
        return snapshot.step

    def _averages(self) -> Sequence[Tensor]:
        return () if self.average is None else self.average.tensors
