"""What is computed of images by filters that nothing has learnt, and a linear layer on top of it.

n = images, (h, w, c) = height, width, channels, f = filters, k = classes, g = sides of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_SIDE = 5
_GRID = 4
_LARGEST = 32
_TOGETHER = 16
_LEAST = 1e-6


class RandomMaps(nn.Module):
    """Random filters, rectified in both signs, averaged over a grid; the root of each average.

    Filters of noise tell classes apart nearly as well as learnt ones (Saxe et al. 2011, "On random
    weights and unsupervised feature learning", ICML), where averages over parts of the image
    (Coates, Ng & Lee 2011, AISTATS) say about where each answers. Their mean over pixels is zero,
    so that brightness says nothing. Larger images than 32 pixels are made smaller first.

    Args:
        image_shape: (height, width, channels).
        filters: f; they are zero until `filters`, [f, c, 5, 5], is set.
    """

    filters: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, image_shape: Sequence[int], filters: int) -> None:
        super().__init__()
        height, width, channels = image_shape
        self._shrink = max(1, min(height, width) // _LARGEST)
        cells = [_averages(side // self._shrink) for side in (height, width)]
        self.numbers = 2 * filters * len(cells[0]) * len(cells[1])
        self.register_buffer("filters", torch.zeros(filters, channels, _SIDE, _SIDE))
        self.register_buffer("rows", cells[0].T.contiguous(), persistent=False)
        self.register_buffer("columns", cells[1].T.contiguous(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Float32 [n, c, h, w] in [-1, 1] -> [n, 2 f g g]."""
        x = nn.functional.avg_pool2d(images, self._shrink)
        x = nn.functional.pad(x, (_SIDE // 2,) * 4, mode="replicate")
        averages = []
        for some in self.filters.split(_TOGETHER):
            maps = self._answers(x, some)
            rising = self._averaged(maps.relu())
            averages += [rising, rising - self._averaged(maps)]  # relu(-x) = relu(x) - x
        return torch.cat(averages, 1).clamp_min(_LEAST).sqrt()

    def _answers(self, x: Tensor, filters: Tensor) -> Tensor:
        """A GPU would round to 10 bits (TF32), and a filter of flat parts answer by more than 0."""
        if not x.is_cuda:
            return nn.functional.conv2d(x, filters)
        return nn.functional.conv2d(x.double(), filters.double()).float()

    def _averaged(self, maps: Tensor) -> Tensor:
        """[n, f, h, w] -> [n, f g g]."""
        return ((maps @ self.columns).transpose(2, 3) @ self.rows).flatten(1)


class MapsNet(nn.Module):
    """A linear layer on random maps.

    Args:
        image_shape: (height, width, channels).
        filters: f.
        classes: number of outputs.
    """

    def __init__(self, image_shape: Sequence[int], filters: int, classes: int) -> None:
        super().__init__()
        self.maps = RandomMaps(image_shape, filters)
        self.head = nn.Linear(self.maps.numbers, classes)

    def features(self, images: Tensor) -> Tensor:
        """Float32 [n, c, h, w] in [-1, 1] -> [n, d, 1, 1]."""
        numbers: Tensor = self.maps(images)
        return numbers[:, :, None, None]

    def forward(self, images: Tensor) -> Tensor:
        """Float32 [n, c, h, w] in [-1, 1] -> logits [n, k]."""
        logits: Tensor = self.head(self.maps(images))
        return logits


def random_filters(count: int, channels: int, generator: torch.Generator) -> Tensor:
    """Of noise, without their mean over pixels, of norm 1: float32 [count, channels, 5, 5]."""
    noise = torch.randn(count, channels, _SIDE, _SIDE, generator=generator)
    noise -= noise.mean((2, 3), keepdim=True)
    normed: Tensor = noise / noise.flatten(1).norm(dim=1)[:, None, None, None]
    return normed


def _averages(side: int) -> Tensor:
    """What averages each of g parts of a side, as equal as can be: float32 [g, side]."""
    g = min(_GRID, side)
    cells = torch.zeros(g, side)
    for i in range(g):
        first, last = i * side // g, -(-(i + 1) * side // g)
        cells[i, first:last] = 1 / (last - first)
    return cells
