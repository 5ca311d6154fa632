"""The networks that a classifier may be, and which one its config describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from gppdm_pipeline.algorithm.classifier.random_maps import MapsNet
from gppdm_pipeline.algorithm.classifier.timm_net import TimmNet
from gppdm_pipeline.algorithm.classifier.vectors import VectorNet
from gppdm_pipeline.algorithm.state import Weights


class SmallConvNet(nn.Module):
    """Two 3x3 convolutions per resolution until the image is at most 4 pixels high, then a mean.

    Larger images than 16 pixels are halved by a first convolution: at 28 x 28, a sixth of the time.

    Args:
        image_shape: (height, width, channels).
        width: channels at full resolution; doubled with each halving of the resolution.
        classes: number of outputs.
    """

    def __init__(self, image_shape: Sequence[int], width: int, classes: int) -> None:
        super().__init__()
        height, channels = min(image_shape[:2]), image_shape[2]
        layers: list[nn.Module] = []
        if height > 16:
            layers += _convolution(channels, width, stride=2)
            height, channels = height // 2, width
        while True:
            layers += _convolution(channels, width) + _convolution(width, width)
            channels = width
            if height <= 4:
                break
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width * 2
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Float32 [n, c, h, w] in [-1, 1] -> logits [n, k]."""
        logits: Tensor = self.head(self.features(images).mean((2, 3)))
        return logits


def _convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(8, outputs),
        nn.ReLU(inplace=True),
    ]


class Together(nn.Module):
    """A network that is trained, and one that is computed from sums (see `analytic.py`).

    Args:
        image_shape: (height, width, channels).
        classes: number of outputs of either.
        weight: what the computed one's outputs are multiplied with.
        trained: what builds the one.
        computed: what builds the other.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        weight: float,
        trained: Mapping[str, Any],
        computed: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.trained, self.computed = untrained(trained), untrained(computed)
        self.weight = weight

    @property
    def head(self) -> nn.Linear:
        """Of the trained one."""
        return self.trained.head

    def features(self, images: Tensor) -> Tensor:
        """Of the trained one: float32 [n, c, h, w] in [-1, 1] -> [n, d, h', w']."""
        found: Tensor = self.trained.features(images)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Float32 [n, c, h, w] in [-1, 1] -> logits [n, k]."""
        logits: Tensor = self.trained(images) + self.weight * self.computed(images)
        return logits


Network = SmallConvNet | VectorNet | TimmNet | MapsNet | Together


def untrained(config: Mapping[str, Any]) -> Network:
    """The network that a classifier's config describes, with weights of noise.

    Raises:
        EncoderError: if it is of timm, which is missing.
    """
    if "trained" in config:
        return Together(**config)
    if "filters" in config:
        return MapsNet(**config)
    if "network" in config:
        return TimmNet(config["image_shape"], config["classes"], **config["network"])
    return VectorNet(**config) if "head" in config else SmallConvNet(**config)


def trained_part(weights: Weights) -> Weights:
    """A classifier without what is computed beside it."""
    return _part(weights, "trained") if "trained" in weights.config else weights


def computed_part(weights: Weights) -> Weights | None:
    """What is computed from sums, alone or beside what is trained; None: nothing is."""
    if "trained" in weights.config:
        return _part(weights, "computed")
    is_of_sums = "filters" in weights.config or "head" in weights.config
    return weights if is_of_sums else None


def _part(weights: Weights, name: str) -> Weights:
    """Of `Together`."""
    prefix = f"{name}."
    tensors = {
        key.removeprefix(prefix): tensor
        for key, tensor in weights.tensors.items()
        if key.startswith(prefix)
    }
    return Weights(weights.config[name], tensors)
