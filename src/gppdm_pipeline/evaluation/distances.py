"""How far generated images are from real ones, as points in the space of a feature extractor.

n and m = numbers of points, d = dimensions. All of it is computed in float64 and without random
numbers. The numbers depend on the extractor and on n: only those of one extractor, and of as many
images, can be set side by side.

Own formulas, because torchmetrics draws the subsets of its kernel distance from torch's global
generator, and prdc prints; the tests hold these functions against both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Features = NDArray[np.floating[Any]]
_DEGREE = 3  # of the kernel, as in all published numbers


def frechet_distance(one: Features, other: Features) -> float:
    """Between the Gaussians that have the mean and the covariance of either set.

    |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)), Heusel et al. 2017 (arXiv 1706.08500),
    equation 6, with unbiased covariances. With A^T A = S_1 and B^T B = S_2, the trace of the root
    is the sum of the singular values of A B^T, which needs no root of a singular matrix.

    Args:
        one: [n, d], n >= 2.
        other: [m, d], m >= 2.

    Returns:
        At least 0; in squared units of the features.
    """
    shift = one.mean(0, dtype=np.float64) - other.mean(0, dtype=np.float64)
    roots = [_root(points) for points in (one, other)]
    overlap = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    spread = sum(float((root**2).sum()) for root in roots)
    return max(0.0, float(shift @ shift + spread - 2 * overlap))


def kernel_distance(one: Features, other: Features) -> float:
    """The squared maximum mean discrepancy, unbiased, with the kernel (x y / d + 1)^3.

    Binkowski et al. 2018 (arXiv 1801.01401), equation 4, over all points at once: no subsets.

    Args:
        one: [n, d], n >= 2.
        other: [m, d], m >= 2.

    Returns:
        About 0 for sets of one distribution, where it may be negative.
    """
    x, y = one.astype(np.float64), other.astype(np.float64)
    within = sum(_mean_off_diagonal(_kernel(points, points)) for points in (x, y))
    return float(within - 2 * _kernel(x, y).mean())


class Prdc(NamedTuple):
    """Shares in 0..1; density may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Features, generated: Features, nearest: int) -> Prdc:
    """Precision, recall, density and coverage.

    A point's ball reaches to its k-th nearest neighbour in its own set. Precision: the share of
    generated points in a ball of a real one; recall: the share of real points in a ball of a
    generated one (Kynkaanniemi et al. 2019, arXiv 1904.06991). Density: in how many balls of real
    points a generated one is, over k; coverage: the share of real balls that hold a generated point
    (Naeem et al. 2020, arXiv 2002.09797).

    Args:
        real: [n, d], n > nearest.
        generated: [m, d], m > nearest.
        nearest: k, at least 1.
    """
    real_radii, generated_radii = (_radii(points, nearest) for points in (real, generated))
    distances = pairwise_distances(real, generated)
    in_real_ball = distances < real_radii[:, np.newaxis]
    return Prdc(
        precision=float(in_real_ball.any(0).mean()),
        recall=float((distances < generated_radii).any(1).mean()),
        density=float(in_real_ball.sum(0).mean() / nearest),
        coverage=float((distances.min(1) < real_radii).mean()),
    )


def _root(points: Features) -> NDArray[np.float64]:
    """A [min(n, d), d] with A^T A the covariance of the points."""
    centred = points.astype(np.float64) - points.mean(0, dtype=np.float64)
    scaled: NDArray[np.float64] = centred / np.sqrt(len(points) - 1)
    return np.linalg.qr(scaled).R if len(points) > points.shape[1] else scaled


def _kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    values: NDArray[np.float64] = (x @ y.T / x.shape[1] + 1) ** _DEGREE
    return values


def _mean_off_diagonal(square: NDArray[np.float64]) -> float:
    n = len(square)
    return float((square.sum() - np.trace(square)) / (n * (n - 1)))


def _radii(points: Features, nearest: int) -> NDArray[np.float64]:
    """The distance of each point to its k-th nearest other one: [n]."""
    radii: NDArray[np.float64] = np.partition(pairwise_distances(points, points), nearest, 1)[
        :, nearest
    ]
    return radii


def pairwise_distances(x: Features, y: Features) -> NDArray[np.float64]:
    """From each of n points to each of m: [n, m]."""
    wide_x, wide_y = (torch.from_numpy(points.astype(np.float64)) for points in (x, y))
    # By a product it would be faster, and wrong for points that are near each other.
    mode = "donot_use_mm_for_euclid_dist"
    found: NDArray[np.float64] = torch.cdist(wide_x, wide_y, compute_mode=mode).numpy()
    return found
