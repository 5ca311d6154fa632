"""Arrays in .npz files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gppdm_pipeline.streams.errors import source_error
from gppdm_pipeline.streams.preparing import Contents
from gppdm_pipeline.streams.readers import npy
from gppdm_pipeline.streams.readers.array_images import images, read_axes, read_range
from gppdm_pipeline.streams.readers.base import (
    ClassNames,
    FileReader,
    Split,
    UserPath,
    check_count,
    is_test,
)
from gppdm_pipeline.streams.readers.labels import as_labels, names_in, texts
from gppdm_pipeline.streams.readers.rows import streamed

Part = Literal["train", "val", "test", "all"]

# Words of a key, in small letters and without what is between.
_IMAGES = ("images", "image", "imgs", "x", "data")
_LABELS = ("labels", "label", "y", "targets", "target")
_SPLITS: dict[Part, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_EXPECTED = (
    "train_images, train_labels, test_images and test_labels, Keras' x_train, y_train, x_test and "
    "y_test, or images and labels of one set"
)


class Npz(FileReader):
    """An .npz file with MedMNIST's keys (Yang et al. 2023, arXiv 2110.14795), Keras', or the like.

    Images are uint8 [n, h, w] or [n, h, w, c], c 1 or 3, or [n, c, h, w]; other numbers where they
    lie in 0..255, or floats in 0..1 or -1..1, which `notes` says. Labels are whole numbers [n] or
    [n, 1], one of several ones [n, classes], or text. Official splits are used; without any, a
    share of each class is for testing, with a constant seed. Nothing in it may be pickled.

    Attributes:
        file: the .npz file.
        validation: what becomes of val_images and val_labels: "ignore", or "train" to add them to
            the training images, out of which the pipeline takes its own validation images.
        test_fraction: the share of each class that is for testing, if the file has no test images,
            nor validation images to take in their place.
        class_names: the array class_names of the file, or the text labels in alphabetical order,
            unless they are given.
    """

    reader: Literal["npz"] = "npz"
    file: UserPath
    validation: Literal["ignore", "train"] = "ignore"
    test_fraction: float = Field(0.2, gt=0, le=0.5)

    def notes(self) -> tuple[str, ...]:  # noqa: D102
        keys = self._keys()
        pairs = [f"{images} with {labels}" for images, labels in keys.values()]
        found = [f"Images and labels are the arrays {', '.join(pairs)}."]
        if "test" not in keys:
            found.append("The file has no test images: a share of each class is set apart.")
        note = read_range(self.file, [images for images, _ in keys.values()]).note
        return tuple([*found, *([note] if note else [])])

    def _names(self) -> ClassNames:
        if "class_names" in npy.keys(self.file):
            found = npy.array(self.file, "class_names")
            if found.dtype.kind == "S":
                return tuple(texts(found, self.file, "class_names"))
            return tuple(map(str, found.tolist()))
        keys = [key for _, key in self._keys().values()]
        labels = {key: npy.array(self.file, key) for key in keys}
        names = {name for key in keys for name in names_in(labels[key], self.file, key)}
        return tuple(sorted(names)) or super()._names()

    def _files(self, split: Split) -> Iterable[Path]:
        return [self.file]

    def _contents(self, split: Split) -> Contents:
        keys = self._keys()
        parts = [keys.get(split, keys.get("train", keys.get("all", ("", ""))))]
        if "val" in keys and (split, self.validation) == ("train", "train"):
            parts.append(keys["val"])
        labels = np.concatenate([self._labels(*part) for part in parts])
        values = read_range(self.file, [pixels for pixels, _ in keys.values()])
        axes = {pixels: read_axes(self.file, pixels) for pixels, _ in parts}

        def blocks() -> Iterator[NDArray[np.uint8]]:
            for pixels, _ in parts:
                yield from images(self.file, pixels, axes[pixels], values)()

        rows = streamed(blocks)
        if "test" in keys:
            return Contents(labels, rows, self.file)
        test = is_test(self._class_keys(labels), self.test_fraction)
        chosen = np.flatnonzero(test if split == "test" else ~test)
        return Contents(labels[chosen], lambda places: rows(chosen[places]), self.file)

    def _labels(self, pixels: str, key: str) -> NDArray[np.int64]:
        found = npy.array(self.file, key)
        check_count(
            read_axes(self.file, pixels).images, np.atleast_1d(found).shape[0], self.file, key
        )
        return as_labels(found, self.class_names, self.file, key)

    def _keys(self) -> dict[Part, tuple[str, str]]:
        """The names of the arrays of images and labels, by part: train, val and test, or all.

        Raises:
            SourceError: if there are none, or several that could be meant.
        """
        there = npy.keys(self.file)
        parts: tuple[Part, ...] = ("train", "val", "test")
        found = {part: pair for part in parts if (pair := self._pair(part, there))}
        if "train" not in found and "test" not in found and (pair := self._pair("all", there)):
            return {"all": pair}
        if "train" not in found:
            raise source_error(
                self.file,
                f"the arrays {', '.join(there)}",
                _EXPECTED,
                "Save the arrays anew under such names.",
            )
        if "test" not in found and "val" in found and self.validation == "ignore":
            found["test"] = found.pop("val")
        return found

    def _pair(self, part: Part, there: list[str]) -> tuple[str, str] | None:
        pair = [self._key(part, words, there) for words in (_IMAGES, _LABELS)]
        if all(pair):
            return pair[0], pair[1]
        return None

    def _key(self, part: Part, words: tuple[str, ...], there: list[str]) -> str:
        """The array that is called so in any of the usual ways; empty if none is."""
        names = {*words, *(("arr0",) if words is _IMAGES else ("arr1",))}
        if part != "all":
            spellings = ((split, word) for split in _SPLITS[part] for word in words)
            names = {name for a, b in spellings for name in (a + b, b + a)}
        found = [key for key in there if re.sub(r"[\W_]", "", key.casefold()) in names]
        if len(found) > 1:
            raise source_error(
                self.file,
                f"the arrays {', '.join(found)}",
                "one of them",
                "Save the file anew without those that are not meant.",
            )
        return found[0] if found else ""
