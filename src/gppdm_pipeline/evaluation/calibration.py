"""Whether a classifier's probabilities are to be believed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15


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
