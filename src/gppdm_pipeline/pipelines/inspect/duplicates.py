"""Images that are there more than once, to the byte: within and across training and test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.images.labelled import LabelledImages

_CHUNK_BYTES = 1 << 26
_HASH_SEED = 64


@dataclass(frozen=True)
class Duplicates:
    """Copies, and where some of them are.

    Attributes:
        within_train: training images that are copies of another training image.
        within_test: test images that are copies of another test image.
        across: test images that are copies of a training image.
        of_other_classes: groups of equal images with more than one label.
        groups: the first of them, each as (indices of training images, of test images).
    """

    within_train: int
    within_test: int
    across: int
    of_other_classes: int
    groups: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


def find_duplicates(train: LabelledImages, test: LabelledImages, most: int = 10) -> Duplicates:
    """Find equal images by a hash, and compare those that share one byte by byte.

    Args:
        train: images; may be mapped from a file, and are read in parts.
        test: of the same shape.
        most: groups to name.
    """
    group, members = _groups(train, test)
    if not len(group):
        return Duplicates(0, 0, 0, 0, ())
    in_train = np.bincount(group, members < len(train)).astype(np.int64)
    in_test = np.bincount(group) - in_train
    labels = np.concatenate([train.labels, test.labels])[members]
    firsts = np.flatnonzero(np.diff(group, prepend=-1))
    mixed = np.maximum.reduceat(labels, firsts) != np.minimum.reduceat(labels, firsts)
    named = np.split(members, firsts[1:])[:most]
    return Duplicates(
        within_train=int(np.maximum(in_train - 1, 0).sum()),
        within_test=int(np.maximum(in_test - 1, 0).sum()),
        across=int(in_test[in_train > 0].sum()),
        of_other_classes=int(mixed.sum()),
        groups=tuple(
            (
                tuple(each[each < len(train)].tolist()),
                tuple((each[each >= len(train)] - len(train)).tolist()),
            )
            for each in named
        ),
    )


def _groups(
    train: LabelledImages, test: LabelledImages
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of every image that has an equal one: its group, from 0, and its place, train before test.

    Groups in the order of their first image, members ascending.
    """
    hashes = np.concatenate([hash_images(data.images) for data in (train, test)])
    order = np.argsort(hashes, kind="stable")
    alike = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    equal = np.zeros(len(order), np.bool_)  # whether an image equals the one before it
    step = max(1, _CHUNK_BYTES // train.images[:1].nbytes)
    for start in range(0, len(alike), step):
        at = alike[start : start + step]
        first, second = (_images_at(train, test, order[at + k]) for k in (0, 1))
        equal[at + 1] = (first == second).all(axis=(1, 2, 3))
    kept = equal | np.append(equal[1:], False)
    places, group = order[kept], np.cumsum(~equal[kept]) - 1
    first_of = np.full(group.max(initial=-1) + 1, len(order))
    np.minimum.at(first_of, group, places)
    rank = np.empty_like(first_of)
    rank[np.argsort(first_of)] = np.arange(len(first_of))
    again = np.lexsort((places, rank[group]))
    return rank[group][again], places[again]


def hash_images(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """A hash of each image, uint64 [n]: sums of its words, each times an odd number, modulo 2**64.

    Equal images have equal hashes; of others, few share one.

    Args:
        images: uint8 [n, h, w, c].
    """
    size = int(np.prod(images.shape[1:]))
    words = -(-size // 8)
    factors = np.random.default_rng(_HASH_SEED).integers(0, 2**64, words, np.uint64) | np.uint64(1)
    step = max(1, _CHUNK_BYTES // (8 * words))
    hashes = np.empty(len(images), np.uint64)
    for start in range(0, len(images), step):
        part = images[start : start + step]
        padded = np.zeros((len(part), 8 * words), np.uint8)
        padded[:, :size] = part.reshape(len(part), size)
        hashes[start : start + step] = (padded.view(np.uint64) * factors).sum(1, dtype=np.uint64)
    return hashes


def _images_at(
    train: LabelledImages, test: LabelledImages, places: NDArray[np.int64]
) -> NDArray[np.uint8]:
    images = np.empty((len(places), *train.image_shape), np.uint8)
    of_test = places >= len(train)
    images[~of_test] = train.images[places[~of_test]]
    images[of_test] = test.images[places[of_test] - len(train)]
    return images
