from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from gppdm_pipeline.evaluation import membership
from gppdm_pipeline.evaluation.membership import (
    attack,
    attacks_by_class,
    confidence,
    pooled_attack,
    strongest,
    summed,
)


def scores(shift, count=400, seed=0):
    return np.random.default_rng(seed).normal(shift, 1, count)


def test_scores_that_tell_nothing_and_everything():
    nothing = attack(scores(0, 4000), scores(0, 4000, seed=1))
    assert nothing["auc"] == pytest.approx(0.5, abs=0.03)
    assert nothing["auc_low"] < 0.5 < nothing["auc_high"]
    assert nothing["tpr_at_1_percent"] == pytest.approx(0.01, abs=0.01)
    everything = attack(scores(100), scores(0))
    assert everything["auc"] == everything["auc_low"] == everything["tpr_at_1_percent"] == 1


def test_one_in_a_hundred_may_be_accused_wrongly():
    others = np.arange(200.0)
    members = np.array([197.5, 198.5, 199.5, 0.5])  # above all but 2, 1, 0 and 199 of them
    assert attack(members, others)["tpr_at_1_percent"] == 0.75
    assert attack(members, others[:99])["tpr_at_1_percent"] == 0.75
    assert attack(members, np.append(others, 300.0))["tpr_at_1_percent"] == 0.5


def test_the_interval_is_that_of_drawing_images_anew():
    members, others = scores(0.5, 120), scores(0, 80, seed=1)
    found, rng = attack(members, others), np.random.default_rng(7)
    truth = np.repeat([1, 0], [120, 80])
    drawn = [
        roc_auc_score(truth, np.concatenate([rng.choice(members, 120), rng.choice(others, 80)]))
        for _ in range(400)
    ]
    low, high = np.percentile(drawn, (2.5, 97.5))
    # Percentiles of a few hundred draws of a spread of 0.04 are known to a hundredth.
    assert found["auc_low"] == pytest.approx(low, abs=0.015)
    assert found["auc_high"] == pytest.approx(high, abs=0.015)


def test_a_class_that_scores_high_as_a_whole_betrays_nobody():
    labels = np.repeat([3, 7], 400)
    members = np.concatenate([scores(0), scores(50, seed=1)])
    others = np.concatenate([scores(0, 300, seed=2), scores(50, 3000, seed=3)])
    of_others = np.repeat([3, 7], [300, 3000])
    by_class, pooled = attacks_by_class(members, labels, others, of_others)
    assert set(by_class) == {3, 7}
    assert pooled_attack([pooled])["auc"] == pytest.approx(0.5, abs=0.05)
    assert attack(members, others)["auc"] < 0.4  # which is what it comes to without classes


def test_what_every_class_betrays_is_seen_in_all_and_few_images_are_left_out():
    labels, few = np.repeat([1, 2], [300, 2]), np.repeat([1, 2], [300, 100])
    by_class, pooled = attacks_by_class(scores(2, 302), labels, scores(0, 400, seed=1), few)
    assert list(by_class) == [1]
    assert len(pooled["members"]) == len(pooled["others"]) == 300
    assert pooled["members"] == sorted(pooled["members"])
    assert pooled_attack([pooled])["auc"] == pytest.approx(by_class[1]["auc"], abs=1e-3)
    assert pooled_attack([]) is None
    best = {"weak": by_class[1] | {"auc": 0.4}, "strong": by_class[1], "none": None}
    assert strongest(best) == "strong"
    assert strongest({"none": None}) is None


def test_confidence_is_the_log_odds_of_the_right_class():
    logits = np.random.default_rng(0).normal(0, 3, (50, 4)).astype(np.float32)
    columns = np.arange(50) % 4
    odds = np.exp(logits.astype(np.float64))
    odds /= odds.sum(1, keepdims=True)
    p = odds[np.arange(50), columns]
    assert confidence(logits, columns) == pytest.approx(np.log(p / (1 - p)), abs=1e-6)
    sure = confidence(np.array([[1000.0, 0.0]], np.float32), np.array([0]))
    assert sure == pytest.approx([1000.0])


def test_every_loss_counts_by_its_spread():
    losses = np.stack([np.arange(10.0), 1e6 * np.arange(10.0)[::-1]], 1)
    assert summed(losses) == pytest.approx(np.zeros(10), abs=1e-9)
    assert summed(losses[:, :1])[0] == summed(losses[:, :1]).max()


def test_intervals_of_many_scores_are_of_some(monkeypatch):
    monkeypatch.setattr(membership, "_MOST", 50)
    found = attack(scores(0, 400), scores(0, 400, seed=1))
    assert found["auc_high"] - found["auc_low"] > 0.15
    assert found["members"] == 400
