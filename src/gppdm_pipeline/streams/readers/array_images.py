"""Arrays of images in the shapes and ranges that people save them in, as 8-bit images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.streams.errors import SourceError, source_error
from gppdm_pipeline.streams.readers import npy

_EXPECTED = "images of 8 bits or from 0 to 1, [n, h, w] or with 1 or 3 channels behind, row by row"


@dataclass(frozen=True)
class Axes:
    """Where an array has its images' sides and channels.

    Attributes:
        images: how many there are.
        channels_first: whether it is [n, c, h, w].
    """

    images: int
    channels_first: bool


def read_axes(file: Path, key: str) -> Axes:
    """The axes of an array of images.

    Raises:
        SourceError: if it is no array of images, or one that is not read.
    """
    shape, fortran, dtype = npy.header(file, key)
    channels_first = len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3)
    repair = ""
    if dtype.hasobject:
        repair = "Python's objects are pickled and are not read: give all images one size."
    elif dtype.kind not in "uifb":
        repair = "Save the pixels as numbers."
    elif len(shape) == 2:
        repair = f"Save it with its sides, as {key}.reshape(len({key}), height, width)."
    elif len(shape) not in (3, 4) or 0 in shape:
        repair = "Save all images in one array, one behind the other."
    elif len(shape) == 4 and shape[3] not in (1, 3) and not channels_first:
        repair = "Images are grey or RGB: take other channels off."
    elif fortran:
        repair = f"Save numpy.ascontiguousarray({key})."
    if repair:
        raise source_error(file, f"{key} of {dtype} {list(shape)}", _EXPECTED, repair)
    return Axes(shape[0], channels_first)


@dataclass(frozen=True)
class Range:
    """The range of the pixels' values, and how they become 0 to 255.

    Attributes:
        low: the value that becomes 0.
        scale: of what lies above.
        note: what to say of it; empty where values are 0 to 255 already.
    """

    low: float = 0.0
    scale: float = 1.0
    note: str = ""


def read_range(file: Path, keys: Iterable[str]) -> Range:
    """The range of several arrays together; 8-bit arrays alone are not read for it.

    Raises:
        SourceError: as `read_axes`, or if their values are no pixels.
    """
    keys = list(keys)
    for key in keys:
        read_axes(file, key)
    if all(npy.header(file, key)[2] == np.uint8 for key in keys):
        return Range()
    least, most, whole = np.inf, -np.inf, True
    for key in keys:
        for block in npy.blocks(file, key)():
            values = block.astype(np.float64)
            least, most = min(least, values.min()), max(most, values.max())
            whole = whole and bool((values == np.round(values)).all())
            if not np.isfinite(values).all():
                raise _no_pixels(file, keys, "values that are not finite")
    kinds = {npy.header(file, key)[2].kind for key in keys}
    if len(kinds) > 1:
        raise _no_pixels(file, keys, "whole numbers and floats")
    if least >= 0 and most <= 1:
        note = f"Pixels of {_listed(keys)} are from 0 to 1: they are taken times 255."
        return Range(0, 255, note)
    if least >= -1 and most <= 1 and kinds == {"f"}:
        return Range(
            -1,
            127.5,
            f"Pixels of {_listed(keys)} are from -1 to 1: -1 is taken for black, 1 for white.",
        )
    if least >= 0 and most <= 255:
        rounded = "" if whole else f"Pixels of {_listed(keys)} are from 0 to 255: they are rounded."
        return Range(note=rounded)
    wide = "Save them with 8 bits." if whole and least >= 0 else ""
    raise _no_pixels(file, keys, f"values from {least:.4g} to {most:.4g}", wide)


def _no_pixels(file: Path, keys: list[str], found: str, repair: str = "") -> SourceError:
    return source_error(
        file,
        f"{found} in {_listed(keys)}",
        "values from 0 to 255, 0 to 1, or -1 to 1",
        repair or "Save pixels as they were before they were normalised or standardised.",
    )


def _listed(keys: list[str]) -> str:
    return ", ".join(keys)


def images(
    file: Path, key: str, axes: Axes, values: Range
) -> Callable[[], Iterator[NDArray[np.uint8]]]:
    """The images of an array in blocks, uint8 [k, h, w, c]."""

    def read() -> Iterator[NDArray[np.uint8]]:
        for block in npy.blocks(file, key)():
            yield _as_pixels(np.moveaxis(block, 1, 3) if axes.channels_first else block, values)

    return read


def _as_pixels(block: NDArray[Any], values: Range) -> NDArray[np.uint8]:
    block = block[..., np.newaxis] if block.ndim == 3 else block
    if block.dtype == np.uint8 and values.scale == 1:
        return block
    scaled = (block.astype(np.float64) - values.low) * values.scale
    return np.round(scaled).clip(0, 255).astype(np.uint8)
