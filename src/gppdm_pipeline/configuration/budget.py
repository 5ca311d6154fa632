"""A time for a whole stream: how many steps the trainings may then have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator

from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.configuration.layers import ConfigurationError, flatten
from gppdm_pipeline.methods.base import Method

LEAST = 0.2
"""The least share of the settings' own steps; with fewer, hardly anything is learnt."""

_UNITS = {"s": 1, "m": 60, "h": 3600}

Learner = TypeVar("Learner", bound=Method)


def seconds_of(text: str) -> float:
    """What `90s`, `20m` or `2h` is in seconds.

    Raises:
        ValueError: if it is not written so, or is no time at all.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not seconds:
        raise ValueError("must be a time such as 90s, 20m or 2h, or none")
    return seconds


def _checked(text: str) -> str:
    seconds_of(text)
    return text


Budget = Annotated[
    Annotated[str, AfterValidator(_checked)] | None,
    BeforeValidator(lambda value: None if value == "none" else value),
]
"""A time; None, also written none: steps are as the settings say."""


class Fit(Config):
    """What a budget comes to.

    Attributes:
        budget: as the user wrote it.
        steps: of each training, by its key in the method's settings.
        factor: what the settings' own steps were multiplied by.
        training_seconds: what the settings' own steps would take, as measured.
        fixed_seconds: what takes as long for any number of steps: drawing, measuring, start.
        device: that it was measured on.
    """

    budget: str
    steps: dict[str, int]
    factor: float
    training_seconds: float
    fixed_seconds: float
    device: str

    def told(self) -> str:
        """One sentence."""
        steps = ", ".join(f"{key} {count}" for key, count in self.steps.items())
        return (
            f"budget {self.budget}: trainings have {self.factor:.2f} times the steps of the "
            f"settings, which are now {steps} (measured on {self.device}: "
            f"{self.training_seconds / 60:.1f} min at the settings' own steps, and "
            f"{self.fixed_seconds / 60:.1f} min besides)."
        )


def training_steps(learner: Method) -> dict[str, int]:
    """How many steps each training of a method has, by the key in its settings."""
    return steps_in(learner.model_dump())


def steps_in(settings: Mapping[str, Any]) -> dict[str, int]:
    """As `training_steps`, of a method's settings as plain values."""
    flat = flatten(settings)
    return {key: value for key, value in flat.items() if key.rpartition(".")[2] == "steps"}


def with_steps(learner: Learner, steps: Mapping[str, int]) -> Learner:
    """The same method with other numbers of steps, by the keys of `training_steps`."""
    values: dict[str, Any] = learner.model_dump()
    for key, count in steps.items():
        *parents, last = key.split(".")
        place = values
        for parent in parents:
            place = place[parent]
        place[last] = count
    return type(learner).model_validate(values)


def fitting(budget: str, learner: Method, training: float, fixed: float, device: str) -> Fit:
    """Steps with which fixed + factor x training seconds are the budget.

    Args:
        budget: as `seconds_of` reads it.
        learner: with the settings' own steps.
        training: seconds that these take in the whole stream.
        fixed: seconds that the stream takes besides.
        device: that both were measured on.

    Raises:
        ConfigurationError: if the method trains nothing; or if the steps would be fewer than
            `LEAST` of the settings' own, and then it says which budget would do.
    """
    if not training:
        raise ConfigurationError(
            f"budget = {budget}: {learner.name} trains nothing whose steps could be chosen. Leave "
            "budget out (budget=none)."
        )
    factor = (seconds_of(budget) - fixed) / training
    if factor < LEAST:
        least = fixed + 1.1 * LEAST * training
        raise ConfigurationError(
            f"budget = {budget}: too short for this stream on this machine. What does not depend "
            f"on steps takes about {fixed:.0f} s here, and a fifth of the settings' steps, the "
            f"least that is taken, {LEAST * training:.0f} s. Give budget={_written(least)} at "
            "least, fewer images to draw, or fewer tasks (stream.up_to_task)."
        )
    steps = {key: max(1, round(factor * n)) for key, n in training_steps(learner).items()}
    return Fit(
        budget=budget,
        steps=steps,
        factor=factor,
        training_seconds=training,
        fixed_seconds=fixed,
        device=device,
    )


def _written(seconds: float) -> str:
    """A budget of so many seconds or a little more."""
    return f"{-int(-seconds // 60)}m" if seconds > 120 else f"{-int(-seconds // 1)}s"
