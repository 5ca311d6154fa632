"""TAEF2, the tiny autoencoder of FLUX.2 (madebyollin/taesd, MIT): its layers, and its files.

    encoder: conv, block, then three times a halving and three blocks, conv to 32 channels
    decoder: 3 tanh(x / 3), conv, three times blocks and a doubling, a block, conv to 3 channels

Names in its files count the layers of these sequences. diffusers' AutoencoderTiny has no pool in
its blocks, so that the files do not load there.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gppdm_pipeline.pretrained.folder import EncoderError

FACTOR, CHANNELS = 8, 32
BOUND = 6.0
"""Of a latent: all but a trace of those of natural images are nearer to 0."""
FILES = ("encoder.safetensors", "decoder.safetensors")
_WIDTH, _POOL = 64, 256


class Taef2(nn.Module):
    """Encoder and decoder, with weights of noise."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [_Block(), _Block(), _Block()], [_Block(), _Block(), _Block()]
        self.encoder = nn.Sequential(
            _conv(3, _WIDTH),
            _Block(),
            *(_halving(), *blocks[0], _halving(), *blocks[1]),
            *(_halving(), *(_Block(pools=True) for _ in range(3))),
            _conv(_WIDTH, CHANNELS),
        )
        self.decoder = nn.Sequential(
            _Bounded(),
            *(_conv(CHANNELS, _WIDTH), nn.ReLU()),
            *(_Block(pools=True) for _ in range(3)),
            *(*_doubling(), _Block(), _Block(), _Block()),
            *(*_doubling(), _Block(), _Block(), _Block()),
            *(*_doubling(), _Block(), _conv(_WIDTH, 3)),
        )

    def encode(self, x: Tensor) -> Tensor:
        """Float32 [n, 3, h, w] in [0, 1] -> latents [n, 32, h / 8, w / 8]."""
        latents: Tensor = self.encoder(x)
        return latents.clamp(-BOUND, BOUND)

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse, as near as it gets; not kept in [0, 1]."""
        x: Tensor = self.decoder(latents)
        return x


class _Block(nn.Module):
    """Three convolutions beside the identity; before them, where asked, a pool of wide norms."""

    def __init__(self, pools: bool = False) -> None:
        super().__init__()
        convolutions = [_conv(_WIDTH, _WIDTH) for _ in range(3)]
        self.conv = nn.Sequential(
            convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2]
        )
        self.pool = (
            nn.Sequential(
                nn.Conv2d(_WIDTH, _POOL, 1, bias=False),
                nn.GroupNorm(4, _POOL),
                nn.ReLU(),
                nn.Conv2d(_POOL, _WIDTH, 1, bias=False),
            )
            if pools
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float32 [n, 64, h, w] -> likewise."""
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class _Bounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """3 tanh(x / 3)."""
        return torch.tanh(x / 3) * 3


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _halving() -> nn.Conv2d:
    return nn.Conv2d(_WIDTH, _WIDTH, 3, stride=2, padding=1, bias=False)


def _doubling() -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2), nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1, bias=False)]


def read(folder: Path) -> Taef2:
    """With the weights of the two files in `folder`, in float32.

    Raises:
        EncoderError: if they are of another network.
    """
    with torch.device("meta"):
        network = Taef2()
    for name, part in zip(FILES, (network.encoder, network.decoder), strict=True):
        tensors = {key: tensor.float() for key, tensor in load_file(folder / name).items()}
        try:
            part.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            raise EncoderError(
                f"{folder / name}: it has not the weights of TAEF2 "
                f"({str(error).splitlines()[-1].strip()}). Name a folder with its two files in "
                "space.weights."
            ) from error
    return network
