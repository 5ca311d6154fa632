"""From a finished run to a version of a registered model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.algorithm.context import resolve_device
from gppdm_pipeline.configuration.uses import PublishConfig
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.serving.published_folder import write_folder
from gppdm_pipeline.serving.trained import TrainedRun

Record = dict[str, Any]

COMPARED = 1024
"""Images on which the ONNX classifier is held against the predictor: noise and validation."""


def publish(
    trained: TrainedRun,
    calibration: Record,
    registry: Any,
    configuration: Record,
    publish: PublishConfig,
    device: str,
) -> Record:
    """The next version; it becomes the champion if it is not worse than the present one.

    With `publish.version`, that version becomes the champion, and nothing is published. `registry`
    is a `ModelRegistry`, whose module takes MLflow's two seconds: Kedro, which makes of settings
    what hints say, would have to import it for every pipeline.

    Returns:
        Plain JSON values: `model`, `version`, `champion` (the version that is one now),
        `validation_accuracy` and `champion_accuracy` (on the same images; None where there are
        none, or no other version in the same space); with `publish.folder`, what `write_folder`
        says.
    """
    name = f"{configuration['benchmark']}-{configuration['method']}"
    if publish.version is not None:
        registry.make_champion(name, publish.version)
        return {"model": name, "version": publish.version, "champion": publish.version}
    images, where = trained.validation(), resolve_device(device)
    names = trained.learned.class_names
    mine = trained.learned.accuracy(images, names, where)
    present = registry.champion(name)
    theirs = None
    if present is not None and present.learned.space.is_like(trained.learned.space):
        theirs = present.learned.accuracy(images, names, where)
    written = {}
    if publish.folder is not None:
        told = {"run": trained.run, "state": trained.newest.parent.name}
        compared = _compared(trained, images)
        card = {**told, "validation_accuracy": mine}
        written = write_folder(publish.folder, trained.learned, calibration, compared, card)
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


def _compared(trained: TrainedRun, validation: Sequence[LabelledImages]) -> NDArray[np.uint8]:
    """Noise and validation images, uint8 [n, h, w, c]; noise alone, where those are encoded."""
    shape = trained.learned.image_shape
    noise = np.random.default_rng(0).integers(0, 256, (16, *shape), np.uint8)
    if trained.learned.space.encodes:
        return noise
    return np.concatenate([noise, *(part.images for part in validation)])[:COMPARED]
