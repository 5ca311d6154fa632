"""Test images that look like a training image without being equal: scaled or encoded anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.images.labelled import LabelledImages

_SEARCHED, _COMPARED = 8, 16  # sides of the grey versions by which pairs are found, and compared
_TOGETHER = 1 << 14  # small versions of training images in memory
_CHUNK_BYTES = 1 << 26
_PLAIN = 4.0  # grey levels: images with less contrast all look alike
# Scaled to a half and encoded anew as JPEG, patches of photographs differ by 0.05 of their contrast
# in the median, by 0.09 in 95 of 100; the nearest of MNIST's and scikit-learn's digits by more than
# 0.12.
_ALIKE = 0.12
"""Largest difference of a pair, as a share of the contrast."""


@dataclass(frozen=True)
class NearCopies:
    """Pairs of images that look alike.

    Attributes:
        count: test images that look like a training image, and equal none.
        pairs: the first of them: (index of the training image, of the test image).
    """

    count: int
    pairs: tuple[tuple[int, int], ...]


def find_near_copies(train: LabelledImages, test: LabelledImages, most: int = 10) -> NearCopies:
    """Find each test image's nearest training image on a small grey version, and compare the two.

    Memory holds the small versions of the test images and of a block of the training images. Copies
    that are cut out, mirrored or turned are not found.

    Args:
        train: images; may be mapped from a file, and are read in parts.
        test: of the same shape.
        most: pairs to name.
    """
    from sklearn.metrics import (  # type: ignore[import-untyped]  # noqa: PLC0415 (slow)
        pairwise_distances_argmin_min,
    )

    small = grey_versions(test.images, _SEARCHED)
    nearest = np.zeros(len(test), np.int64)
    least = np.full(len(test), np.inf)
    for start in range(0, len(train), _TOGETHER):
        block = grey_versions(train.images[start : start + _TOGETHER], _SEARCHED)
        place, distance = pairwise_distances_argmin_min(small, block)
        nearer = distance < least
        nearest[nearer], least[nearer] = start + place[nearer], distance[nearer]
    alike = np.zeros(len(test), np.bool_)
    for part in _chunks(test.images):
        alike[part] = _look_alike(train.images[nearest[part]], test.images[part])
    found = np.flatnonzero(alike)
    pairs = zip(nearest[found[:most]].tolist(), found[:most].tolist(), strict=True)
    return NearCopies(len(found), tuple(pairs))


def _look_alike(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Of each pair, uint8 [n, h, w, c]: whether they look alike and are not equal; bool [n]."""
    a, b = grey_versions(first, _COMPARED), grey_versions(second, _COMPARED)
    contrast = np.minimum(a.std(axis=1), b.std(axis=1))
    difference = np.sqrt(np.square(a - b).mean(axis=1))
    alike = (contrast > _PLAIN) & (difference < _ALIKE * contrast)
    found: NDArray[np.bool_] = alike & (first != second).any(axis=(1, 2, 3))
    return found


def grey_versions(images: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Small grey versions, float32 [n, k], k at most side**2, 0 to 255: means of areas.

    Args:
        images: uint8 [n, h, w, c].
        side: of the version; a shorter side of the image stays as it is.
    """
    parts = [_grey_version(images[part], side) for part in _chunks(images)]
    return np.concatenate(parts)


def _grey_version(images: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    small: NDArray[np.float32] = images.mean(axis=3, dtype=np.float32)
    for axis, length in ((1, images.shape[1]), (2, images.shape[2])):
        edges = np.arange(min(side, length)) * length // min(side, length)
        sizes = np.diff(edges, append=length).astype(np.float32)
        sums = np.add.reduceat(small, edges, axis=axis)
        small = sums / (sizes[:, np.newaxis] if axis == 1 else sizes)
    return small.reshape(len(images), -1)


def _chunks(images: NDArray[np.uint8]) -> Iterator[slice]:
    step = max(1, _CHUNK_BYTES // (4 * int(np.prod(images.shape[1:]))))
    return (slice(start, start + step) for start in range(0, len(images), step))
