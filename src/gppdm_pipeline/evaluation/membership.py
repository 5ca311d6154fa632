"""Membership inference: how well scores tell training images from held-out ones.

A score is what an attacker computes of an image and a learner's state; training images shall have
the higher ones. How well it does is told by the area under the ROC curve (0.5: not at all) and, as
Carlini et al. 2022 (arXiv 2112.03570) ask, by the share of training images that are found while 1 %
of the held-out ones are accused wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

RESAMPLES = 500
FALSE_POSITIVES = 0.01
FEWEST = 5
"""Images of a class, on either side, below which nothing is said of it."""
_SEED = 2_302_01316
_INTERVAL = (2.5, 97.5)  # percentiles
_MOST = 2000  # scores of either side of which intervals are taken


class Attack(TypedDict):
    """How well one attack does; 95 % intervals by the bootstrap over images."""

    auc: float
    auc_low: float
    auc_high: float
    tpr_at_1_percent: float
    members: int
    others: int


class Pooled(TypedDict):
    """The scores of one attack, standardised within each class, ascending: no image is told."""

    members: list[float]
    others: list[float]


def attack(members: Scores, others: Scores) -> Attack:
    """How well these scores tell members from others.

    Args:
        members: [m], of training images, m >= 1.
        others: [n], of held-out images, n >= 1.
    """
    from sklearn.metrics import (  # type: ignore[import-untyped]  # noqa: PLC0415 (slow)
        roc_auc_score,
        roc_curve,
    )

    truth = np.repeat([1, 0], [len(members), len(others)])
    scores = np.concatenate([members, others])
    false, true, _ = roc_curve(truth, scores)
    low, high = np.percentile(_resampled(members, others), _INTERVAL)
    return Attack(
        auc=round(float(roc_auc_score(truth, scores)), 4),
        auc_low=round(float(low), 4),
        auc_high=round(float(high), 4),
        tpr_at_1_percent=round(float(true[false <= FALSE_POSITIVES].max()), 4),
        members=len(members),
        others=len(others),
    )


def attacks_by_class(
    members: Scores, member_labels: NDArray[np.int64], others: Scores, labels: NDArray[np.int64]
) -> tuple[dict[int, Attack], Pooled]:
    """One attack, class by class, and its scores to be pooled over classes.

    Some classes score higher than others whether or not they were learnt from, so that scores are
    compared within a class, as by an attacker with a threshold for each (Song & Mittal 2021, arXiv
    2003.10595). To pool them, they are standardised by the mean and the spread of all images of
    their class, members or not.

    Args:
        members: [m], of training images.
        member_labels: int64 [m].
        others: [n], of held-out images.
        labels: int64 [n].

    Returns:
        By class that has FEWEST images or more on either side.
    """
    found: dict[int, Attack] = {}
    parts: tuple[list[Scores], list[Scores]] = ([], [])
    for label in np.unique(member_labels).tolist():
        ours, theirs = members[member_labels == label], others[labels == label]
        if min(len(ours), len(theirs)) < FEWEST:
            continue
        found[label] = attack(ours, theirs)
        both = np.concatenate([ours, theirs])
        for part, scores in zip(parts, (ours, theirs), strict=True):
            part.append((scores - both.mean()) / max(both.std(), np.finfo(np.float64).tiny))
    member_scores, other_scores = map(_ascending, parts)
    return found, Pooled(members=member_scores, others=other_scores)


def pooled_attack(parts: Sequence[Pooled]) -> Attack | None:
    """One attack over all classes of all parts; None where no class has images enough."""
    members, others = (
        np.array([score for part in parts for score in part[side]], np.float64)
        for side in ("members", "others")
    )
    return attack(members, others) if len(members) else None


def strongest(attacks: Mapping[str, Attack | None]) -> str | None:
    """The name of the attack that tells most, of those that could be made."""
    made = {name: found["auc"] for name, found in attacks.items() if found}
    return max(made, key=made.__getitem__) if made else None


def confidence(logits: NDArray[np.float32], columns: NDArray[np.int64]) -> Scores:
    """How sure a classifier is of the right class: log(p / (1 - p)), Carlini et al. 2022, 5.2.

    Args:
        logits: float32 [n, k], k >= 2.
        columns: int64 [n], the column of each image's class.

    Returns:
        float64 [n].
    """
    wide = logits.astype(np.float64)
    rows = np.arange(len(wide))
    right = wide[rows, columns]
    wide[rows, columns] = -np.inf
    most = wide.max(1)
    scores: Scores = right - most - np.log(np.exp(wide - most[:, np.newaxis]).sum(1))
    return scores


def summed(losses: NDArray[np.floating[Any]]) -> Scores:
    """One score of several losses: each in units of its own spread, summed, the sign turned.

    Args:
        losses: [n, k] of members and others alike, low for what was learnt.

    Returns:
        float64 [n].
    """
    wide = losses.astype(np.float64)
    spread = np.maximum(wide.std(0), np.finfo(np.float64).tiny)
    scores: Scores = -((wide - wide.mean(0)) / spread).sum(1)
    return scores


def _resampled(members: Scores, others: Scores) -> NDArray[np.float64]:
    """The AUC of RESAMPLES draws with replacement from either side."""
    rng = np.random.default_rng(_SEED)
    sides = [
        scores if len(scores) <= _MOST else rng.choice(scores, _MOST, replace=False)
        for scores in (members, others)
    ]
    above = (np.sign(sides[0][:, np.newaxis] - sides[1]) + 1) / 2
    # A draw is how often each image comes: the AUC is then a weighted mean over pairs.
    weights = [
        rng.multinomial(len(side), np.full(len(side), 1 / len(side)), RESAMPLES) / len(side)
        for side in sides
    ]
    aucs: NDArray[np.float64] = ((weights[0] @ above) * weights[1]).sum(1)
    return aucs


def _ascending(parts: Sequence[Scores]) -> list[float]:
    scores = np.sort(np.concatenate([np.empty(0), *parts]))
    return [float(f"{score:.4g}") for score in scores]
