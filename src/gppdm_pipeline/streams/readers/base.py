"""What all readers share: limits, sizes and colours, and what is wrong with a file."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, ConfigDict, PositiveInt, model_validator

from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.streams.conversion import Conversion
from gppdm_pipeline.streams.errors import SourceError, source_error
from gppdm_pipeline.streams.folders.names import is_text
from gppdm_pipeline.streams.prepared import folder_of, folders_with, prepared
from gppdm_pipeline.streams.preparing import Contents, Job
from gppdm_pipeline.wording import listed

Split = Literal["train", "test"]

# Part of what makes a benchmark the same benchmark: never the run's seed.
_LIMIT_SEED = 20_231_211
_TEST_SEED = 1_797


def choose_per_class(
    labels: NDArray[np.int64], count: Callable[[int], int], seed: Sequence[int]
) -> NDArray[np.bool_]:
    """Choose some images of every class at random.

    A class's choice depends on the seed and on its own images only; a smaller count chooses a
    subset of what a larger one does.

    Args:
        labels: int64 [n].
        count: how many to choose, given how many the class has; more than that chooses all.
        seed: non-negative integers.

    Returns:
        bool [n], true where chosen.
    """
    chosen = np.zeros(len(labels), np.bool_)
    order = np.argsort(labels, kind="stable")
    present, firsts = np.unique(labels[order], return_index=True)
    for label, members in zip(present, np.split(order, firsts)[1:], strict=True):
        shuffled = np.random.default_rng([*seed, int(label)]).permutation(members)
        chosen[shuffled[: count(len(members))]] = True
    return chosen


def is_test(labels: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """Which images are for testing, where a source does not say.

    The share is taken of each class, with a constant seed, so that runs of every seed are measured
    on the same images.

    Args:
        labels: int64 [n].
        fraction: of each class; a class of two images or more keeps one for each side.
    """
    return choose_per_class(
        labels, lambda n: min(max(round(n * fraction), 1), max(n - 1, 0)), [_TEST_SEED]
    )


def fingerprint(data: LabelledImages) -> str:
    """The identity of a data set: a SHA-256, as 64 hexadecimal digits.

    Covers the images' shape, their bytes, and the labels' bytes (little-endian), in this order.
    """
    digest = hashlib.sha256(repr(data.images.shape).encode())
    digest.update(np.ascontiguousarray(data.images).data)
    digest.update(np.ascontiguousarray(data.labels, "<i8").data)
    return digest.hexdigest()


ClassNames = tuple[str, ...]


def _user_path(path: Path) -> Path:
    if not is_text(str(path)):
        raise source_error(
            path, "a path", "one in UTF-8 without control characters", "Rename the folders in it."
        )
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise source_error(
            path, "a user who is not known here", "a path", "Write the user's folder in full."
        ) from error


def _as_typed(path: Any) -> Any:
    """A name that is a number, as the folder 2024, is a name."""
    return str(path) if isinstance(path, int) and not isinstance(path, bool) else path


UserPath = Annotated[Path, BeforeValidator(_as_typed), AfterValidator(_user_path)]


class Reader(Conversion, ABC):
    """What all readers share, besides sizes and colours.

    Every reader has `class_names`, the name of label 0, of label 1, ..., known without reading an
    image.

    Attributes:
        train_per_class: use at most so many training images of each class; None uses all.
        test_per_class: the same for the test images.

    The images of a limited class are the first after a shuffle whose seed is a constant, in the
    source's order.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    train_per_class: PositiveInt | None = None
    test_per_class: PositiveInt | None = None

    def read(self, split: Split) -> LabelledImages:
        """All images of the split, within the limits, in the source's order.

        Returns:
            uint8 images [n, h, w, c], labels int64 [n] in 0..len(class_names)-1. Images of files
            are a read-only memory map, of which `select` and `of_classes` copy what they choose.

        Raises:
            SourceError: if a file is missing or damaged, or a class has no image.
        """
        data = self._read(split)
        within = self._within_limit(split, data.labels)
        return data if within.all() else data.select(within)

    def prepared_folders(self, split: Split) -> list[Path]:
        """Where images of the split may be prepared: with these settings, or with others."""
        return []

    def batches(self) -> tuple[NDArray[np.int64], ...] | None:
        """Published training batches in their order, as indices into `read("train")`; or None."""
        return None

    def notes(self) -> tuple[str, ...]:
        """Sentences that say what was found in the files, where that is not plain.

        Raises:
            SourceError: as `read`.
        """
        return ()

    def _within_limit(self, split: Split, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        limit = {"train": self.train_per_class, "test": self.test_per_class}[split]
        if limit is None:
            return np.ones(len(labels), np.bool_)
        return choose_per_class(self._class_keys(labels), lambda _: limit, [_LIMIT_SEED])

    def _class_keys(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """A number for each label's class, by which its images are chosen."""
        return labels

    @abstractmethod
    def _read(self, split: Split) -> LabelledImages:
        """All images of the split."""


class FileReader(Reader):
    """A reader of files, whose images are prepared once (see `streams/prepared.py`).

    Attributes:
        class_names: the name of label 0, of label 1, ...; where the files have names, these are
            found there unless they are given.
    """

    class_names: ClassNames = ()
    _where_lacking: ClassVar[str] = "Correct class_names or the files."

    @model_validator(mode="after")
    def _find_class_names(self) -> Self:
        names = self.class_names or self._names()
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        if repeated:
            raise ValueError(
                f"class_names: each class needs a name of its own; repeated: {', '.join(repeated)}"
            )
        for name in names:
            if not name.strip() or not is_text(name):
                raise ValueError(
                    f"class_names: {name!r} is no name: it has no letters, or signs that are no "
                    "text. Give the class another one in the files, or list the names."
                )
        object.__setattr__(self, "class_names", names)  # part of the settings from here on
        return self

    def read(self, split: Split) -> LabelledImages:  # noqa: D102
        return self._read(split)  # limits are applied before an image is decoded

    def prepared_folders(self, split: Split) -> list[Path]:  # noqa: D102
        name, settings = self._name_and_settings(split)
        places = {key: settings[key] for key, value in self if isinstance(value, Path)}
        return sorted({folder_of(name, settings), *folders_with(name, places)})

    def _read(self, split: Split) -> LabelledImages:
        name, settings = self._name_and_settings(split)
        return prepared(
            Job(
                name=name,
                settings=settings,
                files=self._files(split),
                contents=lambda: self._checked(split),
                limit=lambda labels: self._within_limit(split, labels),
                conversion=self,
                skip_damaged=getattr(self, "damaged", "refuse") == "skip",
            )
        )

    def _name_and_settings(self, split: Split) -> tuple[str, dict[str, Any]]:
        settings = self.model_dump(mode="json", exclude={"train_per_class", "test_per_class"})
        settings |= {"split": split, "limit": getattr(self, f"{split}_per_class")}
        paths = {key: value for key, value in self if isinstance(value, Path)}
        settings |= {key: os.path.abspath(path) for key, path in paths.items()}
        return f"{settings['reader']}-{split}", settings

    def _checked(self, split: Split) -> Contents:
        contents = self._contents(split)
        present = set(np.unique(contents.labels).tolist())
        lacking = [name for label, name in enumerate(self.class_names) if label not in present]
        if lacking:
            kind = {"train": "training", "test": "test"}[split]
            raise SourceError(
                f"{contents.where}: the source has no {kind} image of class {listed(lacking)}, but "
                f"each class needs at least one. {self._where_lacking}"
            )
        return contents

    def _names(self) -> ClassNames:
        """The names that the files have.

        Raises:
            ValueError: if they have none.
            SourceError: if they cannot be read.
        """
        raise ValueError("class_names is not set, and these files name no class: list the names.")

    @abstractmethod
    def _files(self, split: Split) -> Iterable[Path | str]:
        """All that is read for the split, in a fixed order.

        Raises:
            SourceError: if something is missing.
        """

    @abstractmethod
    def _contents(self, split: Split) -> Contents:
        """Labels, each one of a class name, and where the images are."""


def check_labels(
    labels: NDArray[np.int64], class_names: ClassNames, file: Path, item: str = "image"
) -> None:
    """Every label has a name.

    Args:
        labels: int64 [n].
        class_names: of 0, 1, ...
        file: where they are from.
        item: what one of them belongs to, for the message.

    Raises:
        SourceError: naming the first that has none, and its place.
    """
    outside = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(outside):
        worst = outside[np.argmax(labels[outside])]
        raise source_error(
            file,
            f"label {labels[worst]} ({item} {worst})",
            f"labels 0 to {len(class_names) - 1}, as class_names has {len(class_names)} names",
            "Name every class in class_names, whose first is label 0.",
        )


def check_count(images: int, labels: int, file: Path, other: Path | str) -> None:
    """There are as many images in `file` as labels in `other`."""
    if images != labels:
        raise source_error(
            file,
            f"{images} images",
            f"{labels}, one for each label in {getattr(other, 'name', other)}",
            "Fetch both files again, from one place.",
        )
