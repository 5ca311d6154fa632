"""A Gaussian for each class, of the sums that a state keeps: replay that takes no training.

Sums give each class its mean and its total variance, and all classes one covariance. In the few
directions in which a class varies most it may have its own, found when its images are there.

Notation: d = numbers of an image; r = directions of a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gppdm_pipeline.algorithm.classifier.moments import Moments, moments_of
from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.fitting.batches import from_unit_range, to_unit_range
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.images.labelled import LabelledImages, Room

A_DIRECTION = 8
"""Images that there are of a class for each of its directions, at least: none is one image's."""
_DIRECTIONS = "directions"  # in a state's extras
_JITTER = 1e-6  # of the mean variance: directions in which nothing varies


def with_directions(
    state: LearnerState, images: LabelledImages, most: int, context: Context
) -> LearnerState:
    """The state with the directions in which each class of `images` varies most.

    Those of a class that comes back are of all its images: the directions that the state has stand
    for the earlier ones (Ross et al. 2008, doi 10.1007/s11263-007-0075-7).

    Args:
        state: with sums that do not know the images yet.
        images: of classes that are in `state.classes`.
        most: directions of a class, which has fewer if there are not `A_DIRECTION` images for each.
        context: seed, progress.

    Returns:
        With `extras`, `directions`: for each class float16 [r, d], each as long as the standard
        deviation along it.
    """
    from sklearn.utils.extmath import (  # type: ignore[import-untyped]  # noqa: PLC0415 (slow)
        randomized_svd,
    )

    extra = state.extras.get(_DIRECTIONS, Weights({}, {}))
    tensors, sums = dict(extra.tensors), state.extras.get("moments")
    counts, totals = (sums.tensors["counts"], sums.tensors["sums"]) if sums else ((), ())
    with context.progress(len(images.classes), "directions") as bar:
        for label in images.classes:
            x = to_unit_range(images.of_classes([label]).images, CPU).flatten(1)
            k, n, mean = state.classes.index(label), len(x), x.mean(0)
            rows, known = [x - mean], 0
            if k < len(counts) and counts[k]:
                known = int(counts[k])
                between = (known * n / (known + n)) ** 0.5
                rows.append(known**0.5 * tensors.get(str(label), x[:0]).float())
                rows.append(between * (mean - totals[k].float() / known)[None])
            r = min(most, (known + n) // A_DIRECTION, x.shape[1])
            if r:
                generator = context.fixed_generator(f"directions of class {label}")
                seed = int(torch.randint(2**31, (), generator=generator))
                found = randomized_svd(torch.cat(rows).numpy(), r, random_state=seed)
                lengths, directions = torch.from_numpy(found[1]), torch.from_numpy(found[2])
                tensors[str(label)] = (lengths[:, None] / (known + n) ** 0.5 * directions).half()
            bar.advance()
    return replace(state, extras={**state.extras, _DIRECTIONS: Weights({}, tensors)})


def draw_from_gaussians(
    state: LearnerState, classes: Sequence[int], per_class: int, context: Context, stage: str
) -> LabelledImages:
    """Draw from the Gaussian of each class: its mean, its spread, and the covariance of all.

    x = mean + s L z, with z of N(0, 1), L L^T the covariance of all images around the mean of
    their class, and s^2 the class's total variance as a share of that of all. Along the directions
    that a class has of its own, what that gives is replaced by their own spread.

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
    gaussians = _Gaussians.of(moments, state)
    dtype = state.extras["moments"].config["dtype"]
    room = Room((len(classes) * per_class, *state.image_shape), dtype)
    with context.progress(len(classes), stage) as bar:
        for number, label in enumerate(classes):
            k = state.classes.index(label)
            size = per_class, len(gaussians.factor) + len(gaussians.directions[k])
            z = torch.randn(size, generator=generator, device=context.device).cpu()
            x = gaussians.drawn(k, z)
            maps = x.float().reshape(per_class, channels, height, width)
            room.put(number * per_class, from_unit_range(maps, dtype))
            bar.advance()
    return LabelledImages(room.images, np.repeat(np.array(classes, np.int64), per_class))


@dataclass(frozen=True)
class _Gaussians:
    """Of k classes, in the order of the classifier's outputs.

    Attributes:
        means: float64 [k, d].
        spreads: float64 [k], s.
        factor: float64 [d, d], L.
        directions: of each class, float16 [r, d].
    """

    means: Tensor
    spreads: Tensor
    factor: Tensor
    directions: Sequence[Tensor]

    @classmethod
    def of(cls, moments: Moments, state: LearnerState) -> _Gaussians:
        """Those that a state's sums and directions describe."""
        covariance = moments.covariance
        d, total = len(covariance), covariance.trace()
        total = total.clamp_min(torch.finfo(torch.float64).tiny)
        factor = torch.linalg.cholesky(covariance + _JITTER * total / d * torch.eye(d).double())
        known = state.extras.get(_DIRECTIONS, Weights({}, {})).tensors
        directions = [known.get(str(label), torch.empty(0, d)) for label in state.classes]
        return cls(moments.means, (moments.variances / total).sqrt(), factor, directions)

    def drawn(self, k: int, z: Tensor) -> Tensor:
        """From normal numbers: float32 [n, d + r] -> float64 [n, d]."""
        d, own = len(self.factor), self.directions[k].double()
        z = z.double()
        x = self.spreads[k] * (z[:, :d] @ self.factor.T)
        along = torch.nn.functional.normalize(own)
        return self.means[k] + x - x @ along.T @ along + z[:, d:] @ own
