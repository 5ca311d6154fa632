"""A Gaussian for each class, of the sums that a state keeps: replay that takes no training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gppdm_pipeline.algorithm.classifier.moments import moments_of
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.batches import from_unit_range
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages, Room

_JITTER = 1e-6  # of the mean variance: directions in which nothing varies


def draw_from_gaussians(
    state: LearnerState, classes: Sequence[int], per_class: int, context: Context, stage: str
) -> LabelledImages:
    """Draw from the Gaussian of each class: its mean and its spread, the covariance of all.

    x = mean + s L z, with z of N(0, 1), L L^T the covariance of all images around the mean of
    their class, and s^2 the class's total variance as a share of that of all.

    Args:
        state: with sums that know the classes, products among them.
        classes: any they know.
        per_class: how many of each, at least 1.
        context: seed, task, device, progress.
        stage: names the random numbers, and the bar.

    Returns:
        Images of the dtype that was summed, class after class.
    """
    assert state.image_shape is not None
    moments, generator = moments_of(state), context.generator(stage)
    height, width, channels = state.image_shape
    covariance = moments.covariance
    total = covariance.trace().clamp_min(torch.finfo(torch.float64).tiny)
    jitter = _JITTER * total / len(covariance)
    factor = torch.linalg.cholesky(covariance + jitter * torch.eye(len(covariance)).double())
    spreads = (moments.variances / total).sqrt()
    dtype = state.extras["moments"].config["dtype"]
    room = Room((len(classes) * per_class, *state.image_shape), dtype)
    with context.progress(len(classes), stage) as bar:
        for number, label in enumerate(classes):
            k = state.classes.index(label)
            z = torch.randn(per_class, len(covariance), generator=generator, device=context.device)
            x = moments.means[k] + spreads[k] * (z.cpu().double() @ factor.T)
            maps = x.float().reshape(per_class, channels, height, width)
            room.put(number * per_class, from_unit_range(maps, dtype))
            bar.advance()
    return LabelledImages(room.images, np.repeat(np.array(classes, np.int64), per_class))
