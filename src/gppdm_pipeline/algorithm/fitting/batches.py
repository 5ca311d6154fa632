"""Images as tensors: what range they have, and their batches. No loop over images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

_COPIED = 1024  # images at a time


def to_unit_range(images: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Uint8 [n, h, w, c] -> float32 [n, c, h, w] in [-1, 1] on `device`; float16 as it is."""
    if isinstance(images, np.ndarray) and not images.flags.writeable:
        images = images.copy()  # of a mapped file; torch takes no array that cannot be written
    tensor = torch.as_tensor(images).to(device).permute(0, 3, 1, 2)
    numbers = tensor.contiguous().to(torch.float32)
    return numbers.div_(127.5).sub_(1) if tensor.dtype == torch.uint8 else numbers


def from_unit_range(x: Tensor, dtype: DTypeLike) -> NDArray[Any]:
    """What `to_unit_range` makes x of: float [n, c, h, w] -> [n, h, w, c] of uint8 or float16."""
    return as_stored(x, np.dtype(dtype)).permute(0, 2, 3, 1).cpu().numpy()


def as_stored(x: Tensor, dtype: np.dtype) -> Tensor:
    """The same with axes as they are, [n, c, h, w], as a tensor of uint8 or float16.

    Numbers that these cannot hold become the nearest that they can.
    """
    if dtype == np.uint8:
        return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    most = torch.finfo(torch.float16).max
    return x.clamp(-most, most).to(torch.float16)


@dataclass(frozen=True)
class Whitening:
    """How c channels are whitened; all float32, on one device.

    Attributes:
        mean: [c].
        matrix: W, a direction a row, [c, c].
        inverse: of it, [c, c].
    """

    mean: Tensor
    matrix: Tensor
    inverse: Tensor


@dataclass(frozen=True)
class Scale:
    """What a generator is given, and what is stored of what it draws.

    Attributes:
        whitening: of what an encoder has made; None: of pixels.
    """

    whitening: Whitening | None = None

    @property
    def dtype(self) -> np.dtype:
        """Of what is stored: float16, or uint8 of pixels."""
        return np.dtype(np.uint8 if self.whitening is None else np.float16)

    def given(self, x: Tensor) -> Tensor:
        """What a classifier is given (`to_unit_range`) -> what a generator is, [n, c, h, w]."""
        if self.whitening is None:
            return x
        mean = self.whitening.mean[:, None, None]
        return _mixed(x - mean, self.whitening.matrix)

    def numbers(self, x: Tensor) -> Tensor:
        """The inverse of `given`."""
        if self.whitening is None:
            return x
        return _mixed(x, self.whitening.inverse) + self.whitening.mean[:, None, None]

    def bounded(self, x: Tensor) -> Tensor:
        """What a generator says, kept in [-1, 1] if it is of pixels; nothing else has a bound."""
        return x.clamp(-1, 1) if self.whitening is None else x

    def stored(self, x: Tensor) -> Tensor:
        """What a generator has drawn, as it is stored: uint8 or float16, [n, c, h, w]."""
        return as_stored(self.numbers(x), self.dtype)


PIXELS = Scale()


class Pixels:
    """Images as a training draws them: bytes, of which a batch becomes numbers when it is drawn.

    Args:
        images: uint8 or float16 [n, h, w, c]. For the CPU they stay where they are, be it in a
            mapped file; another device gets a copy.
        device: where batches are wanted.
        given: what is done to a batch before it is used, float32 [b, c, h, w] -> likewise.
    """

    def __init__(
        self,
        images: NDArray[Any],
        device: torch.device,
        given: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        self.device, self._given = device, given
        self._images: NDArray[Any] | Tensor = images
        if device.type != "cpu":
            dtype = torch.uint8 if images.dtype == np.uint8 else torch.float16
            self._images = torch.empty(images.shape, dtype=dtype, device=device)
            for start in range(0, len(images), _COPIED):
                piece = np.array(images[start : start + _COPIED])
                self._images[start : start + _COPIED] = torch.from_numpy(piece)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, batch: Tensor) -> Tensor:
        """Int64 [b], indices -> float32 [b, c, h, w] (see `to_unit_range`)."""
        if isinstance(self._images, Tensor):
            return self._given(to_unit_range(self._images[batch], self.device))
        return self._given(to_unit_range(self._images[batch.numpy()], self.device))


def balanced_indices(
    labels: Tensor,
    steps: int,
    batch_size: int,
    generator: torch.Generator,
    weights: Tensor | None = None,
) -> Tensor:
    """Which images each step sees: every class equally often in expectation, or by its weight.

    Real and replayed classes differ in number of images; drawing classes before images keeps the
    head from favouring the larger ones.

    Args:
        labels: int64 [n], the class of each image, 0 <= label < k.
        steps: number of batches.
        batch_size: images a batch, drawn with replacement.
        generator: on the labels' device.
        weights: float32 [k], how often each class is drawn in proportion; None: all alike.

    Returns:
        int64 [steps, batch_size], indices into the images.
    """
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    firsts = counts.cumsum(0) - counts
    present = counts.nonzero().squeeze(1)
    shape, device = (steps, batch_size), labels.device
    if weights is None:
        drawn = torch.randint(len(present), shape, generator=generator, device=device)
    else:
        drawn = torch.multinomial(weights[present], steps * batch_size, True, generator=generator)
    chosen = present[drawn.reshape(shape)]
    within = torch.rand(shape, generator=generator, device=device) * counts[chosen]
    return order[firsts[chosen] + within.long().clamp_max(counts[chosen] - 1)]


def _mixed(x: Tensor, matrix: Tensor) -> Tensor:
    """Float32 [n, c, h, w], its channels times a matrix [c, c]."""
    return (x.movedim(1, -1) @ matrix.T).movedim(-1, 1).contiguous()
