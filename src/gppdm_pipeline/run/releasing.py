"""Real images go once nothing needs them: what `retention: release` does around a run.

An image set may go when its task's state and evaluation are on disk, and so is everything that any
node of the whole pipeline makes of it. What a run still has to make does not count as being there,
even if an earlier run has left it.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from gppdm_pipeline.catalog.datasets import OnDisk, PictureDataset
from gppdm_pipeline.catalog.retention import ReleasableImages, Retention
from gppdm_pipeline.configuration.experiment import Experiment
from gppdm_pipeline.pipelines.continual.pipeline import task_name
from gppdm_pipeline.run.command import RefusedError
from gppdm_pipeline.streams.sources import Split

logger = logging.getLogger(__name__)

_REPORTED = ("report.drift", "report.replay")
"""Pictures with real images in them, and so is the report's page."""
_BESIDE = ("audit.page", "inspection.images")
"""Likewise, of other pipelines."""


class Releasing:
    """Releases what a run does not need any more, and knows what it still does.

    Args:
        experiment: says what is released; nothing may be.
        continual: the whole pipeline, of which the run may be a part.
        catalog: of the run.
    """

    def __init__(self, experiment: Experiment, continual: Pipeline, catalog: DataCatalog) -> None:
        self._experiment, self._catalog = experiment, catalog
        self._needed = {
            name: {
                output
                for node in continual.nodes
                if name in node.inputs
                for output in node.outputs
                if isinstance(catalog[output], OnDisk)
            }
            | {f"{name.partition('.')[0]}.{made}" for made in ("state", "evaluation")}
            for name in _held(experiment)
        }
        self._pending: set[str] = set()

    def begin(self, pipeline: Pipeline, only_missing: bool) -> None:
        """Before a run: what it makes anew is needed, and pictures with real images are not."""
        if not only_missing:
            self._pending = set(pipeline.all_outputs())
            again = map(self._catalog.get, sorted(self._pending))
            retention_of(self._catalog).read_again(
                each.path for each in again if isinstance(each, ReleasableImages)
            )
        if self._experiment.shows_real_images:
            return
        pictures = [path for name in _REPORTED for path in self._files(name)]
        page = self._files("report.page") if pictures else []
        beside = [path for name in _BESIDE for path in self._files(name)]
        for path in (*page, *pictures, *beside):  # the page first: a kill leaves what tells of it
            path.unlink()

    def saved(self, name: str) -> None:
        """An output of the run is on disk."""
        self._pending.discard(name)

    def release(self) -> None:
        """Release what nothing needs any more."""
        for name, needed in self._needed.items():
            dataset = self._catalog[name]
            assert isinstance(dataset, ReleasableImages)
            if dataset.path.exists() and not needed & self._pending and self._there(needed):
                dataset.dispose()
                logger.info("Released %s.", dataset.path)

    def end(self) -> None:
        """After a run: whatever was left, and the prepared images of the source."""
        self.release()
        release_prepared(self._experiment, retention_of(self._catalog))

    def _there(self, names: Iterable[str]) -> bool:
        return all(self._catalog.exists(name) for name in names)

    def _files(self, name: str) -> list[Path]:
        """What there is of a page, or of a picture with its SVG and its data."""
        dataset = self._catalog[name]
        assert isinstance(dataset, OnDisk)
        pattern = f"{dataset.path.stem}.*" if isinstance(dataset, PictureDataset) else None
        return sorted(dataset.path.parent.glob(pattern or dataset.path.name))


def release_prepared(experiment: Experiment, retention: Retention | None = None) -> None:
    """Remove what the cache has of the source, which is prepared again when it is needed.

    Args:
        experiment: says what is released.
        retention: where it is signed off; it goes, too, if it was once and has been made again.
    """
    settings: dict[Split, str] = {
        "train": experiment.retention,
        "test": experiment.retention_of_test,
    }
    for split, setting in settings.items():
        with experiment.stream.source.prepared_folder(split) as folder:
            if folder is None or not folder.exists():
                continue
            before = retention is not None and retention.stands(folder)
            if setting == "release" or before:
                if retention is not None and not before:
                    retention.sign_off(folder, {})
                shutil.rmtree(folder)
                logger.info("Released %s.", folder)


def retention_of(catalog: DataCatalog) -> Retention:
    """The run's record."""
    dataset = catalog[f"{task_name(1)}.train"]
    assert isinstance(dataset, ReleasableImages)
    return dataset.retention


def check_retention(experiment: Experiment, environment: Mapping[str, str] = os.environ) -> None:
    """What is asked for can be had: nothing that stays holds a real image.

    Raises:
        RefusedError: naming the setting that keeps images, and what would do.
    """
    if "release" not in (experiment.retention, experiment.retention_of_test):
        return
    learner: Any = experiment.learner
    start = getattr(getattr(learner, "prototypes", None), "start", "noise")
    fault = ""
    if "DVC_STAGE" in environment:
        fault = "DVC keeps the images of its stages in its cache: run this with kedro alone"
    elif experiment.retention == "keep":
        return
    elif learner.keeps_images:
        fault = f"{experiment.method} keeps real images in its states: use a method that keeps none"
    elif learner.has_prototypes and start not in ("class_mean", "noise"):
        fault = (
            f"{experiment.method}.prototypes.start is {start}, which keeps one real image of each "
            "class in its states: use class_mean or noise"
        )
    if fault:
        names = [k for k in ("retention", "retention_of_test") if getattr(experiment, k) != "keep"]
        raise RefusedError(f"{names[0]} is release, but {fault}, or set it to keep.")


def _held(experiment: Experiment) -> list[str]:
    """The data sets of real images that are to be released."""
    tasks = [task_name(number) for number in range(1, experiment.number_of_tasks + 1)]
    parts = []
    if experiment.retention == "release":
        parts += ["train", "validation"]
        parts += ["replay"] if experiment.learner.reads_earlier_images else []
    if experiment.retention_of_test == "release":
        parts.append("test")
    return [f"{task}.{part}" for task in tasks for part in parts]
