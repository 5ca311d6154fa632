"""A folder of images for each class."""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gppdm_pipeline.streams.errors import SourceError, listed, source_error
from gppdm_pipeline.streams.preparing import Contents
from gppdm_pipeline.streams.readers.base import ClassNames, FileReader, Split, UserPath, is_test

logger = logging.getLogger(__name__)

_SUFFIXES = tuple(
    ".png .jpg .jpeg .jpe .bmp .dib .gif .webp .ppm .pgm .pbm .pnm .tif .tiff".split()
)
_TESTS = ("test", "val", "validation")
_ANNOTATIONS = "val/val_annotations.txt"


class ImageFolder(FileReader):
    """A folder of images for each class, or such folders below train/ and test/ (or val/).

    Images may lie deeper in a class's folder. Without test images, a share of each class is set
    apart with a constant seed. Tiny-ImageNet is read as it is unpacked: the classes of wnids.txt in
    its order, their first names in words.txt, the test images of val/ by val_annotations.txt.

    Attributes:
        folder: holds the classes' folders, or train/.
        test_fraction: the share of each class that is for testing, if there is no folder of tests.
        damaged: "refuse" the folder if an image cannot be decoded, or "skip" such images.
        class_names: the classes that are used, in this order, by the names of their folders or by
            those in words.txt; all of them, in alphabetical order, unless they are given.
    """

    reader: Literal["image_folder"] = "image_folder"
    folder: UserPath
    test_fraction: float = Field(0.2, gt=0, le=0.5)
    damaged: Literal["refuse", "skip"] = "refuse"

    def _names(self) -> ClassNames:
        return tuple(self._named())

    def _files(self, split: Split) -> Iterable[str]:
        _, paths = self._listing(split)
        annotations = self.folder / _ANNOTATIONS
        return [*paths, *([str(annotations)] if annotations.is_file() else [])]

    def _contents(self, split: Split) -> Contents:
        ignored: Counter[str] = Counter()
        labels, paths = self._listing(split, ignored)
        if ignored:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(ignored.items()))
            logger.warning("%s: files that are no images by their names: %s", self.folder, kinds)
        return Contents(
            labels,
            lambda positions: ((paths[i], Path(paths[i])) for i in positions.tolist()),
            self.folder,
        )

    @property
    def _train(self) -> Path:
        train = self.folder / "train"
        return train if train.is_dir() else self.folder

    def _named(self) -> dict[str, str]:
        """The classes by name, each with its folder's name, in the data set's own order."""
        there = sorted(entry.name for entry in _entries(self._train) if entry.is_dir())
        there = [name for name in there if not name.startswith((".", "__"))]
        if not there or (self._train == self.folder and set(there) & set(_TESTS)):
            raise source_error(
                self.folder,
                f"the folders {listed(there)}" if there else "no folder in it",
                "a folder of images for each class, or these below train/",
                "Set `folder` to where they are.",
            )
        ids = self.folder / "wnids.txt"
        if ids.is_file():
            order = ids.read_text(encoding="utf-8").split()
            missing = [name for name in order if name not in there]
            if missing:
                raise source_error(
                    self._train, f"no folder {listed(missing)}", f"all of {ids}", "Unpack it again."
                )
            there = order
        words = _words(self.folder / "words.txt")
        names = [words.get(name, name) for name in there]
        shared = {name for name, count in Counter(names).items() if count > 1}
        return {
            f"{name} ({folder})" if name in shared else name: folder
            for name, folder in zip(names, there, strict=True)
        }

    def _folders(self) -> list[str]:
        """The name of each class's folder."""
        named = self._named()
        known = {**{folder: folder for folder in named.values()}, **named}
        for name in self.class_names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise source_error(
                    self._train,
                    f"no class {name!r}",
                    f"one of {listed([*named])}",
                    f"Correct class_names.{hint}",
                )
        return [known[name] for name in self.class_names]

    def _listing(
        self, split: Split, ignored: Counter[str] | None = None
    ) -> tuple[NDArray[np.int64], list[str]]:
        """Labels and paths, class after class, in alphabetical order."""
        folders = self._folders()
        ignored = Counter() if ignored is None else ignored
        if split == "test" and (self.folder / _ANNOTATIONS).is_file():
            return self._annotated(folders)
        tests = self._tests(folders)
        root = tests if split == "test" and tests is not None else self._train
        by_class = [sorted(images_below(root / folder, ignored)) for folder in folders]
        labels = np.repeat(np.arange(len(folders)), [len(paths) for paths in by_class])
        paths = [path for class_paths in by_class for path in class_paths]
        if tests is None and not (self.folder / _ANNOTATIONS).is_file():
            test = is_test(self._class_keys(labels), self.test_fraction)
            chosen = np.flatnonzero(test if split == "test" else ~test)
            labels, paths = labels[chosen], [paths[i] for i in chosen.tolist()]
        return labels, paths

    def _class_keys(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """By the folders' names: a new class changes the numbers of others, not their images."""
        names = (hashlib.sha256(os.fsencode(name)).digest()[:7] for name in self._folders())
        return np.array([int.from_bytes(name, "big") for name in names], np.int64)[labels]

    def _tests(self, folders: list[str]) -> Path | None:
        """The folder of the classes' test images, if there is one."""
        if self._train == self.folder:
            return None
        candidates = [self.folder / name for name in _TESTS]
        return next(
            (root for root in candidates if any((root / name).is_dir() for name in folders)), None
        )

    def _annotated(self, folders: list[str]) -> tuple[NDArray[np.int64], list[str]]:
        """Tiny-ImageNet's test images: a name, its class's folder, and a box in each line."""
        file = self.folder / _ANNOTATIONS
        known, label_of = set(self._named().values()), {name: i for i, name in enumerate(folders)}
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


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError as error:
        raise source_error(
            folder, "no such folder", "a folder of images", "Set `folder` to where the images are."
        ) from error
    except OSError as error:
        raise SourceError(
            f"{folder}: cannot be read ({error.strerror}). Allow reading, or correct the path."
        ) from error


def images_below(folder: Path | str, ignored: Counter[str]) -> Iterator[str]:
    """Paths of all image files in the folder and in those within; `ignored` counts other files."""
    if not os.path.isdir(folder):
        return  # a class without test images; told with all that lack some
    for entry in _entries(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from images_below(entry.path, ignored)
        elif entry.name.lower().endswith(_SUFFIXES):
            yield entry.path
        else:
            ignored[Path(entry.name).suffix or "without a suffix"] += 1


def _words(file: Path) -> dict[str, str]:
    """The first name of each class in ImageNet's words.txt."""
    if not file.is_file():
        return {}
    lines = (line.partition("\t") for line in file.read_text(encoding="utf-8").splitlines())
    return {folder: words.split(",")[0].strip() for folder, _, words in lines if words.strip()}
