"""Whether drawn images are copies of training images, by distances to nearest neighbours.

n, m, h = numbers of training, drawn and held-out images of one class, d = dimensions: pixels, or
the features of an extractor. What a drawn image is near to by chance is told by held-out images,
which nothing has learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.evaluation.distances import Features, pairwise_distances

NEIGHBOURS = 50
"""Training images that say what near is."""
RATIO = 0.5
"""alpha: how many times nearer than these a copy is."""
FEWEST = 3
"""Images of a class, of each kind, below which nothing is said of it."""


class Memorisation(TypedDict):
    """Drawn images of one class beside its training images; distances are medians."""

    drawn: int
    train: int
    held_out: int
    distance: float
    distance_of_held_out: float
    copying: float
    """z of a Mann-Whitney test that drawn images are as far from training images as held-out ones;
    below -3 they are nearer than chance allows (Meehan et al. 2020, arXiv 2004.05675)."""
    copied: float
    """Share that is much nearer to one training image than to the next (Carlini et al. 2023, arXiv
    2301.13188, with alpha 0.5)."""
    copied_of_held_out: float
    authentic: float
    """Share that is farther from its nearest training image than that one from another (Alaa et
    al. 2022, arXiv 2102.08921); half or more, where drawn images are like new real ones."""


def memorisation(drawn: Features, train: Features, held_out: Features) -> Memorisation | None:
    """The copying tests of one class; None where there are too few images of any kind.

    Args:
        drawn: [m, d].
        train: [n, d].
        held_out: [h, d].
    """
    if min(len(drawn), len(train), len(held_out)) < FEWEST:
        return None
    ours, theirs = (pairwise_distances(points, train) for points in (drawn, held_out))
    nearest = ours.argmin(1)
    own = pairwise_distances(train[nearest], train)
    own[np.arange(len(own)), nearest] = np.inf
    return Memorisation(
        drawn=len(drawn),
        train=len(train),
        held_out=len(held_out),
        distance=_rounded(np.median(ours.min(1))),
        distance_of_held_out=_rounded(np.median(theirs.min(1))),
        copying=_rounded(_rank_z(ours.min(1), theirs.min(1))),
        copied=_rounded((copy_ratio(ours) < 1).mean()),
        copied_of_held_out=_rounded((copy_ratio(theirs) < 1).mean()),
        authentic=_rounded((ours.min(1) > own.min(1)).mean()),
    )


def copy_ratio(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Carlini et al. 2023, eq. 2: the nearest over alpha times the mean of the next; below 1, copy.

    Args:
        distances: [m, n] from each image to each of n >= 2 training images.

    Returns:
        float64 [m].
    """
    ordered = np.sort(distances, 1)[:, : NEIGHBOURS + 1]
    usual = RATIO * ordered[:, 1:].mean(1)
    ratios: NDArray[np.float64] = ordered[:, 0] / np.maximum(usual, np.finfo(np.float64).tiny)
    return ratios


def nearest_pairs(drawn: Features, train: Features, count: int) -> list[tuple[int, int]]:
    """The `count` drawn images that are nearest to a training image, and which one each is near."""
    distances = pairwise_distances(drawn, train)
    order = distances.min(1).argsort(kind="stable")[:count]
    return [(int(i), int(distances[i].argmin())) for i in order]


def in_all(classes: Mapping[str, Memorisation | None]) -> Memorisation | None:
    """All classes together: shares over all drawn images, the rest weighted by training images.

    The z is then C_T of Meehan et al. 2020, eq. 5, with the classes as cells.
    """
    found = [each for each in classes.values() if each]
    if not found:
        return None

    def mean(name: str, by: str) -> float:
        values, weights = ([float(each[key]) for each in found] for key in (name, by))  # type: ignore[literal-required]
        return _rounded(np.average(values, weights=weights))

    return Memorisation(
        drawn=sum(each["drawn"] for each in found),
        train=sum(each["train"] for each in found),
        held_out=sum(each["held_out"] for each in found),
        distance=mean("distance", "train"),
        distance_of_held_out=mean("distance_of_held_out", "train"),
        copying=mean("copying", "train"),
        copied=mean("copied", "drawn"),
        copied_of_held_out=mean("copied_of_held_out", "held_out"),
        authentic=mean("authentic", "drawn"),
    )


def _rank_z(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The Mann-Whitney statistic as a normal deviate; negative where `one` is smaller."""
    m, n = len(one), len(other)
    above = (np.sign(one[:, np.newaxis] - other) + 1).sum() / 2
    return float((above - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12))


def _rounded(value: float | np.floating[Any]) -> float:
    return float(f"{float(value):.4g}")
