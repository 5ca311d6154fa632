"""The stream: in which order, and in which tasks, a source's classes arrive.

Labels are places in `StreamConfig.class_names`; people read and write names.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    ConfigDict,
    Field,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.streams.checks import (
    check_batches,
    check_order,
    check_repetition,
    check_sizes,
    check_tasks,
    sizes,
)
from gppdm_pipeline.streams.names import split_names
from gppdm_pipeline.streams.repetition import RepetitionConfig, Returning, schedule
from gppdm_pipeline.streams.sources import Source, SourceError

SCENARIOS = (
    ("classes_per_task", "first_classes"),
    ("tasks",),
    ("repetition",),
    ("source_batches",),
)
"""The ways to say how classes come, of which a stream uses one; each begins with its main key."""

_ORDER_SEED = 1  # keeps random choices apart that start from one seed, as in scenario, repetition


class StreamConfig(Config):
    """Which classes each task brings: by sizes, by names, with repetition, or as the source says.

    Attributes:
        source: the reader of the images.
        numbering: the names of all classes in the order of their labels; None: the source's order.
            Labels must not change while a run lives, and a folder added to a source may come
            between others: a run that goes on keeps its own.
        unlisted: whether classes that no task brings are an error or left out of the stream.
        returning_images: how a class's training images are dealt out if it comes more than once;
            unless it is set, no class may come back. "divide": among its occurrences, no image
            twice. A number: so many are drawn for every occurrence of any class.
        class_order: "natural" (that of the labels), "random" (by the run's seed), or the names of
            all classes, as a list or joined by "-".
        validation_fraction: the share of each class's training images set apart for validation.
        classes_per_task: one number for all tasks, or one for each task.
        first_classes: the classes of a task that comes before those of `classes_per_task`; "half":
            half of all.
        tasks: the names of each task's classes, as lists or joined by "-".
        repetition: tasks in which classes come back at random.
        source_batches: the first so many of the training batches that the source lists.
        up_to_task: the last task that is learnt, of those that are told so; None: all are. Those
            behind it are planned: a class that comes back in them has its images divided so.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    # Later fields are validated against earlier ones: the order matters.
    source: Source
    numbering: tuple[str, ...] | None = None
    unlisted: Literal["refuse", "leave_out"] = "refuse"
    returning_images: Returning | None = None
    class_order: Literal["natural", "random"] | tuple[str, ...] = "natural"
    validation_fraction: float = Field(0.1, ge=0, le=0.5)
    first_classes: PositiveInt | Literal["half"] | None = None
    classes_per_task: PositiveInt | tuple[PositiveInt, ...] | None = None
    tasks: tuple[tuple[str, ...], ...] | None = Field(None, min_length=1)
    repetition: RepetitionConfig | None = None
    source_batches: PositiveInt | None = None
    up_to_task: PositiveInt | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""
        return self.numbering or self.source.class_names

    @property
    def number_of_tasks(self) -> int:
        """T; reads no file."""
        return self.up_to_task or self._planned_tasks()

    def _planned_tasks(self) -> int:
        if self.tasks is not None:
            return len(self.tasks)
        if self.repetition is not None:
            return self.repetition.total
        return self.source_batches or len(self._sizes())

    def classes_by_task(self, seed: int) -> tuple[tuple[int, ...], ...]:
        """The classes of each task that is learnt, in order of arrival; reads no image.

        Args and errors: as `planned_by_task`.
        """
        return self.planned_by_task(seed)[: self.number_of_tasks]

    def planned_by_task(self, seed: int) -> tuple[tuple[int, ...], ...]:
        """The classes of each task, of those behind `up_to_task` too; reads no image.

        The labels are read where `source_batches` says which images a task has.

        Args:
            seed: the run's, at least 0; matters only where something is random.

        Raises:
            SourceError: if the source lists fewer batches, or a batch of other images.
        """
        names = self.class_names
        if self.tasks is not None:
            return tuple(tuple(names.index(name) for name in task) for task in self.tasks)
        if self.source_batches is not None:
            labels = self.read("train").labels
            return tuple(
                tuple(np.unique(labels[batch]).tolist()) for batch in self.batches(len(labels))
            )
        order = self._order(seed)
        if self.repetition is not None:
            return schedule(self.repetition, order, names, seed)
        return tuple(tuple(order[a:b]) for a, b in pairwise(accumulate(self._sizes(), initial=0)))

    def names_by_task(self, seed: int) -> list[list[str]]:
        """`classes_by_task` by name."""
        names = self.class_names
        return [[names[label] for label in task] for task in self.classes_by_task(seed)]

    def read(self, split: Literal["train", "test"]) -> LabelledImages:
        """As the source reads it, with this stream's labels."""
        data = self.source.read(split)
        if self.numbering is None:
            return data
        label_of = {name: label for label, name in enumerate(self.numbering)}
        labels = np.array([label_of[name] for name in self.source.class_names], np.int64)
        return LabelledImages(data.images, labels[data.labels])

    def batches(self, images: int) -> tuple[NDArray[np.int64], ...]:
        """The source's batches that are the tasks: indices of its training images.

        Args:
            images: how many there are.

        Raises:
            SourceError: if the source lists fewer batches, or a batch of other images.
        """
        assert self.source_batches is not None
        batches = self.source.batches() or ()
        if len(batches) < self.source_batches:
            raise SourceError(
                f"stream.source_batches is {self.source_batches}, but the source lists "
                f"{len(batches)} batches: set it to {len(batches)} at most."
            )
        batches = batches[: self.source_batches]
        for number, batch in enumerate(batches, start=1):
            if not len(batch):
                raise SourceError(
                    f"the source's batch {number} has no training image: without "
                    "stream.source.train_per_class, or with a larger one, it has."
                )
            if batch.min() < 0 or batch.max() >= images:
                raise SourceError(
                    f"the source's batch {number} lists the training images {batch.min()} to "
                    f"{batch.max()}, but there are 0 to {images - 1}. Fetch the source's files "
                    "again, from one place."
                )
        return batches

    def _order(self, seed: int) -> list[int]:
        names = self.class_names
        if self.class_order == "natural":
            return list(range(len(names)))
        if self.class_order == "random":
            rng = np.random.default_rng([seed, _ORDER_SEED])
            return [int(label) for label in rng.permutation(len(names))]
        return [names.index(name) for name in self.class_order]

    def _sizes(self) -> tuple[int, ...]:
        assert self.classes_per_task is not None
        order = self.class_order
        classes = len(order if isinstance(order, tuple) else self.class_names)
        return sizes(self.classes_per_task, self.first_classes, classes)

    @field_validator("numbering")
    @classmethod
    def _numbers_every_class(
        cls, value: tuple[str, ...] | None, info: ValidationInfo
    ) -> tuple[str, ...] | None:
        if value is not None and "source" in info.data:
            check_order(value, info.data["source"].class_names)
        return value

    @field_validator("class_order", mode="before")
    @classmethod
    def _split_joined_names(cls, value: object, info: ValidationInfo) -> object:
        joined = isinstance(value, str) and value not in ("natural", "random")
        if not joined or "source" not in info.data:
            return value
        return split_names(str(value), info.data["source"].class_names)

    @field_validator("class_order")
    @classmethod
    def _order_names_each_class_once(
        cls, value: str | tuple[str, ...], info: ValidationInfo
    ) -> str | tuple[str, ...]:
        if isinstance(value, tuple) and "source" in info.data:
            may_lack = info.data.get("unlisted") == "leave_out"
            check_order(value, info.data["source"].class_names, ("natural", "random"), may_lack)
        return value

    @field_validator("classes_per_task")
    @classmethod
    def _tasks_use_up_the_classes(
        cls, value: int | tuple[int, ...] | None, info: ValidationInfo
    ) -> int | tuple[int, ...] | None:
        given = info.data
        # What is missing is invalid itself, and reported as such.
        if value is not None and {"source", "class_order", "first_classes"} <= given.keys():
            may_lack = given.get("unlisted") == "leave_out"
            check_sizes(value, given["first_classes"], _number_of_classes(given), may_lack)
        return value

    @field_validator("tasks", mode="before")
    @classmethod
    def _split_joined_tasks(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, list | tuple) or "source" not in info.data:
            return value
        names = info.data["source"].class_names
        return [split_names(task, names) if isinstance(task, str) else task for task in value]

    @field_validator("tasks")
    @classmethod
    def _tasks_name_each_class_once(
        cls, value: tuple[tuple[str, ...], ...] | None, info: ValidationInfo
    ) -> tuple[tuple[str, ...], ...] | None:
        if value is not None and {"source", "unlisted", "returning_images"} <= info.data.keys():
            check_tasks(
                value,
                info.data["source"].class_names,
                info.data["unlisted"] == "leave_out",
                info.data["returning_images"] is not None,
            )
        return value

    @field_validator("repetition")
    @classmethod
    def _repetition_fits(
        cls, value: RepetitionConfig | None, info: ValidationInfo
    ) -> RepetitionConfig | None:
        if value is not None and {"source", "class_order"} <= info.data.keys():
            names, deals = info.data["source"].class_names, info.data.get("returning_images")
            check_repetition(value, names, _number_of_classes(info.data), deals is not None)
        return value

    @field_validator("source_batches")
    @classmethod
    def _source_lists_batches(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and "source" in info.data:
            check_batches(info.data["source"])
        return value

    @model_validator(mode="after")
    def _one_scenario(self) -> StreamConfig:
        chosen = [group[0] for group in SCENARIOS if getattr(self, group[0]) is not None]
        if len(chosen) != 1:
            names = ", ".join(group[0] for group in SCENARIOS)
            found = f"set are {' and '.join(chosen)}" if chosen else "none is set"
            raise ValueError(f"how classes come must be said by one of {names}: {found}")
        if self.first_classes is not None and chosen != ["classes_per_task"]:
            raise ValueError("first_classes must be used with classes_per_task")
        if chosen[0] in ("tasks", "source_batches") and self.class_order != "natural":
            raise ValueError(f"class_order must be left natural: {chosen[0]} gives the order")
        if self.up_to_task and self.up_to_task > self._planned_tasks():
            raise ValueError(
                f"up_to_task is {self.up_to_task}, but {chosen[0]} gives {self._planned_tasks()} "
                f"tasks: set it to {self._planned_tasks()} at most"
            )
        return self


def _number_of_classes(given: Mapping[str, Any]) -> int:
    """How many classes the order has, of what is validated so far."""
    order = given["class_order"]
    return len(order if isinstance(order, tuple) else given["source"].class_names)
