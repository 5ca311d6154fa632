"""Sums over the images of each class, and what can be said of the classes with them alone.

Sums do not depend on the order in which images come, nor on the tasks that they come in: what is
made of them after the last task is what all images at once would give, up to their rounding.
n = images, k = classes seen, d = numbers of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gppdm_pipeline.algorithm.classifier.network import accuracy
from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.fitting.batches import to_unit_range
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.images.labelled import LabelledImages

_BATCH = 1024
_LARGEST = 4096


@dataclass(frozen=True)
class Moments:
    """Of k classes, in the order of the classifier's outputs; on the CPU, float64 but for products.

    Attributes:
        counts: [k], images of each class.
        sums: [k, d], over the images of each class.
        squares: [k], the sum of |x|^2 over them.
        products: [d, d], the sum of x x^T over all images, in float64, or in float32 where nothing
            is taken from it; [0, 0] where it is not needed.
    """

    counts: Tensor
    sums: Tensor
    squares: Tensor
    products: Tensor

    @property
    def means(self) -> Tensor:
        """[k, d]."""
        return self.sums / self.counts[:, None]

    @property
    def covariance(self) -> Tensor:
        """[d, d], of all images around the mean of their class: one for all classes."""
        return (self.products - self.sums.T @ self.means) / self.counts.sum()

    @property
    def variances(self) -> Tensor:
        """[k], of each class, summed over the d numbers."""
        return (self.squares / self.counts - self.means.square().sum(1)).clamp_min(0)


def check_size(name: str, image_shape: tuple[int, int, int]) -> None:
    """Refuse images whose covariance would be too large.

    Args:
        name: of the method.
        image_shape: (height, width, channels).

    Raises:
        ValueError: naming what would do.
    """
    numbers = image_shape[0] * image_shape[1] * image_shape[2]
    if numbers > _LARGEST:
        raise ValueError(
            f"{name} keeps the covariance of the {numbers} numbers of an image, of which it takes "
            f"{_LARGEST} at most: learn features (space.name=features), or make images smaller "
            "(stream.source.resize)"
        )


def with_moments(
    state: LearnerState,
    images: LabelledImages,
    context: Context,
    *,
    lift: Callable[[Tensor], Tensor] = lambda x: x,
    products: torch.dtype | None = torch.float64,
) -> tuple[LearnerState, Moments]:
    """The state with images added to its sums, and the sums.

    Args:
        state: its `classes` have those of the images; sums are in `extras`, `moments`.
        images: not added before.
        context: progress.
        lift: what is summed of images, float32 [n, pixels] -> float32 [n, d].
        products: what products are summed in; None: they are not.
    """
    index_of = {label: index for index, label in enumerate(state.classes)}
    outputs = torch.tensor([index_of[int(label)] for label in images.labels])
    k, sums = len(state.classes), None
    with context.progress(len(images), "sums") as bar:
        for start in range(0, len(images), _BATCH):
            piece = slice(start, start + _BATCH)
            x = lift(to_unit_range(images.images[piece], CPU).flatten(1))
            y, d, wide = outputs[piece], x.shape[1], x.double()
            sums = sums or _grown(state.extras.get("moments"), k, d, products)
            sums.counts.index_add_(0, y, torch.ones(len(x), dtype=torch.float64))
            sums.sums.index_add_(0, y, wide)
            sums.squares.index_add_(0, y, wide.square().sum(1))
            if products is not None:
                factor = x.to(products)
                sums.products.addmm_(factor.T, factor)
            bar.advance(len(x))
    assert sums is not None
    config = {"classes": list(state.classes), "dtype": images.images.dtype.name}
    extras = {**state.extras, "moments": Weights(config, vars(sums))}
    return replace(state, extras=extras), sums


def moments_of(state: LearnerState) -> Moments:
    """The sums of a state that has some."""
    return Moments(**state.extras["moments"].tensors)


def _grown(old: Weights | None, k: int, d: int, products: torch.dtype | None) -> Moments:
    """A copy of the sums, with zeros for new classes."""
    p = d if products else 0
    shapes: dict[str, tuple[int, ...]] = {"counts": (k,), "sums": (k, d), "squares": (k,)}
    tensors = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
    tensors["products"] = torch.zeros(p, p, dtype=products or torch.float64)
    for name, tensor in old.tensors.items() if old else ():
        tensors[name][: len(tensor)] = tensor
    return Moments(**tensors)


def nearest_mean(moments: Moments) -> tuple[Tensor, Tensor]:
    """A linear classifier by the nearest mean: weight [k, d] and bias [k].

    Its logits are -|x - mean|^2 / 2, but for a number that all classes share.
    """
    means = moments.means
    return means, -means.square().sum(1) / 2


def discriminant(moments: Moments, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Linear discriminant analysis: weight [k, d] and bias [k].

    Hayes & Kanan 2020 (arXiv 1909.01520), eq. 3 to 5, with the exact covariance. From each logit
    goes what the mean of the classes' means would get, which changes no probability: both are so
    large that float32 would lose their difference.

    Args:
        moments: with products.
        shrinkage: the share of the identity in the covariance that is inverted, times its mean
            variance; above 0.
    """
    covariance, means = moments.covariance, moments.means
    d = len(covariance)
    variance = covariance.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    shrunk = (1 - shrinkage) * covariance + shrinkage * variance * torch.eye(d).double()
    middle = means.mean(0)
    weight = torch.linalg.solve(shrunk, (means - middle).T, left=True).T
    return weight, -(weight * (means + middle)).sum(1) / 2


def ridge(moments: Moments, strength: float) -> tuple[Tensor, Tensor]:
    """Ridge regression of the classes as one-hot vectors: weight [k, d] and bias [k], of zeros.

    Args:
        moments: with products.
        strength: lambda of |W|^2, above 0.
    """
    regular = moments.products.to(torch.float64, copy=True)
    regular.diagonal().add_(strength)
    factor = torch.linalg.cholesky(regular)
    weight = torch.cholesky_solve(moments.sums.T, factor).T
    return weight, torch.zeros(len(weight), dtype=torch.float64)


def ridge_by_gcv(moments: Moments) -> tuple[Tensor, Tensor]:
    """As `ridge`, with the lambda that the sums themselves say is the best.

    Generalised cross-validation (Golub, Heath & Wahba 1979, Technometrics 21, eq. 1.4): n |y - W
    phi|^2 / (n - tr H)^2, summed over the images, is about what leaving one image out would cost.
    With the products' eigenvalues e_j, sums say all of it: tr H = sum_j e_j / (e_j + lambda).

    Args:
        moments: with products.
    """
    products, n = moments.products.double(), moments.counts.sum()
    values, vectors = torch.linalg.eigh(products)
    values = values.clamp_min(0)  # negative ones are rounding
    turned = vectors.T @ moments.sums.T
    power = turned.square().sum(1)
    # From the mean eigenvalue of one image on: images that come twice are no new ones to test by,
    # so that with a smaller lambda all of them would seem to be told right.
    strengths = values.mean() * torch.logspace(0, 3, 13, dtype=torch.float64) / n
    inverse = 1 / (values + strengths[:, None])
    missed = (n - (power * (2 * inverse - values * inverse.square())).sum(1)).clamp_min(0)
    free = n - (values * inverse).sum(1)
    # Where no direction is free, there is nothing to tell by, and rounding makes them fewer.
    costs = torch.where(free > 0.01 * n, missed / free.square(), torch.inf)
    best = inverse[costs.argmin()]
    weight = (vectors @ (best[:, None] * turned)).T
    return weight, torch.zeros(len(weight), dtype=torch.float64)


def with_head(
    state: LearnerState,
    head: tuple[Tensor, Tensor],
    validation: LabelledImages,
    context: Context,
    below: Tensor | None = None,
) -> tuple[LearnerState, StageLog]:
    """The state with a classifier that was computed.

    Args:
        state: its `classes` are the outputs.
        head: weight [k, d] and bias [k].
        validation: images to report an accuracy on; may be empty.
        context: its device.
        below: float32 [d, pixels], a layer with a rectifier under the head; None: no such layer.

    Returns:
        The state, and the log: metric `validation_accuracy`.
    """
    assert state.image_shape is not None
    weight, bias = (part.float().contiguous() for part in head)
    tensors = {"head.weight": weight, "head.bias": bias}
    if below is not None:
        tensors["features.2.weight"] = below[:, :, None, None]
        tensors["features.2.bias"] = torch.zeros(len(below))
    config = {
        "image_shape": list(state.image_shape),
        "width": weight.shape[1],
        "classes": len(weight),
        "head": "linear" if below is None else "two_layer",
    }
    return with_accuracy(state, Weights(config, tensors), validation, context)


def with_accuracy(
    state: LearnerState, classifier: Weights, validation: LabelledImages, context: Context
) -> tuple[LearnerState, StageLog]:
    """The state with this classifier, and the log: metric `validation_accuracy`, of some images."""
    state = replace(state, classifier=classifier)
    known = accuracy(state, validation, context) if len(validation) else None
    return state, StageLog({} if known is None else {"validation_accuracy": known})
