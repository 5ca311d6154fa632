"""What encodes images, and decodes what was encoded."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gppdm_pipeline.images.labelled import Room
from gppdm_pipeline.pretrained.folder import EncoderError, Pretrained
from gppdm_pipeline.spaces.autoencoders import Autoencoder, Description
from gppdm_pipeline.spaces.encoders import Encoder, PretrainedEncoder, in_batches
from gppdm_pipeline.spaces.store import SHARD, Codes


class Coder:
    """An encoder; it is loaded when there is something to encode.

    Args:
        found: an autoencoder, or a folder's network; None: EfficientNet-Lite0. Autoencoders
            alone decode.
        side: pixels to which images are resized for it; None: as they are, or the network's own.
        device: where it computes.
    """

    def __init__(
        self, found: Description | Pretrained | None, side: int | None, device: torch.device
    ) -> None:
        self._found, self._side, self._device = found, side, device

    @cached_property
    def encoder(self) -> Encoder | PretrainedEncoder | Autoencoder:
        """What computes."""
        if self._found is None:
            return Encoder(self._device)
        if isinstance(self._found, Pretrained):
            return PretrainedEncoder(self._found, self._side, self._device)
        return Autoencoder(self._found, self._device)

    def of(self, images: Tensor) -> Tensor:
        """Of a batch on the device, uint8 [n, h, w, 1 or 3] -> float32 [n, c, h', w']."""
        if isinstance(self.encoder, PretrainedEncoder):
            return self.encoder.of(images)
        if isinstance(self.encoder, Encoder):
            assert self._side is not None
            return self.encoder.of(images, self._side)
        return self.encoder.of(images, self._side)

    def numbers(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Uint8 [n, h, w, 1 or 3], at least one -> float32 [n, h', w', c].

        Raises:
            EncoderError: if the encoder cannot be had.
        """
        found = np.concatenate([*in_batches(images, self.of, self._device)])
        return np.moveaxis(found, 1, -1)

    def codes(self, images: NDArray[np.uint8]) -> Codes:
        """As they are kept, in float16.

        Raises:
            EncoderError: if the encoder cannot be had, or gives numbers that float16 does not hold.
        """
        with np.errstate(over="ignore"):
            codes = self.numbers(images).astype(np.float16)
        if not np.isfinite(codes).all():
            which = "autoencoder" if isinstance(self._found, Description) else "encoder"
            raise EncoderError(
                f"space.{which}: it gives numbers that float16 does not hold. Compute in float32 "
                "on the CPU (device=cpu), or get its weights again."
            )
        return codes

    def shown(self, codes: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """What a batch of codes shows: float32 [n, c, h, w] on the device -> uint8 [n, *shape]."""
        assert isinstance(self.encoder, Autoencoder)
        return self.encoder.pictures(codes, shape)

    def pictures(self, codes: Codes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
        """What codes show, resized to (height, width, channels): uint8 [n, *shape]."""
        none = np.empty((0, *shape), np.uint8)
        found = in_batches(
            codes, lambda x: self.shown(x.float().permute(0, 3, 1, 2), shape), self._device
        )
        return np.concatenate([none, *found])


class Decoding:
    """What makes pictures of codes.

    Args:
        coder: of an autoencoder.
        shape: (height, width, channels) of the pictures.
    """

    def __init__(self, coder: Coder, shape: tuple[int, int, int]) -> None:
        self._coder, self._shape = coder, shape

    def __call__(self, codes: Codes) -> NDArray[np.uint8]:
        """float16 [n, h, w, c] -> uint8 [n, *shape]; many lie in a mapped file."""
        parts = (codes[i : i + SHARD] for i in range(0, len(codes), SHARD))
        pieces = (self._coder.pictures(part, self._shape) for part in parts)
        return Room.of((len(codes), *self._shape), pieces)
