"""The stream: in which order, and in which tasks, a source's classes arrive."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationInfo, field_validator

from gppdm_pipeline.images import LabelledImages
from gppdm_pipeline.streams.sources import Source, SourceError, choose_per_class

# Keep the random choices apart that start from one seed.
_ORDER_SEED = 1
_VALIDATION_SEED = 2


class StreamConfig(BaseModel):
    """Which classes each task brings.

    Attributes:
        source: the reader of the images.
        classes_per_task: one number for all tasks, or one for each task.
        class_order: "natural" (the source's), "random" (by the run's seed), or the names of all
            classes, as a list or joined by "-".
        validation_fraction: the share of each class's training images set apart for validation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    # The later fields are validated against the source: it stays the first.
    source: Source
    classes_per_task: PositiveInt | tuple[PositiveInt, ...]
    class_order: Literal["natural", "random"] | tuple[str, ...] = "natural"
    validation_fraction: float = Field(0.1, ge=0, le=0.5)

    @field_validator("classes_per_task")
    @classmethod
    def _tasks_use_up_the_classes(
        cls, value: int | tuple[int, ...], info: ValidationInfo
    ) -> int | tuple[int, ...]:
        if "source" not in info.data:  # invalid itself, and reported as such
            return value
        n = len(info.data["source"].class_names)
        if isinstance(value, int) and n % value:
            divisors = ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)
            raise ValueError(
                f"{value} classes a task do not divide the source's {n} classes: use one of "
                f"{divisors}, or a list of numbers that sum to {n}"
            )
        if isinstance(value, tuple) and sum(value) != n:
            raise ValueError(
                f"{list(value)} sum to {sum(value)}, but the source has {n} classes: "
                f"use numbers that sum to {n}"
            )
        return value

    @field_validator("class_order", mode="before")
    @classmethod
    def _split_joined_names(cls, value: object, info: ValidationInfo) -> object:
        joined = isinstance(value, str) and value not in ("natural", "random")
        if not joined or "source" not in info.data:
            return value
        return _split_names(str(value), info.data["source"].class_names)

    @field_validator("class_order")
    @classmethod
    def _order_names_each_class_once(
        cls, value: str | tuple[str, ...], info: ValidationInfo
    ) -> str | tuple[str, ...]:
        if isinstance(value, tuple) and "source" in info.data:
            _check_order(value, info.data["source"].class_names)
        return value

    def tasks(self, seed: int) -> tuple[tuple[int, ...], ...]:
        """The classes of each task, in order of arrival; reads no image.

        Args:
            seed: the run's, at least 0; matters only to the random order.
        """
        names = self.source.class_names
        if self.class_order == "natural":
            order = list(range(len(names)))
        elif self.class_order == "random":
            order = np.random.default_rng([seed, _ORDER_SEED]).permutation(len(names)).tolist()
        else:
            order = [names.index(name) for name in self.class_order]
        sizes = self.classes_per_task
        if isinstance(sizes, int):
            sizes = (sizes,) * (len(names) // sizes)
        return tuple(tuple(order[a:b]) for a, b in pairwise(accumulate(sizes, initial=0)))


@dataclass(frozen=True)
class TaskSplit:
    """One task's images, disjoint; the test images are never used for a decision."""

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages


def read_task(config: StreamConfig, seed: int, task: int) -> TaskSplit:
    """Read the images of one task.

    Validation is taken out of the training images, class by class, by (seed, task). Labels stay in
    the source's own numbering, images in the source's order, whatever the order of the classes.

    Args:
        config: the stream.
        seed: the run's, at least 0.
        task: counted from 1.

    Raises:
        ValueError: if the stream has no such task.
        SourceError: if a file is missing or damaged, or any class of the stream (of this task or
            not) lacks a training or a test image.
    """
    tasks = config.tasks(seed)
    if not 1 <= task <= len(tasks):
        raise ValueError(f"task {task} does not exist: the stream has tasks 1 to {len(tasks)}")
    train, test = config.source.read("train"), config.source.read("test")
    _check_images(train, test, config.source.class_names)
    train, test = (data.of_classes(tasks[task - 1]) for data in (train, test))
    held_out = choose_per_class(
        train.labels,
        lambda n: round(n * config.validation_fraction),
        [seed, task, _VALIDATION_SEED],
    )
    return TaskSplit(train.select(~held_out), train.select(held_out), test)


def _split_names(joined: str, names: Sequence[str]) -> tuple[str, ...]:
    """Undo `"-".join`, where names may hold a "-" themselves: the longest known name wins."""
    parts = joined.split("-")
    found: list[str] = []
    while parts:
        lengths = range(len(parts), 0, -1)
        length = next((k for k in lengths if "-".join(parts[:k]) in names), 1)
        found.append("-".join(parts[:length]))
        parts = parts[length:]
    return tuple(found)


def _check_order(order: Sequence[str], names: Sequence[str]) -> None:
    faults = []
    for name in dict.fromkeys(name for name in order if name not in names):
        near = difflib.get_close_matches(name, [*names, "natural", "random"], n=1)
        faults.append(f"unknown {name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    repeated = [name for name in names if order.count(name) > 1]
    missing = [name for name in names if name not in order]
    faults += [
        f"{fault} {_listed(found)}"
        for fault, found in (("repeated", repeated), ("missing", missing))
        if found
    ]
    if faults:
        raise ValueError(
            f'must be "natural", "random", or name each of the {len(names)} classes once: '
            + "; ".join(faults)
        )


def _listed(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def _check_images(train: LabelledImages, test: LabelledImages, names: Sequence[str]) -> None:
    for split, data in (("training", train), ("test", test)):
        present = data.classes
        lacking = [name for label, name in enumerate(names) if label not in present]
        if lacking:
            raise SourceError(
                f"the source has no {split} image of class {_listed(lacking)}, but each "
                "class needs at least one. Correct class_names or the files."
            )
    if train.image_shape != test.image_shape:
        raise SourceError(
            f"the source's training images are {train.image_shape} (height, width, channels), its "
            f"test images {test.image_shape}. Take both from one data set."
        )
