"""An autoencoder of one's own, trained on images without labels.

A variational one whose posterior has a fixed spread: the decoder learns from latents with noise,
and a penalty on their squares, the divergence from N(0, 1) but for a constant, keeps them small
beside that noise (Kingma & Welling 2013, arXiv 1312.6114). So a generator's small errors do little
harm. The architecture is diffusers' AutoencoderTiny.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.batches import Pixels
from gppdm_pipeline.algorithm.fitting.graphs import on, rate
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.fitting.loop import Budget, Moving, Objective, fit

_NOISE = 0.1
"""The posterior's spread."""
_DIVERGENCE = 1e-3
"""Weight of the latents' squares beside the mean squared error of pixels in [-1, 1]."""


@dataclass(frozen=True)
class OwnAutoencoder:
    """Architecture and budget.

    Attributes:
        width: channels of every layer.
        halvings: how often an image is halved.
        channels: of the latents.
        steps: of the training.
        batch_size: images in each.
        learning_rate: of AdamW, at its peak.
    """

    width: int
    halvings: int
    channels: int
    steps: int
    batch_size: int
    learning_rate: float

    def arguments(self, colours: int) -> dict[str, Any]:
        """Of diffusers' AutoencoderTiny, for images of so many channels."""
        levels = self.halvings + 1
        return {
            "in_channels": colours,
            "out_channels": colours,
            "latent_channels": self.channels,
            "encoder_block_out_channels": [self.width] * levels,
            "decoder_block_out_channels": [self.width] * levels,
            "num_encoder_blocks": [1] * levels,
            "num_decoder_blocks": [1] * levels,
        }


class _Reconstruction(Objective):
    """Mean squared error of pixels, and the latents' mean square."""

    def __init__(self, network: Any, images: Pixels) -> None:
        self._network, self._images = network, images

    def drawn(self, batch: Tensor, generator: torch.Generator) -> Sequence[Tensor]:
        """Images [b, c, h, w], and a seed's noise for the latents of each, [b, k, h', w']."""
        x = self._images[batch]
        factor = 2 ** (len(self._network.config.encoder_block_out_channels) - 1)
        shape = (len(x), self._network.config.latent_channels, *(n // factor for n in x.shape[2:]))
        return x, torch.randn(shape, generator=generator, device=x.device)

    def losses(self, drawn: Sequence[Tensor]) -> dict[str, Tensor]:
        """`reconstruction_loss` and `divergence`."""
        x, noise = drawn
        latents = self._network.encode(x).latents
        shown = self._network.decode(latents + _NOISE * noise).sample
        return {
            "reconstruction_loss": nn.functional.mse_loss(shown, x),
            "divergence": _DIVERGENCE * latents.square().mean() / 2,
        }


def fit_autoencoder(
    images: NDArray[np.uint8], settings: OwnAutoencoder, context: Context
) -> tuple[Any, StageLog]:
    """Train an autoencoder; the same for the same seed.

    Args:
        images: uint8 [n, h, w, 1 or 3], at least one, whose sides can be halved so often.
        settings: architecture and budget.
        context: seed, device, progress, checkpoints.

    Returns:
        diffusers' AutoencoderTiny on the CPU, in evaluation mode, and the log: curves
        `reconstruction_loss` and `divergence`.
    """
    from diffusers import AutoencoderTiny  # noqa: PLC0415 (takes two seconds)

    device, stage = context.device, "train_autoencoder"
    with context.initialisation(stage):
        network = AutoencoderTiny(**settings.arguments(images.shape[3])).to(device).train()
    parameters = list(network.parameters())
    learning_rate = rate(settings.learning_rate, device)
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, **on(device))
    objective = _Reconstruction(network, Pixels(images, device))
    labels = torch.zeros(len(images), dtype=torch.int64, device=device)
    budget = Budget(settings.steps, settings.batch_size, gradient_clip=1.0)
    log = fit(objective, Moving(parameters, optimiser), labels, budget, context, stage)
    return network.cpu().eval().requires_grad_(False), log
