"""Which size and colours suit the images of a folder, where the user leaves that to the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

from gppdm_pipeline.streams.conversion import FORMATS, GREY_MODES

SIDE = 32
"""Larger images are made so small where pixels are learnt: what a CPU can learn to draw in minutes
a task."""
_LEAST, _UNIT = 8, 4  # sides that the networks can halve twice
_SAMPLE = 64
_ORIENTATION = 0x0112  # of EXIF; from 5 on, height and width are exchanged

Size = int | tuple[int, int]


def look_of(files: Sequence[str], most: int = SIDE) -> tuple[Size, Literal["grey", "rgb"]]:
    """The size and the colours in which images are learnt.

    Images of one size, of `most` pixels a side at most, keep it, up to the next multiple of 4.
    Others become squares of their usual shorter side, of `most` at most. They are grey if all of
    them are, whether they are saved so or as colours. 64 of them are looked at, spread over all.

    Args:
        files: image files; those that cannot be read are passed over.
        most: pixels.

    Returns:
        One number for both sides or (height, width), and the colours; `most` and "rgb" if none can
        be read.
    """
    chosen = np.unique(np.linspace(0, len(files) - 1, min(_SAMPLE, len(files))).round().astype(int))
    sizes: list[tuple[int, int]] = []
    grey = True
    for place in chosen.tolist():
        try:
            with Image.open(files[place], formats=FORMATS) as image:
                turned = image.getexif().get(_ORIENTATION, 1) >= 5
                size = image.size if turned else image.size[::-1]
                grey = grey and _is_grey(image)
                sizes.append(size)
        except Exception:  # decoders raise whatever damaged data make them stumble over
            continue
    if not sizes:
        return most, "rgb"
    if len({*sizes}) > 1 or max(sizes[0]) > most:
        shorter = float(np.median([min(size) for size in sizes]))
        sizes = [(_rounded(shorter, most),) * 2]
    height, width = (_rounded(side, most) for side in sizes[0])
    return (height if height == width else (height, width)), "grey" if grey else "rgb"


def _rounded(side: float, most: int) -> int:
    return min(max(-int(-side // _UNIT) * _UNIT, _LEAST), most)


def _is_grey(image: Image.Image) -> bool:
    if image.mode in GREY_MODES:
        return True
    image.draft("RGB", (SIDE, SIDE))  # a JPEG is decoded that small
    return not np.ptp(np.asarray(image.convert("RGB")), axis=2).any()
