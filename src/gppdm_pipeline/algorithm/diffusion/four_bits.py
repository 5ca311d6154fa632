"""Matrices kept in four bits a number: what fine-tuning adds to weights needs no more.

What a training adds to weights that have learnt before can be kept in far fewer bits than the
weights themselves (Liu et al. 2024, BitDelta, arXiv 2402.10193, keep one). Here each row of a
matrix has a step s of its own, and each number is one of 16, -7.5 s, -6.5 s, ..., 7.5 s.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_TOP = 7.5
_CLIPS = tuple(0.4 + 0.05 * i for i in range(13))
"""Shares of a row's largest number that the largest of the 16 may be: large ones may be cut, so
that the steps between all others are finer."""


class FourBits(NamedTuple):
    """A matrix [rows, columns].

    Attributes:
        codes: uint8 [rows, ceil(columns / 2)], two numbers each, the first in the lower four bits;
            code k stands for (k - 7.5) step.
        step: float16 [rows].
    """

    codes: Tensor
    step: Tensor


def packed(matrix: Tensor) -> FourBits:
    """The nearest of such numbers, by the step that leaves the least squared error in each row.

    Args:
        matrix: float32 [rows, columns], finite.
    """
    largest = matrix.abs().amax(1)
    step, least = torch.zeros_like(largest), torch.full_like(largest, torch.inf)
    for clip in _CLIPS:
        tried = (largest * clip / _TOP).half().float()
        error = (_numbers(_codes(matrix, tried), tried) - matrix).square().sum(1)
        step, least = torch.where(error < least, tried, step), torch.minimum(error, least)
    codes = _codes(matrix, step)
    codes = torch.nn.functional.pad(codes, (0, codes.shape[1] % 2))
    return FourBits(codes[:, ::2] | codes[:, 1::2] << 4, step.half())


def unpacked(kept: FourBits, columns: int) -> Tensor:
    """The matrix, float32 [rows, columns]."""
    codes = torch.stack([kept.codes & 15, kept.codes >> 4], 2).flatten(1)[:, :columns]
    return _numbers(codes, kept.step.float())


def _codes(matrix: Tensor, step: Tensor) -> Tensor:
    """The nearest number's, uint8 [rows, columns]; where the step is 0 any is as near."""
    steps = matrix / step.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    return (steps + _TOP).round().clamp(0, 2 * _TOP).to(torch.uint8)


def _numbers(codes: Tensor, step: Tensor) -> Tensor:
    return (codes.float() - _TOP) * step[:, None]
