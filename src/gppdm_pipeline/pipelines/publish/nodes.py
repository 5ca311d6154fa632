"""From a finished run to a version of a registered model."""

from __future__ import annotations

from typing import Any

from gppdm_pipeline.algorithm.context import resolve_device
from gppdm_pipeline.catalog.registry import ModelRegistry
from gppdm_pipeline.configuration.uses import PublishConfig
from gppdm_pipeline.serving.trained import TrainedRun

Record = dict[str, Any]


def publish(
    trained: TrainedRun,
    calibration: Record,
    registry: ModelRegistry,
    configuration: Record,
    publish: PublishConfig,
    device: str,
) -> Record:
    """The next version; it becomes the champion if it is not worse than the present one.

    With `publish.version`, that version becomes the champion, and nothing is published.

    Returns:
        Plain JSON values: `model`, `version`, `champion` (the version that is one now),
        `validation_accuracy` and `champion_accuracy` (on the same images; None where there are
        none, or no other version).
    """
    name = f"{configuration['benchmark']}-{configuration['method']}"
    if publish.version is not None:
        registry.make_champion(name, publish.version)
        return {"model": name, "version": publish.version, "champion": publish.version}
    images, where = trained.validation(), resolve_device(device)
    names = trained.learned.class_names
    mine = trained.learned.accuracy(images, names, where)
    present = registry.champion(name)
    theirs = None if present is None else present.learned.accuracy(images, names, where)
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
    }
