"""DPM-Solver++(2M) in float64, after algorithm 2 of Lu et al. 2022 (arXiv 2211.01095)."""

from __future__ import annotations

import numpy as np


def sample(x, clean, shares, steps):
    """From noise to an image.

    Args:
        x: float64, x_T.
        clean: (x, tau) -> the predicted x_0.
        shares: abar, float64 [T].
        steps: of the solver, evenly spread in log(sigma / alpha) from T - 1 to 0; the last ends at
            no noise. tau is where that lies between two whole steps.
    """
    levels = np.log((1 - shares) / shares) / 2
    halves = np.linspace(levels[-1], levels[0], steps)
    taus = np.interp(halves, levels, np.arange(len(shares)))
    alphas = [*(1 / np.sqrt(1 + np.exp(2 * halves))), 1.0]
    sigmas = [*(1 / np.sqrt(1 + np.exp(-2 * halves))), 0.0]
    with np.errstate(divide="ignore"):
        halves = np.log(alphas) - np.log(sigmas)
    previous = None
    for i in range(steps):
        now = clean(x, taus[i])
        h = halves[i + 1] - halves[i]
        if previous is None or i == steps - 1:
            towards = now
        else:
            r = (halves[i] - halves[i - 1]) / h
            towards = (1 + 1 / (2 * r)) * now - 1 / (2 * r) * previous
        x = sigmas[i + 1] / sigmas[i] * x - alphas[i + 1] * np.expm1(-h) * towards
        previous = now
    return x
