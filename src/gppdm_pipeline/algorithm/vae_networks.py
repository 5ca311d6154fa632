"""The networks of the VAE: convolutions of images, an MLP of what an encoder made.

b images a batch; (c, h, w) channels, height, width; d latent dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gppdm_pipeline.algorithm.fitting.batches import Scale


class ConvVae(nn.Module):
    """Encoder and decoder with two halvings each.

    Args:
        image_shape: (height, width, channels), for which `check_image_shape` holds.
        width: channels at half the resolution.
        latent_dim: d.
        classes: number of classes that it is told apart.
    """

    def __init__(
        self, image_shape: Sequence[int], width: int, latent_dim: int, classes: int
    ) -> None:
        super().__init__()
        height, breadth, channels = image_shape
        self.lowest = (2 * width, height // 4, breadth // 4)
        features = 2 * width * self.lowest[1] * self.lowest[2]
        self.encoder_labels = nn.Embedding(classes, 2 * width)
        self.decoder_labels = nn.Embedding(classes, latent_dim)
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(inplace=True),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        )
        self.to_latent = nn.Sequential(
            nn.GroupNorm(8, 2 * width), nn.SiLU(), nn.Flatten(), nn.Linear(features, 2 * latent_dim)
        )
        self.from_latent = nn.Linear(2 * latent_dim, features)
        self.decoder = nn.Sequential(
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(inplace=True),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1),
            nn.PixelShuffle(2),
            nn.GroupNorm(8, width),
            nn.SiLU(inplace=True),
            nn.Conv2d(width, 4 * channels, 5, padding=2),
            nn.PixelShuffle(2),
        )

    def shown(self, x: Tensor) -> Tensor:
        """What a generator is given, in [-1, 1] -> what this network is shown, in [0, 1]."""
        return (x + 1) / 2

    def encode(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """X [b, c, h, w] in [0, 1] and classes int64 [b] -> mean and log variance, each [b, d]."""
        features = self.encoder(2 * x - 1) + self.encoder_labels(rows)[:, :, None, None]
        mean, log_variance = self.to_latent(features).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor, rows: Tensor) -> Tensor:
        """Latents [b, d] and classes int64 [b] -> logits of the pixels [b, c, h, w]."""
        features = self.from_latent(torch.cat([z, self.decoder_labels(rows)], dim=1))
        logits: Tensor = self.decoder(features.unflatten(1, self.lowest))
        return logits

    def distance(self, logits: Tensor, x: Tensor) -> Tensor:
        """Cross-entropy of pixels, summed over all of them: a scalar."""
        return nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")

    def said(self, logits: Tensor) -> Tensor:
        """The pixels that logits say, in [0, 1]."""
        return logits.sigmoid()

    def given(self, logits: Tensor) -> Tensor:
        """The same in [-1, 1]."""
        return 2 * logits.sigmoid() - 1

    def stored(self, logits: Tensor, scale: Scale) -> Tensor:
        """The same as they are stored: uint8 [b, c, h, w]."""
        return (logits.sigmoid() * 255).round().to(torch.uint8)


class VectorVae(nn.Module):
    """Encoder and decoder of one hidden layer each, for vectors, or maps, of about unit scale.

    The likelihood is a Gaussian of unit variance around what the decoder says: the mean of the
    class, which is learnt for itself, and what the latents add to it.

    Args:
        image_shape: (height, width, channels); of vectors (1, 1, numbers).
        width: a sixteenth of the hidden units.
        latent_dim: d.
        classes: number of classes that it is told apart.
    """

    def __init__(
        self, image_shape: Sequence[int], width: int, latent_dim: int, classes: int
    ) -> None:
        super().__init__()
        height, breadth, channels = image_shape
        numbers, hidden = height * breadth * channels, 16 * width
        self.shape = (channels, height, breadth)
        self.encoder_labels = nn.Embedding(classes, hidden)
        self.decoder_labels = nn.Embedding(classes, latent_dim)
        self.means = nn.Embedding(classes, numbers, _weight=torch.zeros(classes, numbers))
        self.encoder = nn.Linear(numbers, hidden)
        self.to_latent = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * latent_dim))
        self.decoder = nn.Sequential(
            nn.Linear(2 * latent_dim, hidden), nn.SiLU(), nn.Linear(hidden, numbers)
        )

    def shown(self, x: Tensor) -> Tensor:
        """What a generator is given, as it is."""
        return x

    def encode(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """X [b, c, h, w] and classes int64 [b] -> mean and log variance, each [b, d]."""
        features = self.encoder(x.flatten(1)) + self.encoder_labels(rows)
        mean, log_variance = self.to_latent(features).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor, rows: Tensor) -> Tensor:
        """Latents [b, d] and classes int64 [b] -> the vectors' means [b, c, h, w]."""
        added = self.decoder(torch.cat([z, self.decoder_labels(rows)], dim=1))
        means: Tensor = self.means(rows) + added
        unflattened: Tensor = means.unflatten(1, self.shape)
        return unflattened

    def distance(self, means: Tensor, x: Tensor) -> Tensor:
        """Minus the log likelihood but for a constant, summed over all numbers: a scalar."""
        return nn.functional.mse_loss(means, x, reduction="sum") / 2

    def said(self, means: Tensor) -> Tensor:
        """The means, as they are."""
        return means

    given = said

    def stored(self, means: Tensor, scale: Scale) -> Tensor:
        """The same as they are stored: float16 [b, c, h, w]."""
        return scale.stored(means)


Vae = ConvVae | VectorVae


def vae_class(image_shape: Sequence[int], encoded: bool = False) -> type[Vae]:
    """The network that learns images of this (height, width, channels), or what encodes them."""
    return VectorVae if encoded or tuple(image_shape[:2]) == (1, 1) else ConvVae


def check_image_shape(image_shape: tuple[int, int, int]) -> None:
    """Raise ValueError if images of this (height, width, channels) cannot be halved twice."""
    height, width, _ = image_shape
    if vae_class(image_shape) is ConvVae and (height % 4 or width % 4):
        raise ValueError(
            f"images of {height}x{width} cannot be halved twice, which the VAE does; use images "
            "whose sides are multiples of 4, or another method"
        )
