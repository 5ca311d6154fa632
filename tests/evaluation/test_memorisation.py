from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from gppdm_pipeline.evaluation.memorisation import (
    copy_ratio,
    in_all,
    memorisation,
    nearest_pairs,
)

RNG = np.random.default_rng(0)
TRAIN, HELD_OUT, FRESH = (RNG.normal(0, 1, (n, 64)) for n in (200, 100, 150))


def test_copies_are_found():
    drawn = TRAIN[:60] + RNG.normal(0, 0.02, (60, 64))
    found = memorisation(drawn, TRAIN, HELD_OUT)
    assert found["copied"] == 1
    assert found["authentic"] == 0
    assert found["copying"] < -8
    assert found["distance"] < 0.5 < found["distance_of_held_out"]
    assert found["copied_of_held_out"] < 0.05


def test_new_images_of_the_same_kind_are_no_copies():
    found = memorisation(FRESH, TRAIN, HELD_OUT)
    assert found["copied"] < 0.05
    assert abs(found["copying"]) < 3
    assert found["authentic"] > 0.5


def test_the_z_is_that_of_a_rank_test():
    found = memorisation(0.7 * FRESH, TRAIN, HELD_OUT)
    near = [np.linalg.norm(x[:, None] - TRAIN, axis=2).min(1) for x in (0.7 * FRESH, HELD_OUT)]
    p = mannwhitneyu(*near, alternative="less", method="asymptotic", use_continuity=False).pvalue
    from scipy.stats import norm  # noqa: PLC0415

    assert found["copying"] == pytest.approx(norm.ppf(p), rel=1e-3)


def test_a_copy_is_nearer_than_half_of_what_is_usual():
    distances = np.array([[0.9, 2.0, 2.0, 2.0], [1.1, 2.0, 2.0, 2.0]])
    assert copy_ratio(distances) == pytest.approx([0.9, 1.1])
    assert (copy_ratio(distances) < 1).tolist() == [True, False]


def test_the_nearest_pairs_come_first():
    drawn = np.array([[5.0, 5.0], [0.1, 0.0], [1.0, 1.0]])
    train = np.array([[1.0, 1.0], [0.0, 0.0], [9.0, 9.0]])
    assert nearest_pairs(drawn, train, 2) == [(2, 0), (1, 1)]


def test_classes_together_and_too_few_of_one():
    few = memorisation(FRESH[:2], TRAIN, HELD_OUT)
    assert few is None
    one, other = memorisation(FRESH, TRAIN, HELD_OUT), memorisation(TRAIN[:50], TRAIN, HELD_OUT)
    both = in_all({"a": one, "b": other, "c": few})
    assert both["drawn"] == 200
    copied = 150 * one["copied"] + 50 * other["copied"]
    assert both["copied"] == pytest.approx(copied / 200, rel=1e-3)
    assert both["copying"] == pytest.approx((one["copying"] + other["copying"]) / 2, rel=1e-3)
    assert in_all({"c": few}) is None
