"""What a stream will bring, before anything is learnt: tasks, counts, sizes, what looks wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.pipelines.inspect.duplicates import find_duplicates
from gppdm_pipeline.pipelines.inspect.near_copies import find_near_copies
from gppdm_pipeline.streams.repetition import first_seen
from gppdm_pipeline.streams.scenario import StreamConfig, TaskSplit, read_tasks

SMALL_TRAIN = 20
"""Fewer training images of a class in a task are too few: less than one in six batches of 128."""
SMALL_TEST = 10
"""Fewer test images of a class are too few: one more right is worth over ten per cent."""
SAMPLES = 12
"""Images of each class and task that are kept to be shown."""


@dataclass(frozen=True)
class Inspection:
    """A stream, looked at.

    Attributes:
        record: plain JSON values: `image_shape`, `notes` of the source, `tasks` (each with its
            `classes`: name, whether new, counts), `small`, `duplicates`, `near_copies`.
        samples: of each task and class the first training images: (task, name, uint8 images).
    """

    record: dict[str, Any]
    samples: tuple[tuple[int, str, NDArray[np.uint8]], ...]


def inspect_stream(config: StreamConfig, seed: int) -> Inspection:
    """Read every task's images, and look for what is not as it should be.

    Args:
        config: the stream.
        seed: the run's.

    Raises:
        SourceError: as `read_task`.
    """
    order = config.classes_by_task(seed)
    tasks, samples = [], []
    splits = zip(order, first_seen(order), read_tasks(config, seed), strict=True)
    for number, (classes, new, split) in enumerate(splits, start=1):
        tasks.append(_task(number, classes, new, split, config.class_names))
        for label in classes:
            first = np.flatnonzero(split.train.labels == label)[:SAMPLES]
            samples.append((number, config.class_names[label], split.train.images[first]))
    used = np.array(sorted({label for classes in order for label in classes}))
    train, test = (_of(data, used) for data in (config.read("train"), config.read("test")))
    record = {
        "image_shape": list(train.image_shape),
        "notes": list(config.source.notes()),
        "tasks": tasks,
        "left_out": [name for k, name in enumerate(config.class_names) if k not in used],
        "small": [fault for task in tasks for fault in _small(task)],
        "small_train": SMALL_TRAIN,
        "small_test": SMALL_TEST,
        "duplicates": _duplicates(train, test, config.class_names),
        "near_copies": _near_copies(train, test, config.class_names),
    }
    return Inspection(record, tuple(samples))


def _of(data: LabelledImages, classes: NDArray[np.int64]) -> LabelledImages:
    """Without a copy where nothing is left out."""
    wanted = np.isin(data.labels, classes)
    return data if wanted.all() else data.select(wanted)


def _task(
    number: int,
    classes: Sequence[int],
    new: Sequence[int],
    split: TaskSplit,
    names: Sequence[str],
) -> dict[str, Any]:
    counts = {
        part: np.bincount(data.labels, minlength=len(names))
        for part, data in (
            ("train", split.train),
            ("validation", split.validation),
            ("test", split.test),
        )
    }
    return {
        "task": number,
        "classes": [
            {
                "name": names[label],
                "new": label in new,
                **{part: int(count[label]) for part, count in counts.items()},
            }
            for label in classes
        ],
        **{part: int(count.sum()) for part, count in counts.items()},
    }


def _small(task: dict[str, Any]) -> list[dict[str, Any]]:
    limits = (("train", SMALL_TRAIN), ("test", SMALL_TEST))
    return [
        {"task": task["task"], "name": each["name"], "part": part, "images": each[part]}
        for each in task["classes"]
        for part, least in limits
        if each[part] < least and (part == "train" or each["new"])
    ]


def _duplicates(
    train: LabelledImages, test: LabelledImages, names: Sequence[str]
) -> dict[str, Any]:
    found = asdict(find_duplicates(train, test))
    examples = [
        {
            "train": list(in_train),
            "test": list(in_test),
            "classes": sorted(
                {names[k] for k in train.labels[list(in_train)]}
                | {names[k] for k in test.labels[list(in_test)]}
            ),
        }
        for in_train, in_test in found.pop("groups")
    ]
    return {**found, "examples": examples}


def _near_copies(
    train: LabelledImages, test: LabelledImages, names: Sequence[str]
) -> dict[str, Any]:
    found = find_near_copies(train, test)
    examples = [
        {
            "train": [in_train],
            "test": [in_test],
            "classes": sorted({names[train.labels[in_train]], names[test.labels[in_test]]}),
        }
        for in_train, in_test in found.pairs
    ]
    return {"across": found.count, "examples": examples}
