"""The one form in which images travel between stages: 8-bit arrays with integer labels."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IN_MEMORY = 1 << 28
"""Bytes of images from which on they lie in a file and are mapped."""


def room_for(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An array to be filled, uint8, of any content.

    More than `IN_MEMORY` bytes lie in a file that has no name and goes with the array ($TMPDIR says
    where): memory holds what is in use.

    Raises:
        OSError: if the disk has no room for it.
    """
    size = math.prod(shape)
    if size <= IN_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):  # a full disk is an error now, and not a crash later
            os.posix_fallocate(file.fileno(), 0, size)
        return np.asarray(np.memmap(file, np.uint8, "w+", shape=shape))


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and their classes.

    Attributes:
        images: uint8 [n, height, width, channels], 0 to 255.
        labels: int64 [n], class indices in the data set's own numbering.

    Raises:
        ValueError: if dtypes, dimensions or lengths are not as above.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise ValueError(
                "images must be uint8 [n, height, width, channels], got "
                f"{self.images.dtype} {list(self.images.shape)}"
            )
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels must be int64 [{len(self.images)}], got "
                f"{self.labels.dtype} {list(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes present, ascending."""
        return tuple(int(label) for label in np.unique(self.labels))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def select(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> LabelledImages:
        """The images at `index` (integers or a mask), copied."""
        return LabelledImages(self.images[index], self.labels[index])

    def of_classes(self, classes: Iterable[int]) -> LabelledImages:
        """Only the images whose label is one of `classes`."""
        return self.select(np.isin(self.labels, list(classes)))

    @classmethod
    def concatenate(cls, parts: Sequence[LabelledImages]) -> LabelledImages:
        """All parts, one after the other; at least one, all of one image shape."""
        images = [part.images for part in parts]
        total = sum(map(len, images))
        room = room_for((total, *images[0].shape[1:])) if images else None
        return cls(
            np.concatenate(images, out=room), np.concatenate([part.labels for part in parts])
        )

    @classmethod
    def empty(cls, image_shape: tuple[int, int, int]) -> LabelledImages:
        """No image, of the given (height, width, channels)."""
        return cls(np.empty((0, *image_shape), np.uint8), np.empty(0, np.int64))
