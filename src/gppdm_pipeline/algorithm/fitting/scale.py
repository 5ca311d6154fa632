"""The scale that a state's generator learns in, which its first task has set.

Pixels are given in [-1, 1], and what is drawn is kept there. What an encoder has made of images has
no bound and any scale: it is whitened. Its channels become the principal directions of their
covariance around the means of their classes in the first task (over all places, of maps), each of
unit variance within a class: a denoiser that predicts v then has nothing but -sigma times a class's
mean to say, as far as classes are Gaussians of that covariance.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gppdm_pipeline.algorithm.fitting.batches import PIXELS, Scale, Whitening, to_unit_range
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.images.labelled import LabelledImages

_NAME = "scale"  # in a state's extras
_BATCH = 1024


def scale_of(state: LearnerState, device: torch.device) -> Scale:
    """The scale that a state's generator learns in, on the device."""
    if _NAME not in state.extras:
        return PIXELS
    tensors = state.extras[_NAME].tensors
    return Scale(Whitening(**{name: tensor.to(device) for name, tensor in tensors.items()}))


def with_scale(state: LearnerState, train: LabelledImages) -> LearnerState:
    """The state with the scale of its first task; pixels need none.

    Args:
        state: with the current task begun.
        train: its images, at least one.
    """
    if train.images.dtype == np.uint8 or _NAME in state.extras:
        return state
    weights = Weights({}, vars(whitening_of(train)))
    return replace(state, extras={**state.extras, _NAME: weights})


def whitening_of(images: LabelledImages) -> Whitening:
    """The whitening of images within their classes, computed in float64.

    A direction is taken to have some variance at least, so that few images do not make what they
    happen not to show as large as the rest: the mean variance times the share of it that oracle
    approximating shrinkage gives the covariance (Chen et al. 2010, arXiv 0907.4698, eq. 23).

    Args:
        images: at least one.
    """
    channels, classes = images.image_shape[2], images.classes
    products = torch.zeros(channels, channels, dtype=torch.float64)
    sums = torch.zeros(len(classes), channels, dtype=torch.float64)
    counts = torch.zeros(len(classes), dtype=torch.float64)
    for start in range(0, len(images), _BATCH):
        piece = slice(start, start + _BATCH)
        numbers = to_unit_range(images.images[piece], products.device).double()
        rows = torch.from_numpy(np.searchsorted(classes, images.labels[piece]))
        places = numbers[0, 0].numel()
        x = numbers.movedim(1, -1).reshape(-1, channels)
        products.addmm_(x.T, x)
        sums.index_add_(0, rows.repeat_interleave(places), x)
        counts += places * rows.bincount(minlength=len(classes))
    covariance = (products - sums.T @ (sums / counts[:, None])) / counts.sum()
    variances, directions = torch.linalg.eigh(covariance)
    least = _shrinkage(variances, len(images)) * variances.mean()
    spreads = variances.clamp_min(least.clamp_min(torch.finfo(torch.float32).tiny)).sqrt()
    mean = sums.sum(0) / counts.sum()
    matrix, inverse = (directions / spreads).T, directions * spreads
    return Whitening(mean.float(), matrix.float(), inverse.float())


def _shrinkage(variances: Tensor, images: int) -> Tensor:
    """The share, 0 to 1, by the eigenvalues of a covariance and the number of images."""
    p = len(variances)
    squares, square = variances.square().sum(), variances.sum().square()
    above, below = (1 - 2 / p) * squares + square, (images + 1 - 2 / p) * (squares - square / p)
    return (above / below).nan_to_num(1).clamp(0, 1)
