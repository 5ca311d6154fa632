"""Reconstruction in decibels, and when a later task's is notably worse."""

import math

import numpy as np

from gppdm_pipeline.evaluation.reconstruction import drifted, peak_signal_to_noise


def test_decibels_are_of_the_mean_square():
    images = np.zeros((2, 2, 2, 3), np.uint8)
    shown = images.copy()
    shown[0] = 255
    assert math.isclose(peak_signal_to_noise(images, shown), 10 * math.log10(2))
    shown[:] = 51  # a fifth of the range, of bytes that would wrap
    assert math.isclose(peak_signal_to_noise(images, shown), 20 * math.log10(5))
    assert peak_signal_to_noise(shown, images) == peak_signal_to_noise(images, shown)
    assert peak_signal_to_noise(images, images) == 99


def test_drift_is_against_the_first_task():
    assert drifted([25.0, 23.5, 22.9, None, 30.0]) == [3]
    assert drifted([25.0]) == drifted([]) == []
