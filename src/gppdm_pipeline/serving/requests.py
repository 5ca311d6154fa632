"""What a published model is asked: images as numbers, as base64 or as paths, and what is wrong."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.serving.classify import Columns
from gppdm_pipeline.serving.predictor import BATCH, Predictor
from gppdm_pipeline.streams.conversion import UndecodableError

MOST = 4096
"""Images in one request."""


class RequestError(ValueError):
    """A request that cannot be answered; the message says which image, and what would do."""


def answered(predictor: Predictor, images: Any, paths: bool = False) -> Columns:
    """The columns of `Answers.columns` for each image of a request.

    Args:
        predictor: what answers.
        images: at least one: uint8 [n, h, w] or [n, h, w, c], or a list of such images, of nested
            lists of whole numbers from 0 to 255, or of strings: image files in base64.
        paths: whether strings are paths of image files instead.

    Raises:
        RequestError: naming the first image that is none.
    """
    if not isinstance(images, list | np.ndarray):
        raise RequestError(
            f"the input is a {type(images).__name__}; give a list of images, or an array of them"
        )
    if not 1 <= len(images) <= MOST:
        raise RequestError(f"there are {len(images)} images; give 1 to {MOST} at once")
    columns: Columns = {}
    for start in range(0, len(images), BATCH):
        part = _pixels(predictor, images[start : start + BATCH], start, paths)
        for key, values in predictor.answers(part).columns().items():
            columns.setdefault(key, []).extend(values)
    return columns


def _pixels(
    predictor: Predictor, images: Iterable[Any], start: int, paths: bool
) -> NDArray[np.uint8]:
    found = []
    for number, image in enumerate(images, start=start):
        try:
            found.append(predictor.pixels(_read(image, paths)))
        except UndecodableError as error:
            raise RequestError(f"image {number}: {error}") from error
    return np.stack(found)


def _read(image: Any, paths: bool) -> bytes | Path | NDArray[np.uint8]:
    if isinstance(image, str):
        if paths:
            return Path(image)
        try:
            return base64.b64decode(image, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UndecodableError(
                f"a string that is no base64 ({error}); give an image file's bytes in base64, or "
                "nested lists of numbers"
            ) from error
    try:
        pixels = np.asarray(image)
    except ValueError as error:  # rows of different lengths
        raise UndecodableError("nested lists of different lengths") from error
    if pixels.dtype.kind not in "uif":
        raise UndecodableError(f"{_kind(image)}, not an image; give whole numbers from 0 to 255")
    if pixels.size and not (np.isfinite(pixels).all() and (pixels == np.rint(pixels)).all()):
        raise UndecodableError("numbers that are not whole; give whole numbers from 0 to 255")
    if pixels.size and not 0 <= pixels.min() <= pixels.max() <= 255:
        least, most = float(pixels.min()), float(pixels.max())
        raise UndecodableError(f"numbers from {least:g} to {most:g}; give 0 to 255")
    return pixels.astype(np.uint8)


def _kind(image: Any) -> str:
    if image is None:
        return "nothing"
    return f"a {type(image).__name__}"
