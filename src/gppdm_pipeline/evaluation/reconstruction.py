"""What an autoencoder keeps of images: the floor under everything that is learnt in its latents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DRIFT = 2.0
"""Decibels by which a later task's reconstruction may be worse than the first one's."""


def peak_signal_to_noise(images: NDArray[np.uint8], shown: NDArray[np.uint8]) -> float:
    """10 log10(255^2 / mean squared difference), in dB; 99 at most, for equal images.

    Args:
        images: uint8 [n, h, w, c], n at least 1.
        shown: the same, reconstructed.
    """
    squares = 0.0
    for image, other in zip(images, shown, strict=True):
        squares += float(np.square(image.astype(np.float64) - other).sum())
    error = squares / images.size
    return min(99.0, 10 * math.log10(255**2 / error)) if error else 99.0


def drifted(decibels: Sequence[float | None]) -> list[int]:
    """The tasks, from 1, whose images an autoencoder keeps notably worse than the first one's.

    Args:
        decibels: of each task; None of one without test images.
    """
    known = [(task, each) for task, each in enumerate(decibels, 1) if each is not None]
    return [task for task, each in known if each < known[0][1] - DRIFT]
