"""What the steps of a training change, which a snapshot holds and gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gppdm_pipeline.algorithm.disk.checkpoints import Checkpoint, Snapshot
from gppdm_pipeline.algorithm.fitting.average import Average
from gppdm_pipeline.algorithm.fitting.log import LossRecorder
from gppdm_pipeline.algorithm.fitting.schedule import continue_at


@dataclass(frozen=True)
class Changing:
    """All that a training loop changes.

    Attributes:
        parameters: that the optimiser moves, always in the same order.
        optimiser: its state is tensors only (as AdamW's is).
        schedule: of its learning rates.
        generator: of the random numbers drawn in the loop.
        recorder: of the losses.
        average: of the weights, if there is one.
    """

    parameters: Sequence[nn.Parameter]
    optimiser: Optimizer
    schedule: LambdaLR
    generator: torch.Generator
    recorder: LossRecorder
    average: Average | None

    def stepped(self) -> None:
        """What follows a step of the optimiser."""
        self.schedule.step()
        if self.average is not None:
            self.average.update()

    def resumed(self, checkpoint: Checkpoint) -> int:
        """Go back to where the training was when it was stopped; how many steps that is."""
        latest = checkpoint.latest()
        return 0 if latest is None else self._restore(latest)

    def snapshot(self, step: int) -> Snapshot:
        """All of it, after so many steps."""
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
