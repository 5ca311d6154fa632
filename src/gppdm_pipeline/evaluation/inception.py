"""Inception v3 as published Frechet distances use it, run from a state dict as a function.

Szegedy et al. 2016 (arXiv 1512.00567), with the changes of the graph of 2015 that those numbers
come from: average pooling does not count the padding, and the last block takes a maximum. Names are
those of torchvision and pytorch-fid. torchvision's own weights run too; their numbers are not
comparable with published ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_SIDE = 299


def inception_features(weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """The last pooled features: [n, 3, h, w] in 0..255 -> [n, 2048].

    Args:
        weights: of Inception v3; the auxiliary and the last layer are not read.
        images: float32.
    """
    x = nn.functional.interpolate(images, (_SIDE, _SIDE), mode="bilinear", align_corners=False)
    return _Inception(weights).features(x / 127.5 - 1)


class _Inception:
    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights

    def features(self, x: Tensor) -> Tensor:
        x = self._conv("Conv2d_1a_3x3", x, stride=2, pad=False)
        x = self._conv("Conv2d_2a_3x3", x, pad=False)
        x = _largest(self._conv("Conv2d_2b_3x3", x))
        x = self._conv("Conv2d_3b_1x1", x)
        x = _largest(self._conv("Conv2d_4a_3x3", x, pad=False))
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self._block_a(name, x)
        x = self._block_b("Mixed_6a", x)
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x = self._block_c(name, x)
        x = self._block_d("Mixed_7a", x)
        x = self._block_e("Mixed_7b", x, _mean(x))
        x = self._block_e("Mixed_7c", x, nn.functional.max_pool2d(x, 3, 1, 1))
        return x.mean((2, 3))

    def _conv(self, name: str, x: Tensor, stride: int = 1, pad: bool = True) -> Tensor:
        kernel = self._weights[f"{name}.conv.weight"]
        height, width = kernel.shape[2:]
        padding = (height // 2, width // 2) if pad else 0
        x = nn.functional.conv2d(x, kernel, stride=stride, padding=padding)
        mean, variance, scale, shift = (
            self._weights[f"{name}.bn.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return nn.functional.batch_norm(x, mean, variance, scale, shift, eps=1e-3).relu_()

    def _chain(self, block: str, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self._conv(f"{block}.{name}", x)
        return x

    def _block_a(self, block: str, x: Tensor) -> Tensor:
        return torch.cat(
            [
                self._chain(block, x, "branch1x1"),
                self._chain(block, x, "branch5x5_1", "branch5x5_2"),
                self._chain(block, x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
                self._chain(block, _mean(x), "branch_pool"),
            ],
            1,
        )

    def _block_b(self, block: str, x: Tensor) -> Tensor:
        double = self._chain(block, x, "branch3x3dbl_1", "branch3x3dbl_2")
        return torch.cat(
            [
                self._conv(f"{block}.branch3x3", x, stride=2, pad=False),
                self._conv(f"{block}.branch3x3dbl_3", double, stride=2, pad=False),
                _largest(x),
            ],
            1,
        )

    def _block_c(self, block: str, x: Tensor) -> Tensor:
        return torch.cat(
            [
                self._chain(block, x, "branch1x1"),
                self._chain(block, x, *(f"branch7x7_{i}" for i in (1, 2, 3))),
                self._chain(block, x, *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))),
                self._chain(block, _mean(x), "branch_pool"),
            ],
            1,
        )

    def _block_d(self, block: str, x: Tensor) -> Tensor:
        one = self._chain(block, x, "branch3x3_1")
        other = self._chain(block, x, *(f"branch7x7x3_{i}" for i in (1, 2, 3)))
        return torch.cat(
            [
                self._conv(f"{block}.branch3x3_2", one, stride=2, pad=False),
                self._conv(f"{block}.branch7x7x3_4", other, stride=2, pad=False),
                _largest(x),
            ],
            1,
        )

    def _block_e(self, block: str, x: Tensor, pooled: Tensor) -> Tensor:
        single = self._chain(block, x, "branch3x3_1")
        double = self._chain(block, x, "branch3x3dbl_1", "branch3x3dbl_2")
        return torch.cat(
            [
                self._chain(block, x, "branch1x1"),
                self._chain(block, single, "branch3x3_2a"),
                self._chain(block, single, "branch3x3_2b"),
                self._chain(block, double, "branch3x3dbl_3a"),
                self._chain(block, double, "branch3x3dbl_3b"),
                self._chain(block, pooled, "branch_pool"),
            ],
            1,
        )


def _largest(x: Tensor) -> Tensor:
    return nn.functional.max_pool2d(x, 3, 2)


def _mean(x: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
