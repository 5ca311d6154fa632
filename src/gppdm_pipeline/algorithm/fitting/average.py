"""The average of weights over a training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Average:
    """Exponential moving average of parameters, warmed up: decay min(decay, (1+i)/(10+i)).

    It is linear in the parameters, so it keeps every linear property of the updates, such as being
    orthogonal to old inputs.

    Attributes:
        tensors: the average of each parameter.
        count: how many updates it has taken in.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self._parameters = list(parameters)
        self.tensors = [parameter.detach().clone() for parameter in self._parameters]
        self._decay, self.count = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the current values."""
        self.count += 1
        decay = min(self._decay, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(self.tensors, self._parameters, 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Set the parameters to their average."""
        for parameter, average in zip(self._parameters, self.tensors, strict=True):
            parameter.copy_(average)
