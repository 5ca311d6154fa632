"""Classifiers of all numbers of an image at once: what is put on top of a frozen encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

Head = Literal["linear", "two_layer"]


class VectorNet(nn.Module):
    """A linear layer, or two with a rectifier between them.

    Args:
        image_shape: (height, width, channels).
        width: hidden units; of two layers.
        classes: number of outputs.
        head: which.
    """

    def __init__(self, image_shape: Sequence[int], width: int, classes: int, head: Head) -> None:
        super().__init__()
        numbers = math.prod(image_shape)
        layers: list[nn.Module] = [nn.Flatten(), nn.Unflatten(1, (numbers, 1, 1))]
        if head == "two_layer":
            layers += [nn.Conv2d(numbers, width, 1), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(width if head == "two_layer" else numbers, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Float32 [n, c, h, w] -> logits [n, k]."""
        logits: Tensor = self.head(self.features(images).mean((2, 3)))
        return logits
