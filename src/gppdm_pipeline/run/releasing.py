"""Real images go once nothing needs them: what `retention: release` does around a run.

An image set may go when its task's state and evaluation are on disk, and so is everything that any
node of the whole pipeline makes of it. What a run still has to make does not count as being there,
even if an earlier run has left it.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from gppdm_pipeline.algorithm.classifier.analytic import ENOUGH
from gppdm_pipeline.algorithm.disk.writing import naming
from gppdm_pipeline.catalog.datasets import OnDisk, PictureDataset
from gppdm_pipeline.catalog.retention import ReleasableImages, Retention
from gppdm_pipeline.configuration.experiment import Experiment
from gppdm_pipeline.pipelines.continual.pipeline import task_name
from gppdm_pipeline.run.command import RefusedError
from gppdm_pipeline.streams.prepared import alone_in
from gppdm_pipeline.streams.scenario import classes_of_one_image, images_of_tasks
from gppdm_pipeline.streams.sources import Split
from gppdm_pipeline.wording import listed

logger = logging.getLogger(__name__)

_REPORTED = ("report.drift", "report.replay", "report.nearest_pairs")
"""Pictures with real images in them, and so is the report's page."""
_BESIDE = ("audit.page", "inspection.images")
"""Likewise, of other pipelines."""
_OF_MEANS = ("gaussian_replay", "nearest_mean", "slda")
"""Methods whose states have means of classes; others do by a setting."""


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
        """What there is of a page, or of a picture with its SVG and its data.

        That is also what a kill has left half-written, and what a shorter stream's report has.
        """
        dataset = self._catalog[name]
        assert isinstance(dataset, OnDisk)
        path, reports = dataset.path, retention_of(self._catalog).path.parent
        folders = [path.parent]
        if path.is_relative_to(reports):
            folders += reports.glob(f"before_*/{path.parent.relative_to(reports)}")
        name = f"{path.stem}.*" if isinstance(dataset, PictureDataset) else f"{path.name}*"
        patterns = (name, f".{name}")
        return sorted(file for each in folders for some in patterns for file in each.glob(some))


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
        for folder in experiment.stream.source.prepared_folders(split):
            if setting == "release" or (retention is not None and retention.stands(folder)):
                with alone_in(folder):
                    _release_folder(folder, retention)


@contextmanager
def released_if_refused(experiment: Experiment, retention: Retention | None) -> Iterator[None]:
    """What is prepared of the source inside goes if a run is refused there: no end of it comes."""
    try:
        yield
    except BaseException:
        release_prepared(experiment, retention if retention and retention.path.exists() else None)
        raise


def _release_folder(folder: Path, retention: Retention | None) -> None:
    if not folder.exists():
        return
    if retention is not None and not retention.stands(folder):
        retention.sign_off(folder, {})
    with naming(folder):
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


def check_means(experiment: Experiment, pipeline: Pipeline) -> None:
    """No state has the mean of a class that is learnt from one image: it is that image.

    Nor sums over few images, which tell each of them.

    Args:
        experiment: says what is released.
        pipeline: of which some node reads the source, or nothing is learnt.

    Raises:
        RefusedError: naming the classes, or the task.
        SourceError: if the source cannot be read.
    """
    learner: Any = experiment.learner
    starts_from_mean = learner.has_prototypes and learner.prototypes.start == "class_mean"
    gaussians = getattr(getattr(learner, "replay", None), "gaussians", 0) > 0
    means = starts_from_mean or gaussians or experiment.method in _OF_MEANS
    reads = any(node.name.endswith(".split") for node in pipeline.nodes)
    if experiment.retention == "keep" or not reads:
        return
    _check_sums(experiment)
    if not means:
        return
    if names := classes_of_one_image(experiment.stream, experiment.seed):
        other = f"set {experiment.method}.prototypes.start=noise, " * starts_from_mean
        raise RefusedError(
            f"retention is release, but a task learns class {listed(names)} from one image, and "
            f"the mean of one image, which {experiment.method} keeps in its states, is that image: "
            f"{other}give the class more images, leave it out, or set retention to keep."
        )


def _check_sums(experiment: Experiment) -> None:
    """Errors as `check_means`."""
    if not experiment.learner.summed_numbers(sys.maxsize):
        return
    images = images_of_tasks(experiment.stream, experiment.seed)
    numbers, few = experiment.learner.summed_numbers(images[0]), min(images)
    if few < ENOUGH * numbers:
        raise RefusedError(
            f"retention is release, but task {images.index(few) + 1} has {few} images, and sums of "
            f"{numbers} numbers of each, which {experiment.method} keeps in its states, tell "
            f"single ones where there are fewer than {ENOUGH * numbers}: sum fewer numbers "
            "(analytic.filters, ranpac.features), take a method without sums, give the task more "
            "images, or set retention to keep."
        )


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
