"""From a finished run to a version of a registered model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.algorithm.context import resolve_device
from gppdm_pipeline.configuration.uses import PublishConfig
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.serving.published_folder import write_folder
from gppdm_pipeline.serving.trained import TrainedRun

Record = dict[str, Any]
Registry = Any
"""A `ModelRegistry`, whose module takes MLflow's two seconds: Kedro, which makes of settings what
hints say, would have to import it for every pipeline."""

COMPARED = 1024
"""Images on which the ONNX classifier is held against the predictor: noise and validation."""


def publish(
    trained: TrainedRun,
    calibration: Record,
    registry: Registry,
    configuration: Record,
    publish: PublishConfig,
    device: str,
) -> Record:
    """The next version; it becomes the champion if it is not worse than the present one.

    With `publish.version`, that version becomes the champion, and nothing is published.

    Returns:
        Plain JSON values: `model`, `version`, `champion` (which version it is now),
        `validation_accuracy` and `champion_accuracy` (on the same images; None where there are
        none, or no other version in the same space); and what `write_folder` says of a folder.
    """
    name = f"{configuration['benchmark']}-{configuration['method']}"
    if publish.version is not None:
        registry.make_champion(name, publish.version)
        return {"model": name, "version": publish.version, "champion": publish.version}
    images, where = trained.validation(), resolve_device(device)
    names = trained.learned.class_names
    mine = trained.learned.accuracy(images, names, where)
    present = registry.champion(name)
    comparable = present is not None and present.learned.space.is_like(trained.learned.space)
    theirs = present.learned.accuracy(images, names, where) if comparable else None
    written = _write(publish.folder, trained, calibration, images, mine)
    version = registry.publish(name, trained, calibration, configuration, mine)
    better = theirs is None or mine is None or mine >= theirs
    if better:
        registry.make_champion(name, version)
    return {
        "model": name,
        "version": version,
        "champion": version if better or present is None else present.version,
        "validation_accuracy": mine,
        "champion_accuracy": theirs,
        **written,
    }


def _write(
    folder: Path | None,
    trained: TrainedRun,
    calibration: Record,
    validation: Sequence[LabelledImages],
    accuracy: float | None,
) -> Record:
    """Write the folder, if one is named; what `write_folder` says."""
    if folder is None:
        return {}
    told = {"run": trained.run, "state": trained.newest.parent.name}
    card = {**told, "validation_accuracy": accuracy}
    images = _compared(trained, validation)
    return write_folder(folder, trained.learned, calibration, images, card)


def _compared(trained: TrainedRun, validation: Sequence[LabelledImages]) -> NDArray[np.uint8]:
    """Noise and validation images, uint8 [n, h, w, c]; noise alone, where those are encoded."""
    shape = trained.learned.image_shape
    noise = np.random.default_rng(0).integers(0, 256, (16, *shape), np.uint8)
    if trained.learned.space.encodes:
        return noise
    return np.concatenate([noise, *(part.images for part in validation)])[:COMPARED]
