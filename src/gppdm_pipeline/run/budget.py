"""Steps for a budget, chosen once for all seeds of a run and kept in a file.

Runs that go on, grow or have another seed take the numbers that are there, on whatever machine, so
that they can be compared and averaged. The file is `budget.json` beside the seeds' folders of
states.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gppdm_pipeline.algorithm.disk.writing import replace_file
from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.configuration.budget import Fit, fitting, seconds_of, steps_in, training_steps
from gppdm_pipeline.configuration.experiment import Experiment
from gppdm_pipeline.configuration.layers import ConfigurationError
from gppdm_pipeline.locks import locked
from gppdm_pipeline.pipelines.inspect.estimate import estimate_costs
from gppdm_pipeline.run import guard

logger = logging.getLogger(__name__)

FILE = "budget.json"
_BESIDES = 20.0
"""Seconds of a start, of measures of replay and of pictures, which the estimate does not have."""


class _Choice(Config):
    """A fit, and what it was made for: settings by their fingerprint, and their own steps."""

    settings: str
    own_steps: dict[str, int]
    fit: Fit


_CHOICES = TypeAdapter(list[_Choice])


def settled(experiment: Experiment, record: Mapping[str, Any], folder: Path) -> Experiment:
    """The experiment with the steps that were chosen for its budget, if they were.

    Args:
        experiment: with or without a budget.
        record: of the run that is there and goes on; may be empty.
        folder: where the seeds' states are.

    Raises:
        ConfigurationError: if the file with the choices is damaged.
    """
    if experiment.budget is None:
        return experiment
    seconds, own = seconds_of(experiment.budget), training_steps(experiment.learner)
    known = [
        choice
        for choice in _read(folder / FILE)
        if choice.own_steps == own and seconds_of(choice.fit.budget) == seconds
    ]
    # A stream that has grown has other settings than when it began.
    there = {**record.get(experiment.method, {}), "classifier": record.get("classifier", {})}
    begun = [choice for choice in known if choice.fit.steps == steps_in(there)]
    same = [choice for choice in known if choice.settings == experiment.fingerprint()]
    return next((experiment.fitted(choice.fit) for choice in (*begun, *same)), experiment)


def settle(
    experiment: Experiment, record: Mapping[str, Any], folder: Path, keeps: bool
) -> Experiment:
    """As `settled`; what was not chosen yet is measured, and kept if `keeps`.

    Raises:
        ConfigurationError: if the budget is too small, or as `settled`.
        RefusedError, SourceError: if the method cannot learn these images, or they cannot be read.
    """
    if experiment.budget is None:
        return experiment
    if not keeps:
        found = settled(experiment, record, folder)
        return found if found.fit else experiment.fitted(_measured(experiment))
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f".{FILE}.lock"):  # other seeds wait, and take the same
        found = settled(experiment, record, folder)
        if found.fit is None:
            found = experiment.fitted(_measured(experiment))
            assert found.fit
            own = training_steps(experiment.learner)
            choice = _Choice(settings=experiment.fingerprint(), own_steps=own, fit=found.fit)
            _write(folder / FILE, [*_read(folder / FILE), choice])
    assert found.fit
    logger.info("%s They stay so for all seeds: %s", found.fit.told(), folder / FILE)
    return found


def _measured(experiment: Experiment) -> Fit:
    assert experiment.budget
    if experiment.space.trains:
        raise ConfigurationError(
            f"budget = {experiment.budget} with space.autoencoder = own: how long a stream takes "
            "is not known before the autoencoder is trained. Set budget=none, and steps by hand."
        )
    device = guard.device_of(experiment)
    guard.check_images(experiment)
    logger.info("budget %s: trying the method, to see how long it takes ...", experiment.budget)
    costs = estimate_costs(
        experiment.learner, experiment.stream, experiment.seed, device, experiment.space
    )
    training = costs["training_seconds"]
    fixed = costs["seconds"]["total"] - training + _BESIDES
    return fitting(experiment.budget, experiment.learner, training, fixed, str(device))


def _read(file: Path) -> list[_Choice]:
    try:
        return _CHOICES.validate_json(file.read_bytes())
    except FileNotFoundError:
        return []
    except ValidationError as error:
        raise ConfigurationError(
            f"{file} is damaged: it held the steps that were chosen for a budget. Remove it, and "
            "they are chosen anew; a run that is there then keeps its own only if they come out "
            "the same."
        ) from error


def _write(file: Path, choices: list[_Choice]) -> None:
    text = json.dumps([choice.model_dump() for choice in choices], indent=2) + "\n"
    replace_file(file, text.encode())
