"""Whether the images that a run would learn are those that it has begun with.

They are told by their hash: where they lie, and on which machine, does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kedro.io import DataCatalog, DatasetError

from gppdm_pipeline.algorithm.context import resolve_device
from gppdm_pipeline.algorithm.disk.checkpoint_files import digest
from gppdm_pipeline.catalog.datasets import JsonDataset, StateDataset
from gppdm_pipeline.configuration.experiment import Experiment
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.pipelines.continual.pipeline import task_name
from gppdm_pipeline.streams.scenario import TaskSplit, read_tasks
from gppdm_pipeline.streams.sources import fingerprint


def changed_images(experiment: Experiment, catalog: DataCatalog) -> Iterator[str]:
    """How the images of the tasks differ from those that are there of the run, task by task.

    Args:
        experiment: says what is read now.
        catalog: of the run.

    Raises:
        SourceError: if the source cannot be read.
    """
    learnt = _last_learnt(experiment, catalog)
    if learnt:
        number, manifest, evaluation = learnt
        yield from of_state(experiment, manifest, evaluation, catalog)
    behind = range(number + 1 if learnt else 1, experiment.number_of_tasks + 1)
    begun = [n for n in behind if _kept(n, catalog)]
    for number, now in zip(begun, _read(experiment, begun) if begun else (), strict=True):
        for split in _kept(number, catalog):
            images = now.train if split == "train" else now.test
            yield from filter(None, [_difference(experiment, number, split, images, catalog)])


def hash_of_images(experiment: Experiment) -> str:
    """One hash of all that the experiment reads now: each task's training images, and the tests.

    Raises:
        SourceError: if the source cannot be read.
    """
    numbers = range(1, experiment.number_of_tasks + 1)
    train: list[str] = []
    tests: list[LabelledImages] = []
    for task in _read(experiment, numbers):
        train.append(fingerprint(task.train))
        tests.append(task.test)
    return digest(*train, fingerprint(LabelledImages.concatenate(tests)))


def hash_of_learnt(states: Path, reports: Path, last: int) -> str | None:
    """The same hash of what a finished run has learnt; None where it does not say.

    Args:
        states: the run's folder of states.
        reports: the run's folder of evaluations.
        last: its last task.
    """
    state, evaluation = (
        states / task_name(last) / "state" / "state.json",
        reports / task_name(last) / "evaluation.json",
    )
    if not (state.exists() and evaluation.exists()):
        return None
    data: list[str] = JsonDataset(filepath=str(state)).load()["data"]
    return digest(*data, JsonDataset(filepath=str(evaluation)).load()["test_data"])


def of_state(
    experiment: Experiment,
    manifest: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    catalog: DataCatalog,
) -> Iterator[str]:
    """How the images of the tasks that a state knows differ from those it was learnt from.

    Args:
        experiment: says what is read now.
        manifest: of the state, with a hash of each task's training images.
        evaluation: after the state's last task, with a hash of all test images so far.
        catalog: of the run; the images that it kept tell which classes differ.

    Raises:
        SourceError: if the source cannot be read.
    """
    numbers = range(1, len(manifest["data"]) + 1)
    tests: list[LabelledImages] = []
    for number, now in zip(numbers, _read(experiment, numbers), strict=True):
        tests.append(now.test)
        if fingerprint(now.train) != manifest["data"][number - 1]:
            yield (
                _difference(experiment, number, "train", now.train, catalog)
                or f"task {number}: the kept training images are not those it was learnt from"
            )
    if fingerprint(LabelledImages.concatenate(tests)) != evaluation["test_data"]:
        found = [
            _difference(experiment, number, "test", test, catalog)
            for number, test in zip(numbers, tests, strict=True)
        ]
        yield from filter(None, found)
        if not any(found):
            yield "the kept test images are not those that the tasks were tested on"


def _last_learnt(
    experiment: Experiment, catalog: DataCatalog
) -> tuple[int, Mapping[str, Any], Mapping[str, Any]] | None:
    """The last task with a whole state and an evaluation, and what these say."""
    for number in range(experiment.number_of_tasks, 0, -1):
        state, evaluation = (catalog[f"{task_name(number)}.{x}"] for x in ("state", "evaluation"))
        if state.exists() and evaluation.exists():
            assert isinstance(state, StateDataset)
            try:
                return number, state.manifest(), evaluation.load()
            except DatasetError:  # the run makes it anew, or tells that it cannot read it
                continue
    return None


def _kept(number: int, catalog: DataCatalog) -> list[str]:
    """Which images of a task the run has kept beside it."""
    return [
        split for split in ("train", "test") if catalog[f"{task_name(number)}.{split}"].exists()
    ]


def _read(experiment: Experiment, numbers: Sequence[int]) -> Iterator[TaskSplit]:
    """Each task's images, as they are learnt."""
    for task in read_tasks(experiment.stream, experiment.seed, numbers):
        parts = [task.train, task.validation, task.test]
        yield TaskSplit(*experiment.space.encoded(parts, resolve_device(experiment.device)))


def _difference(
    experiment: Experiment, number: int, split: str, now: LabelledImages, catalog: DataCatalog
) -> str:
    """Which classes of a task have other images than those that the run has kept beside it.

    Empty if none has.
    """
    kept = catalog[f"{task_name(number)}.{split}"]
    what = f"task {number}: {'training' if split == 'train' else split} images"
    if not kept.exists():
        return f"{what} differ, or those of another task do"
    there: LabelledImages = kept.load()
    faults = []
    for label in sorted({*there.classes, *now.classes}):
        before, after = (data.of_classes([label]).images for data in (there, now))
        if not np.array_equal(before, after):
            counts = f"{len(before)} there, {len(after)} now"
            same = "as many, but others"
            name = experiment.stream.class_names[label]
            faults.append(f"{name} ({counts if len(before) != len(after) else same})")
    return f"{what} of {', '.join(faults)}" if faults else ""
