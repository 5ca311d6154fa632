"""One task's images: what it brings of its classes, and what is held out of that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.streams.repetition import divide, draw, first_seen
from gppdm_pipeline.streams.sources import SourceError, choose_per_class
from gppdm_pipeline.streams.stream_config import StreamConfig
from gppdm_pipeline.wording import listed

__all__ = ["StreamConfig", "TaskSplit", "read_task", "read_tasks"]

_VALIDATION_SEED = 2  # keeps random choices apart that start from one seed


@dataclass(frozen=True)
class TaskSplit:
    """One task's images, disjoint; the test images are never used for a decision."""

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages


def read_task(config: StreamConfig, seed: int, task: int) -> TaskSplit:
    """Read the images of one task.

    Validation is taken out of the training images, class by class, by (seed, task); out of all of
    a class's images once and for all (by the seed) where every occurrence draws its own. The test
    images are those of the classes that no earlier task has, so that over the tasks each test image
    comes once. Labels are the stream's, images in the source's order, whatever the order of the
    classes.

    Args:
        config: the stream.
        seed: the run's, at least 0.
        task: counted from 1.

    Raises:
        ValueError: if the stream has no such task.
        SourceError: if a file is missing or damaged, or any class of the stream (of this task or
            not) lacks a training or a test image, or has too few to be dealt out.
    """
    total = config.number_of_tasks
    if not 1 <= task <= total:
        raise ValueError(f"task {task} does not exist: the stream has tasks 1 to {total}")
    (split,) = read_tasks(config, seed, [task])
    return split


def read_tasks(
    config: StreamConfig, seed: int, numbers: Sequence[int] | None = None
) -> Iterator[TaskSplit]:
    """`read_task` for several tasks, one after the other; the source is read once.

    Args:
        config: the stream.
        seed: the run's, at least 0.
        numbers: of the tasks, counted from 1; None: all.

    Raises:
        SourceError: as `read_task`.
    """
    tasks = config.planned_by_task(seed)
    train, test = config.read("train"), config.read("test")
    _check_images(train, test, tasks, config)
    new = first_seen(tasks)
    for task in numbers or range(1, config.number_of_tasks + 1):
        chosen, held_out = _training_images(config, train.labels, tasks, seed, task)
        yield TaskSplit(
            train.select(chosen), train.select(held_out), test.of_classes(new[task - 1])
        )


def images_of_tasks(config: StreamConfig, seed: int) -> list[int]:
    """How many training images each task has; arguments and errors as `classes_of_one_image`."""
    tasks, labels = config.planned_by_task(seed), config.read("train").labels
    numbers = range(1, config.number_of_tasks + 1)
    return [len(_training_images(config, labels, tasks, seed, number)[0]) for number in numbers]


def classes_of_one_image(config: StreamConfig, seed: int) -> list[str]:
    """The names of classes that a task learns from a single training image.

    Args:
        config: the stream.
        seed: the run's, at least 0.

    Raises:
        SourceError: if a file is missing or damaged.
    """
    tasks, labels = config.planned_by_task(seed), config.read("train").labels
    found: set[int] = set()
    for task in range(1, config.number_of_tasks + 1):
        chosen, _ = _training_images(config, labels, tasks, seed, task)
        classes, counts = np.unique(labels[chosen], return_counts=True)
        found.update(classes[counts == 1].tolist())
    return [config.class_names[label] for label in sorted(found)]


def _training_images(
    config: StreamConfig,
    labels: NDArray[np.int64],
    tasks: Sequence[Sequence[int]],
    seed: int,
    task: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the task's images: for training, and held out for validation; int64, ascending."""
    fraction = config.validation_fraction
    if isinstance(config.returning_images, int) and config.source_batches is None:
        mine = np.flatnonzero(np.isin(labels, tasks[task - 1]))
        held = choose_per_class(
            labels[mine], lambda n: round(n * fraction), [seed, 0, _VALIDATION_SEED]
        )
        free, count = mine[~held], config.returning_images
        parts = [draw(free[labels[free] == k], k, count, task, seed) for k in tasks[task - 1]]
        return np.sort(np.concatenate(parts)), mine[held]
    mine = _share(config, labels, tasks, seed, task)
    held = choose_per_class(
        labels[mine], lambda n: round(n * fraction), [seed, task, _VALIDATION_SEED]
    )
    return mine[~held], mine[held]


def _share(
    config: StreamConfig,
    labels: NDArray[np.int64],
    tasks: Sequence[Sequence[int]],
    seed: int,
    task: int,
) -> NDArray[np.int64]:
    """All images of the task's classes, but of a class that comes more often its share."""
    if config.source_batches is not None:
        return np.sort(config.batches(len(labels))[task - 1])
    occurrences = Counter(chain(*tasks))
    once = [label for label in tasks[task - 1] if occurrences[label] == 1]
    parts = [np.flatnonzero(np.isin(labels, once))]
    for label in tasks[task - 1]:
        if occurrences[label] > 1:
            which = sum(label in classes for classes in tasks[: task - 1])
            members = np.flatnonzero(labels == label)
            parts.append(divide(members, label, occurrences[label], which, seed))
    return np.sort(np.concatenate(parts))


def _check_images(
    train: LabelledImages,
    test: LabelledImages,
    tasks: Sequence[Sequence[int]],
    config: StreamConfig,
) -> None:
    names, used = config.class_names, sorted(set(chain(*tasks)))
    lost = [name for label, name in enumerate(names) if label not in used]
    if lost and config.unlisted == "refuse":
        raise SourceError(
            f"no batch of the source has an image of class {listed(lost)}: take more batches, or "
            "leave such classes out with stream.unlisted=leave_out."
        )
    for split, data in (("training", train), ("test", test)):
        present = set(data.classes)
        lacking = [names[label] for label in used if label not in present]
        if lacking:
            raise SourceError(
                f"the source has no {split} image of class {listed(lacking)}, but each "
                "class needs at least one. Correct class_names or the files."
            )
    if train.image_shape != test.image_shape:
        raise SourceError(
            f"the source's training images are {train.image_shape} (height, width, channels), its "
            f"test images {test.image_shape}. Take both from one data set, or "
            "set `resize` and `colour`."
        )
    if config.returning_images == "divide" and config.source_batches is None:
        counts = np.bincount(train.labels, minlength=len(names))
        for label, times in Counter(chain(*tasks)).items():
            if times > counts[label]:
                raise SourceError(
                    f"class {names[label]!r} comes {times} times and has {counts[label]} training "
                    "images: too few to divide. Let it come less often, or set "
                    "stream.returning_images to a number of images that are drawn each time."
                )
