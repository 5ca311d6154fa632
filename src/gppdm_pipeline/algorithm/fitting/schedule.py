"""How the learning rate runs over a training: the same for every network."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

WARM_UP = 0.1


def warm_up_then_cosine(optimiser: Optimizer, steps: int) -> LambdaLR:
    """Rise linearly over the first tenth of `steps`, then fall to zero along a half cosine.

    Each parameter group keeps its own peak, the learning rate that it was made with.
    """
    rise = max(1, round(WARM_UP * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2

    return LambdaLR(optimiser, factor)


def continue_at(schedule: LambdaLR, step: int) -> None:
    """Set learning rates to what they are after `step` steps: they depend on nothing else."""
    schedule.last_epoch = step
    groups = schedule.optimizer.param_groups
    for group, peak, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = peak * factor(step)
