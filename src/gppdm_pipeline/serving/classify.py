"""Many images through a predictor: in constant memory, and none is lost."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.serving.predictor import BATCH, Predictor
from gppdm_pipeline.streams.conversion import UndecodableError
from gppdm_pipeline.streams.preparing import Image

Columns = dict[str, list[Any]]
_PART = 32  # images that a thread decodes at once


@dataclass(frozen=True)
class Rows:
    """Predictions that are made while they are gone through.

    Attributes:
        predictor: what answers.
        items: names and images.
    """

    predictor: Predictor
    items: Iterable[tuple[str, Image]]

    def __iter__(self) -> Iterator[Columns]:
        """As `classified`."""
        return classified(self.predictor, self.items)


def classified(predictor: Predictor, items: Iterable[tuple[str, Image]]) -> Iterator[Columns]:
    """Classify images, `BATCH` at a time; the next ones are read while the network computes.

    Args:
        predictor: what answers.
        items: names and images, as `streams.unlabelled` gives them.

    Yields:
        Columns `file`, those of `Answers.columns`, and `problem`: what is wrong with an image that
        is damaged, whose other columns are None; else None. One row for each item, in their order.
    """
    batches = _batches(predictor, items)
    with ThreadPoolExecutor(1, "reader") as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield _rows(predictor, *batch)


def _batches(
    predictor: Predictor, items: Iterable[tuple[str, Image]]
) -> Iterator[tuple[list[str], list[NDArray[np.uint8] | str]]]:
    """Names, and pixels or what is wrong; files are decoded in parts, each in a thread."""
    iterator = iter(items)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while batch := list(islice(iterator, BATCH)):
            names, images = zip(*batch, strict=True)
            parts = [images[start : start + _PART] for start in range(0, len(images), _PART)]
            decoded = all(isinstance(image, np.ndarray) for image in images)
            each = (map if decoded else pool.map)(partial(_pixels, predictor), parts)
            yield list(names), [pixels for part in each for pixels in part]


def _pixels(predictor: Predictor, images: Sequence[Image]) -> list[NDArray[np.uint8] | str]:
    """The pixels of each, or what is wrong."""
    found: list[NDArray[np.uint8] | str] = []
    for image in images:
        try:
            found.append(predictor.pixels(image))
        except UndecodableError as error:
            found.append(str(error))
    return found


def _rows(
    predictor: Predictor, names: list[str], results: list[NDArray[np.uint8] | str]
) -> Columns:
    images = [result for result in results if not isinstance(result, str)]
    stacked = np.stack(images) if images else np.empty((0, *predictor.image_shape), np.uint8)
    answers = predictor.answers(stacked).columns()
    problems = [result if isinstance(result, str) else None for result in results]
    if len(images) < len(names):  # damaged ones have a row each, too
        for key, values in answers.items():
            good = iter(values)
            answers[key] = [next(good) if problem is None else None for problem in problems]
    return {"file": names, **answers, "problem": problems}
