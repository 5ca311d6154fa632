"""Differential privacy of the generator: where it can be promised, and what was promised.

What a task moves is private by its training (`fitting/private.py`). Later tasks learn from other
real images, and from replay, which is drawn from what is private already. A class that comes back
may bring the same images again: they are counted as if it did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.fitting.private import PrivateConfig, Spent, epsilon_of
from gppdm_pipeline.algorithm.state import LearnerState, Weights

if TYPE_CHECKING:
    from gppdm_pipeline.algorithm.generator.parts import GeneratorSettings

_NAME = "private"  # in a state's extras
_IS_SET = "private.noise_multiplier is above 0, but"


def check_private(settings: GeneratorSettings) -> None:
    """Whether nothing of these settings carries real images past a private training.

    Raises:
        ValueError: naming the setting that does, and what would do.
    """
    start, gaussians, fault = settings.prototypes.start, settings.replay.gaussians, ""
    if not settings.private.on:
        return
    if settings.memory != "adapters":
        fault = "memory is 'shared', which has no private training; use memory: adapters"
    elif settings.prototypes.route != "none" and start != "noise":
        fault = f"prototypes.start is {start!r}, made of real images; use prototypes.start: noise"
    elif settings.analytic.on:
        filters = settings.analytic.filters
        fault = f"analytic.filters is {filters}, which keeps sums over real images; use 0"
    elif gaussians:
        fault = f"replay.gaussians is {gaussians:g}, which keeps means of real images; use 0"
    if fault:
        raise ValueError(f"{_IS_SET} {fault}, or private.noise_multiplier: 0")


def check_pixels(config: PrivateConfig) -> None:
    """Refuse private training on what an encoder makes of images.

    Raises:
        ValueError: if training is private.
    """
    if config.on:
        raise ValueError(
            f"{_IS_SET} what an encoder makes of images is whitened by the first task's, which is "
            "not private; learn pixels (space.name: pixels), or use private.noise_multiplier: 0"
        )


def check_installed(config: PrivateConfig) -> None:
    """Whether a private training has what it needs.

    Raises:
        ValueError: if Opacus is not installed.
    """
    if config.on and find_spec("opacus") is None:
        raise ValueError(
            f"{_IS_SET} Opacus is not installed: install the extra 'privacy' (pip install "
            "'.[privacy]'), or use private.noise_multiplier: 0"
        )


def with_guarantee(
    state: LearnerState, log: StageLog, config: PrivateConfig
) -> tuple[LearnerState, StageLog]:
    """The state with what its trainings have told, and the last one's log with its epsilon.

    Args:
        state: after a private training; if an earlier one was not private, nothing is promised.
        log: of that training; its metrics are as of `Spent`, among others.
        config: of it.
    """
    spent = _spent(log.metrics)
    own = {**spent._asdict(), "epsilon": epsilon_of([spent], config.delta)}
    log = replace(log, metrics={**log.metrics, "epsilon": own["epsilon"], "delta": config.delta})
    earlier = state.extras[_NAME].config["tasks"] if _NAME in state.extras else []
    trainings = [*earlier, own]
    if len(trainings) < len(state.tasks):
        return state, log
    of_class = {
        tuple(i for i, task in enumerate(state.tasks) if label in task) for label in state.classes
    }
    told = ([_spent(trainings[i]) for i in each] for each in of_class)
    worst = max(epsilon_of(each, config.delta) for each in told)
    kept = {"epsilon": worst, "delta": config.delta, "secret": config.secret, "tasks": trainings}
    return replace(state, extras={**state.extras, _NAME: Weights(kept, {})}), log


def _spent(told: Mapping[str, Any]) -> Spent:
    return Spent(*(told[name] for name in Spent._fields))


def guarantee_of(state: LearnerState) -> dict[str, Any] | None:
    """What a state's generator tells of any image, at most; None: nothing is promised.

    Returns:
        Plain JSON values: `epsilon` and `delta`; `secret`, whether its noise came from no seed;
        `tasks`, of each training `noise_multiplier`, `sample_rate`, `steps`, and its own `epsilon`.
    """
    found = state.extras.get(_NAME)
    whole = found is not None and len(found.config["tasks"]) == len(state.tasks)
    return dict(found.config) if found is not None and whole else None
