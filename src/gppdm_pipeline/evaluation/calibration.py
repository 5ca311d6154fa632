"""Whether a classifier's probabilities are to be believed, and what makes them so."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
KEPT = 0.95
"""The share of images that are to count as known."""
_HOTTEST = 50.0


def expected_calibration_error(
    logits: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    head_classes: tuple[int, ...],
    bins: int = BINS,
) -> float:
    """The mean difference of confidence and accuracy over bins of confidence.

    sum over bins of (n_b / n) |accuracy_b - confidence_b|, Guo et al. 2017 (arXiv 1706.04599),
    equation 3, with bins (i / bins, (i + 1) / bins]; the confidence is the largest probability.

    Args:
        logits: [n, k], n >= 1, k >= 1; column j is class head_classes[j].
        labels: int64 [n].
        head_classes: k classes.
        bins: how many, of equal width.

    Returns:
        In 0..1; 0 is perfectly calibrated.
    """
    below = logits - logits.max(1, keepdims=True).astype(np.float64)
    confidence = 1 / np.exp(below).sum(1)  # the largest of the softmax
    right = np.asarray(head_classes)[logits.argmax(1)] == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def fit_temperature(
    logits: NDArray[np.floating[Any]], labels: NDArray[np.int64], head_classes: tuple[int, ...]
) -> float:
    """The T for which softmax(logits / T) is most likely to have given the labels.

    Guo et al. 2017 (arXiv 1706.04599), section 4.2. The negative log-likelihood is convex in 1 / T:
    its derivative, the mean of E_p[z] - z_y, is halved into.

    Args:
        logits: [n, k], n >= 1, k >= 1; column j is class head_classes[j].
        labels: int64 [n], each one of head_classes.
        head_classes: k classes.

    Returns:
        In 0.02..50.
    """
    outputs = logits.astype(np.float64)
    column = {label: j for j, label in enumerate(head_classes)}
    right = outputs[np.arange(len(labels)), [column[label] for label in labels.tolist()]]
    low, high = np.log(1 / _HOTTEST), np.log(_HOTTEST)
    for _ in range(60):
        middle = (low + high) / 2
        expected = (probabilities_of(outputs, np.exp(-middle)) * outputs).sum(1)
        low, high = (low, middle) if (expected - right).mean() > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def calibrated(
    logits: NDArray[np.floating[Any]], labels: NDArray[np.int64], head_classes: tuple[int, ...]
) -> tuple[dict[str, float], dict[str, float]]:
    """A temperature and a threshold, fitted on every second image, and their worth on the others.

    Args:
        logits: [n, k], n >= 1, k >= 1; column j is class head_classes[j].
        labels: int64 [n], each one of head_classes.
        head_classes: k classes.

    Returns:
        `temperature` and `threshold` (of `familiarity`); and `images` (how many were fitted on),
        `calibration_error_before`, `calibration_error_after`, `known` (share of the others that
        counts as known).
    """
    fitted = np.arange(len(labels)) % 2 == 0
    measured = ~fitted if len(labels) > 1 else fitted
    temperature = fit_temperature(logits[fitted], labels[fitted], head_classes)
    threshold = float(np.quantile(familiarity(logits[fitted]), 1 - KEPT))
    errors = [
        expected_calibration_error(part[measured], labels[measured], head_classes)
        for part in (logits, logits / temperature)
    ]
    return {"temperature": temperature, "threshold": threshold}, {
        "images": int(fitted.sum()),
        "calibration_error_before": errors[0],
        "calibration_error_after": errors[1],
        "known": float((familiarity(logits[measured]) >= threshold).mean()),
    }


def probabilities_of(
    logits: NDArray[np.floating[Any]], temperature: float = 1.0
) -> NDArray[np.float64]:
    """softmax(logits / temperature), float64 [n, k]."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return shares


def familiarity(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """How much an image is like those learnt from: log sum exp of its logits, float64 [n].

    The negative free energy of Liu et al. 2020 (arXiv 2010.03759), equation 4, with T = 1.
    """
    most = logits.max(1).astype(np.float64)
    total: NDArray[np.float64] = most + np.log(np.exp(logits - most[:, None]).sum(1))
    return total


def separation(known: NDArray[np.floating[Any]], unknown: NDArray[np.floating[Any]]) -> float:
    """The area under the ROC curve: how often a known image is the more familiar one; ties half.

    Args:
        known: [n], n >= 1, of images of classes that were learnt.
        unknown: [m], m >= 1, of others.
    """
    ordered = np.sort(unknown)
    below = np.searchsorted(ordered, known, "left") + np.searchsorted(ordered, known, "right")
    return float(below.mean() / 2 / len(unknown))
