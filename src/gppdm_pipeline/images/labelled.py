"""The one form in which images travel between stages: arrays with integer labels.

Pixels are 8-bit; what a frozen encoder has made of them is float16 (see `gppdm_pipeline.spaces`).
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

IN_MEMORY = 1 << 28
"""Bytes of images from which on they lie in a file and are mapped."""
_PIECE = 1 << 24


class RoomError(OSError):
    """There is no room for many images; the message says where, and what to do."""


def let_go(images: NDArray[Any]) -> None:
    """Give memory back that a mapped file takes; the images stay as they are, in the file."""
    base: object = images
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


class Room:
    """Room for images that come in pieces.

    More than `IN_MEMORY` bytes lie in a file that has no name and goes with the array ($TMPDIR says
    where): memory holds what is in use.

    Attributes:
        images: of the shape and dtype (uint8 by default) that were asked for, of any content.

    Raises:
        RoomError: if the disk has no room for it.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> None:
        """An array of this shape, to be filled."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size <= IN_MEMORY:
            self.images: NDArray[Any] = np.empty(shape, dtype)
            return
        try:
            with tempfile.TemporaryFile() as file:
                file.truncate(size)
                if hasattr(os, "posix_fallocate"):  # a full disk is an error now, no crash later
                    os.posix_fallocate(file.fileno(), 0, size)
                mapped = mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise RoomError(
                f"{tempfile.gettempdir()}: {size / 1e9:.1f} GB of images do not fit "
                f"({error.strerror or error}). Free space, or set the environment variable TMPDIR "
                "to a folder elsewhere; the same command then goes on."
            ) from error
        self.images = np.ndarray(shape, dtype, mapped)

    def put(self, start: int, images: NDArray[Any]) -> None:
        """Put a piece at `start`; a file takes it at once, so that it does not stay in memory."""
        self.images[start : start + len(images)] = images
        let_go(self.images)

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        pieces: Iterable[NDArray[Any]],
        dtype: DTypeLike = np.uint8,
    ) -> NDArray[Any]:
        """An array of this shape, filled with pieces that come one after the other."""
        room, start = cls(shape, dtype), 0
        for piece in pieces:
            room.put(start, piece)
            start += len(piece)
        return room.images


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and their classes.

    Attributes:
        images: uint8 [n, height, width, channels], 0 to 255; or float16, where an encoder has
            made them: [n, 1, 1, d] of vectors.
        labels: int64 [n], class indices in the data set's own numbering.
        picture_shape: (height, width, channels) of the pictures that an encoder has made these of;
            None where they are pictures themselves, or it is not known.

    Raises:
        ValueError: if dtypes, dimensions or lengths are not as above.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    picture_shape: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.images.dtype not in (np.uint8, np.float16) or self.images.ndim != 4:
            raise ValueError(
                "images must be uint8 or float16 [n, height, width, channels], got "
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
        labels = self.labels[index]
        if len(labels) * math.prod(self.image_shape) * self.images.itemsize <= IN_MEMORY:
            return LabelledImages(self.images[index], labels)
        places = np.arange(len(self))[index]
        pieces = (self.images[places[piece]] for piece in _pieces(len(places), self.image_shape))
        shape, dtype = (len(places), *self.image_shape), self.images.dtype
        return LabelledImages(Room.of(shape, pieces, dtype), labels)

    def of_classes(self, classes: Iterable[int]) -> LabelledImages:
        """Only the images whose label is one of `classes`."""
        wanted = np.isin(self.labels, list(classes))
        return self if wanted.all() else self.select(wanted)

    def first_of_each(self, count: int) -> LabelledImages:
        """The first `count` images of each class, class after class."""
        parts = [np.flatnonzero(self.labels == label)[:count] for label in self.classes]
        return self.select(np.concatenate([np.empty(0, np.int64), *parts]))

    @classmethod
    def concatenate(cls, parts: Sequence[LabelledImages]) -> LabelledImages:
        """All parts, one after the other; at least one, all of one image shape."""
        shape = parts[0].image_shape
        if any(part.image_shape != shape for part in parts):
            raise ValueError(
                f"images of {sorted({part.image_shape for part in parts})} are not of one shape"
            )
        pieces = (part.images[piece] for part in parts for piece in _pieces(len(part), shape))
        images = Room.of((sum(map(len, parts)), *shape), pieces, parts[0].images.dtype)
        return cls(images, np.concatenate([part.labels for part in parts]))

    @classmethod
    def empty(cls, image_shape: tuple[int, int, int]) -> LabelledImages:
        """No image, of the given (height, width, channels)."""
        return cls(np.empty((0, *image_shape), np.uint8), np.empty(0, np.int64))


def _pieces(count: int, image_shape: tuple[int, int, int]) -> Iterator[slice]:
    """Parts of `count` images of about `_PIECE` bytes."""
    size = max(1, _PIECE // max(1, math.prod(image_shape)))
    return (slice(start, start + size) for start in range(0, count, size))
