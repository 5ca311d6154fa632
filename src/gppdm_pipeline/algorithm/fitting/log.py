"""What a stage tells about itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class StageLog:
    """Numbers that a stage leaves behind, beside its result.

    Attributes:
        metrics: single numbers, by name.
        curves: (step, value) pairs, by name; steps count from 1.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)


class DivergedError(RuntimeError):
    """A training has left the finite numbers; what it would learn is worthless."""


class LossRecorder:
    """Collects training losses as means over `every` steps.

    Values stay on their device until a mean is due, so that a training loop does not wait for them.
    """

    def __init__(self, every: int = 10) -> None:
        """Start empty; `every` is the number of steps per recorded point."""
        self._every = every
        self._since: dict[str, list[Tensor]] = {}
        self._step = 0
        self.curves: dict[str, list[tuple[int, float]]] = {}

    def add(self, **losses: Tensor) -> dict[str, float]:
        """Add one step's scalars; returns the means when a point is due, else nothing.

        Raises:
            DivergedError: if a mean is not finite.
        """
        self._step += 1
        for name, value in losses.items():
            self._since.setdefault(name, []).append(value.detach())
        if self._step % self._every:
            return {}
        means = {name: float(torch.stack(values).mean()) for name, values in self._since.items()}
        for name, mean in means.items():
            if not math.isfinite(mean):
                raise DivergedError(
                    f"{name} is {mean} by step {self._step}: the training has diverged. Nothing of "
                    "it is kept. Use a lower learning_rate for this network (and "
                    "muon_learning_rate, if Muon moves it), or precision: float32."
                )
            self.curves.setdefault(name, []).append((self._step, mean))
        self._since = {}
        return means

    def pending(self) -> dict[str, Tensor]:
        """Losses since the last point, by name: float32 [steps since]."""
        return {name: torch.stack(values) for name, values in self._since.items()}

    def restore(
        self,
        step: int,
        curves: Mapping[str, Sequence[Sequence[float]]],
        pending: Mapping[str, Tensor],
    ) -> None:
        """Go on as one that has seen `step` steps, and left these curves and `pending` losses."""
        self._step = step
        self.curves = {
            name: [(int(at), mean) for at, mean in curve] for name, curve in curves.items()
        }
        self._since = {name: list(values) for name, values in pending.items()}
