"""A Gaussian of each class's images, at which drawing can begin.

The first steps from noise settle what a Gaussian says as well: mean and spread of a class in its
principal directions. Where drawing begins at an image of that Gaussian, noised until a share of
signal is left (as Meng et al. 2021, arXiv 2108.01073, do with images that are given), these steps
are left out, and what they get wrong with them.

Notation: d = numbers of an image; r directions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gppdm_pipeline.algorithm.classifier.gaussians import A_DIRECTION
from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.fitting.batches import to_unit_range
from gppdm_pipeline.algorithm.fitting.scale import scale_of
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.images.labelled import LabelledImages

DIRECTIONS = 64
"""Principal directions of a class, at most."""
MOST = 2000
"""Images of a class that its Gaussian is of, at most."""
_NAME = "gaussians"  # in a state's extras


def with_gaussians(
    state: LearnerState, train: LabelledImages, replay: LabelledImages, context: Context
) -> LearnerState:
    """The state with the Gaussians of this task's classes.

    Args:
        state: with the current task begun, and its scale.
        train: images of the current classes.
        replay: those of classes that come back count as images of them.
        context: seed, task.
    """
    back = replay.of_classes(train.classes)
    images = LabelledImages.concatenate([train, back]) if len(back) else train
    tensors = dict(state.extras[_NAME].tensors) if _NAME in state.extras else {}
    scale = scale_of(state, CPU)
    for label in train.classes:
        generator = context.fixed_generator(f"Gaussian of class {label}")
        own = images.of_classes([label])
        own = own.select(torch.randperm(len(own), generator=generator)[:MOST].numpy())
        x = scale.given(to_unit_range(own.images, CPU)).flatten(1)
        tensors |= {f"{label}.{name}": each for name, each in _gaussian(x, generator).items()}
    extras = {**state.extras, _NAME: Weights({}, tensors)}
    return replace(state, extras=extras)


def _gaussian(x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Of x float32 [n, d], in float16.

    Probabilistic principal components (Tipping & Bishop 1999): `mean` [d]; `directions` [r, d],
    each as long as its spread; `rest` [], the spread in every other direction.
    """
    from sklearn.decomposition import PCA  # type: ignore[import-untyped]  # noqa: PLC0415 (slow)

    mean, r = x.mean(0), min(DIRECTIONS, len(x) // A_DIRECTION, x.shape[1])
    directions, rest = torch.empty(0, x.shape[1]), torch.tensor(0.0)
    if r:
        seed = int(torch.randint(2**31, (), generator=generator))
        found = PCA(r, random_state=seed).fit(x.numpy())
        spreads = torch.from_numpy(found.explained_variance_).sqrt()
        directions = torch.from_numpy(found.components_) * spreads[:, None]
        rest = torch.tensor(float(found.noise_variance_)).sqrt()
    return {"mean": mean.half(), "directions": directions.half(), "rest": rest.half()}


def gaussian_of(state: LearnerState, label: int) -> dict[str, Tensor]:
    """What the state keeps of a class's Gaussian; nothing where it keeps none."""
    known = state.extras.get(_NAME, Weights({}, {})).tensors
    parts = (f"{label}.{name}" for name in ("mean", "directions", "rest"))
    return {part.partition(".")[2]: known[part] for part in parts if part in known}


class Begun(Protocol):
    """Images at which drawing begins: `Pixels`, or such as are made when they are asked for."""

    @property
    def device(self) -> torch.device:
        """Where they are."""

    def __len__(self) -> int: ...

    def __getitem__(self, batch: Tensor) -> Tensor:
        """Int64 [b], indices -> float32 [b, c, h, w]."""


@dataclass(frozen=True)
class OfGaussians:
    """Images drawn from the Gaussians of their classes, made when they are asked for.

    Image i of class k is a function of (seed, k, i).

    Attributes:
        state: with the Gaussians of the classes.
        labels: int64 [n].
        numbers: int64 [n], which image of its class each is.
        context: seed, device.
    """

    state: LearnerState
    labels: NDArray[np.int64]
    numbers: NDArray[np.int64]
    context: Context

    @property
    def device(self) -> torch.device:
        """Where they are wanted."""
        return self.context.device

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, batch: Tensor) -> Tensor:
        """Int64 [b], indices -> float32 [b, c, h, w], as a generator is given images."""
        assert self.state.image_shape is not None
        height, width, channels = self.state.image_shape
        # One by one, as their noise is: no last bit depends on what is drawn with an image.
        images = [self._image(int(self.labels[i]), int(self.numbers[i])) for i in batch.tolist()]
        x = torch.stack(images).view(-1, channels, height, width)
        return scale_of(self.state, CPU).bounded(x).to(self.device)

    def _image(self, label: int, number: int) -> Tensor:
        """Float32 [d]."""
        mean, directions, rest = (x.float() for x in gaussian_of(self.state, label).values())
        name = f"image {number} of the Gaussian of class {label}"
        generator, (r, d) = self.context.fixed_generator(name), directions.shape
        along = torch.randn(r, generator=generator) @ directions
        return mean + along + rest * torch.randn(d, generator=generator)
