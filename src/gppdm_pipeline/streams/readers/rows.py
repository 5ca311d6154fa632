"""Images that are rows of an array, in memory or in a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Rows = Callable[[NDArray[np.int64]], Iterator[tuple[str, NDArray[np.uint8]]]]


def numbered(images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> Rows:
    """The images at given positions, each with its number as its name."""
    return lambda positions: ((f"image {i}", images[i]) for i in positions.tolist())


def streamed(blocks: Callable[[], Iterable[NDArray[np.uint8]]]) -> Rows:
    """The images at ascending positions of a stream of blocks [k, h, w, c], read to its end."""

    def rows(positions: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        first = 0
        for block in blocks():
            start, end = np.searchsorted(positions, [first, first + len(block)])
            for i in positions[start:end].tolist():
                yield f"image {i}", block[i - first]
            first += len(block)

    return rows
