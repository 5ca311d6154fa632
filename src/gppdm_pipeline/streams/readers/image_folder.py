"""A folder of images for each class."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from functools import cache
from itertools import chain
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator

from gppdm_pipeline.streams.errors import printable, source_error
from gppdm_pipeline.streams.folders.entries import (
    Skipped,
    entries,
    identity,
    images_below,
    is_folder,
)
from gppdm_pipeline.streams.folders.layout import ANNOTATIONS, Layout, find_layout
from gppdm_pipeline.streams.folders.layout import Split as Folders
from gppdm_pipeline.streams.folders.looks import SIDE, look_of
from gppdm_pipeline.streams.folders.names import composed
from gppdm_pipeline.streams.folders.notes import notes_on_masks
from gppdm_pipeline.streams.folders.places import ClassFolders
from gppdm_pipeline.streams.names import number_hint
from gppdm_pipeline.streams.preparing import Contents
from gppdm_pipeline.streams.readers.base import ClassNames, FileReader, Split, UserPath, is_test
from gppdm_pipeline.wording import listed, nearest

logger = logging.getLogger(__name__)


class ImageFolder(FileReader):
    """A folder of images for each class, or such folders below train/ and test/ (or val/).

    Splits are known in any usual spelling (Training, train2017, val_images), folders that systems
    and programs make are left out, and wrappers such as archive/images/ are looked through; `notes`
    tells all of it, and what cannot be told is refused. Images may lie deeper in a class's folder.
    Without test images, a share of each class is set apart with a constant seed. Tiny-ImageNet is
    read as it is unpacked: the classes of wnids.txt in its order, their first names in words.txt,
    the test images of val/ by val_annotations.txt, or from val/ sorted into folders.

    Attributes:
        folder: holds the classes' folders, or train/, or a folder with these.
        test_fraction: the share of each class that is for testing, if there is no folder of tests.
        damaged: "refuse" the folder if an image cannot be decoded, or "skip" such images.
        class_folders: of folders that hold no image but folders, whether the "outermost" ones are
            the classes or the "innermost" ones, named by their path; None refuses them. Places365's
            a/airfield is understood without it.
        resize, colour: as every reader's; "auto": as `look_of` finds, small images as they are.
            `side` in the validation's context says of how many pixels a side images are at most.
        class_names: the classes that are used, in this order, by the names of their folders or by
            those in words.txt; all of them, in alphabetical order, unless they are given.
    """

    reader: Literal["image_folder"] = "image_folder"
    folder: UserPath
    test_fraction: float = Field(0.2, gt=0, le=0.5)
    damaged: Literal["refuse", "skip"] = "refuse"
    class_folders: ClassFolders | None = None
    resize: PositiveInt | tuple[PositiveInt, PositiveInt] | Literal["auto"] | None = None  # type: ignore[assignment]
    colour: Literal["as_is", "grey", "rgb", "auto"] = "as_is"  # type: ignore[assignment]
    _where_lacking: ClassVar[str] = (
        "Add images (two of a class, one to learn from and one to be tested on; PNG, JPEG, BMP, "
        "GIF, WebP, TIFF or PPM), or name the classes to use in class_names."
    )

    @field_validator("class_names")
    @classmethod
    def _compose(cls, names: ClassNames) -> ClassNames:
        return tuple(map(composed, names))

    @model_validator(mode="after")
    def _find_look(self, info: ValidationInfo) -> Self:
        if "auto" not in (self.resize, self.colour):
            return self
        most = (info.context or {}).get("side", SIDE)
        size, colour = look_of(self._listing(self._layout(), "train", Skipped())[1], most)
        for key, found in (("resize", size), ("colour", colour)):
            if getattr(self, key) == "auto":
                object.__setattr__(self, key, found)  # part of the settings from here on
        return self

    def notes(self) -> tuple[str, ...]:  # noqa: D102
        layout, skipped = self._layout(), Skipped()
        for split in ("train", "test") if layout.test else ("train",):
            self._listing(layout, split, skipped)
        splits: tuple[Split, ...] = ("train", "test")
        parts = [self._listing(layout, split, Skipped())[1] for split in splits]
        masks = notes_on_masks(chain(*parts))
        return tuple(map(printable, (layout.found, *layout.notes, *skipped.told(), *masks)))

    def _names(self) -> ClassNames:
        return tuple(self._layout().names())

    def _layout(self) -> Layout:
        return find_layout(self.folder, self.class_names, self.class_folders)

    def _files(self, split: Split) -> Iterable[str]:
        layout, skipped = self._layout(), Skipped()
        _, paths = self._listing(layout, split, skipped)
        _tell(logging.INFO, self.folder, layout.found)
        for note in (*layout.notes, *skipped.told()):
            _tell(logging.WARNING, self.folder, note)
        return [*paths, *([str(layout.base / ANNOTATIONS)] if layout.annotated else [])]

    def _contents(self, split: Split) -> Contents:
        labels, paths = self._listing(self._layout(), split, Skipped())
        return Contents(
            labels,
            lambda positions: ((paths[i], Path(paths[i])) for i in positions.tolist()),
            self.folder,
        )

    def _folders(self, layout: Layout) -> list[str]:
        """The folder's name of each class."""
        named = layout.names()
        known = {**{folder: folder for folder in named.values()}, **named}
        for name in self.class_names:
            if name not in known:
                near = nearest(name, known)
                hint = f" Did you mean {near!r}?" if near else ""
                raise source_error(
                    layout.train.place.path,
                    f"no class {name!r}{number_hint(name)}",
                    f"one of {listed([*named])}",
                    f"Correct class_names.{hint}",
                )
        return [known[name] for name in self.class_names or named]

    def _listing(
        self, layout: Layout, split: Split, skipped: Skipped
    ) -> tuple[NDArray[np.int64], list[str]]:
        """Labels and paths, class after class, in alphabetical order."""
        folders = self._folders(layout)
        if split == "test" and layout.annotated:
            return self._annotated(layout, folders)
        root = layout.test if split == "test" and layout.test else layout.train
        by_class = _paths(root, folders, skipped)
        labels = np.repeat(np.arange(len(folders)), [len(paths) for paths in by_class])
        paths = [path for class_paths in by_class for path in class_paths]
        if layout.test is None and not layout.annotated:
            test = is_test(_keys(folders)[labels], self.test_fraction)
            chosen = np.flatnonzero(test if split == "test" else ~test)
            labels, paths = labels[chosen], [paths[i] for i in chosen.tolist()]
        return labels, paths

    def _class_keys(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        return _keys(self._folders(self._layout()))[labels]

    def _annotated(self, layout: Layout, folders: list[str]) -> tuple[NDArray[np.int64], list[str]]:
        """Tiny-ImageNet's test images: a name, its class's folder, and a box in each line."""
        file = layout.base / ANNOTATIONS
        known, label_of = set(layout.names().values()), {name: i for i, name in enumerate(folders)}
        found: list[tuple[int, str]] = []
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            name, folder, *_ = [*line.split("\t"), "", ""]
            if folder not in known or Path(name).name != name:
                raise source_error(
                    file,
                    f"{line[:80]!r} (row {number})",
                    "the name of an image and of a class's folder, with tabs between",
                    "Fetch the file again.",
                )
            if folder in label_of:
                found.append((label_of[folder], str(file.parent / "images" / name)))
        found.sort()
        return np.array([label for label, _ in found], np.int64), [path for _, path in found]


def _keys(folders: list[str]) -> NDArray[np.int64]:
    """A number for each folder, by its name: a new class changes the labels of others, not it."""
    digests = (hashlib.sha256(os.fsencode(name)).digest()[:7] for name in folders)
    return np.array([int.from_bytes(digest, "big") for digest in digests], np.int64)


def _paths(split: Folders, folders: list[str], skipped: Skipped) -> list[list[str]]:
    """The images of each class, by name; a class that the split does not have has none."""
    root = split.place.path
    of_classes = {
        name: [str(root / folder) for folder in split.classes.get(name, ())] for name in folders
    }
    above = {*split.place.above, identity(root)}
    for entry in entries(root, skipped):
        if is_folder(entry) and identity(entry.path) in above:
            skipped.links[entry.name] += 1
    known = frozenset({*above, *(identity(x) for among in of_classes.values() for x in among)})
    return [
        sorted(
            (path for folder in of_classes[name] for path in images_below(folder, known, skipped)),
            key=lambda path: (composed(path), path),
        )
        for name in folders
    ]


@cache  # once in a process: every task reads its source
def _tell(level: int, folder: Path, note: str) -> None:
    logger.log(level, "%s", printable(f"{folder}: {note}"))
