"""Distances: against independent implementations, and on cases with a known answer."""

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from gppdm_pipeline.evaluation.distances import frechet_distance, kernel_distance, prdc


class Identity(torch.nn.Module):
    """An extractor whose features are what it is given."""

    def __init__(self, dimensions):
        super().__init__()
        self.num_features = dimensions
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x


def sets(n, m, d, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d))
    return rng.normal(size=(n, d)) @ mixing, 0.3 + 1.2 * rng.normal(size=(m, d)) @ mixing


SIZES = [(40, 60, 8), (300, 200, 16), (20, 30, 64), (30, 200, 64)]


@pytest.mark.filterwarnings("ignore")  # of torchmetrics
@pytest.mark.parametrize("size", SIZES)
def test_frechet_agrees_with_torchmetrics(size):
    one, other = sets(*size)
    theirs = FrechetInceptionDistance(feature=Identity(size[2])).set_dtype(torch.float64)
    theirs.update(torch.from_numpy(one), real=True)
    theirs.update(torch.from_numpy(other), real=False)
    assert frechet_distance(one, other) == pytest.approx(float(theirs.compute()), rel=1e-3)


@pytest.mark.parametrize("size", SIZES)
def test_kernel_distance_agrees_with_torchmetrics(size):
    n, _, d = size
    one, other = sets(n, n, d)  # theirs wants sets of one size
    theirs = poly_mmd(torch.from_numpy(one), torch.from_numpy(other))
    assert kernel_distance(one, other) == pytest.approx(float(theirs), rel=1e-3)


def test_kernel_distance_of_sets_of_two_sizes_agrees_with_sums_over_pairs():
    one, other = sets(7, 12, 3)

    def k(x, y):
        return (x @ y / 3 + 1) ** 3

    def within(points):
        pairs = [k(x, y) for i, x in enumerate(points) for j, y in enumerate(points) if i != j]
        return np.mean(pairs)

    across = np.mean([k(x, y) for x in one for y in other])
    expected = within(one) + within(other) - 2 * across
    assert kernel_distance(one, other) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("nearest", [1, 5])
def test_prdc_agrees_with_its_authors(size, nearest, capsys):
    real, generated = sets(*size)
    theirs = compute_prdc(real, generated, nearest)
    ours = prdc(real, generated, nearest)._asdict()
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_identical_sets():
    points, _ = sets(50, 1, 6)
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-9)
    assert prdc(points, points, 3)[:2] == (1, 1)
    assert prdc(points, points, 3).coverage == 1


def test_shifted_gaussians_have_a_closed_form():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(20_000, 4))
    shift, scale = np.array([1.0, 0.0, -2.0, 0.5]), 3.0
    # Of N(0, I) and N(shift, scale^2 I): |shift|^2 + d (scale - 1)^2.
    other = shift + scale * rng.normal(size=(20_000, 4))
    assert frechet_distance(points, other) == pytest.approx(5.25 + 4 * 4, rel=0.03)
    # The very same points moved: the covariance is the same to rounding.
    assert frechet_distance(points, points + shift) == pytest.approx(5.25, rel=1e-9)


def test_one_distribution_is_at_no_kernel_distance():
    rng = np.random.default_rng(2)
    values = [kernel_distance(*rng.normal(size=(2, 200, 5))) for _ in range(20)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(20)
    assert kernel_distance(rng.normal(size=(200, 5)), 1 + rng.normal(size=(200, 5))) > 1


def test_far_apart_nothing_is_covered():
    real, _ = sets(30, 1, 4)
    assert prdc(real, real + 1e3, 3) == (0, 0, 0, 0)


def test_one_mode_of_two_is_precise_but_covers_half():
    rng = np.random.default_rng(3)
    left, right = rng.normal(size=(2, 100, 3)) + np.array([[[-50.0]], [[50.0]]])
    found = prdc(np.concatenate([left, right]), left + 0.01, 3)
    assert found.precision == 1
    assert found.recall == 0.5
    assert found.coverage == 0.5


def test_single_precision_is_enough():
    one, other = sets(100, 100, 16)
    for distance in (frechet_distance, kernel_distance):
        narrow = distance(one.astype(np.float32), other.astype(np.float32))
        assert narrow == pytest.approx(distance(one, other), rel=1e-5)
