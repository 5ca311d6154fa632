"""Operations and weights of a preset's networks, counted without computing anything.

    PYTHONPATH=src python benchmarks/operations.py imagenet64_t10 64 3 1000

Arguments: preset, side of an image, channels, classes. Multiplications and additions count as two,
as torch counts them; docs/scaling.md reckons with these numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from measuring import preset
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gppdm_pipeline.algorithm.classifier.networks import SmallConvNet
from gppdm_pipeline.algorithm.diffusion.network import unet_config
from gppdm_pipeline.methods import Method

_BATCH = 8


def counted(network: nn.Module, call: Callable[[], Tensor]) -> str:
    """One sentence on a network."""
    weights = sum(weight.numel() for weight in network.parameters()) / 1e6
    with FlopCounterMode(display=False) as forward:
        call()
    with FlopCounterMode(display=False) as both:
        call().sum().backward()
    ways = [way.get_total_flops() / _BATCH / 1e9 for way in (forward, both)]
    return (
        f"{weights:.1f} million weights; {ways[0]:.2f} GFLOP an image forward, {ways[1]:.2f} with "
        "backward"
    )


def main(name: str, side: int, channels: int, classes: int) -> None:
    """Print a line for the denoiser and one for the classifier."""
    from diffusers import UNet2DConditionModel  # noqa: PLC0415 (takes two seconds)

    settings, shape = preset(name), (side, side, channels)
    method = Method.model_validate({"name": "gppdm", **settings["generator"]})
    config = unet_config(method.denoiser, shape, method.prototypes.concatenated)
    small = side // method.denoiser.patch
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
        classifier = SmallConvNet(shape, settings["classifier"]["width"], classes)
        x = torch.empty(_BATCH, config["in_channels"], small, small)
        given = torch.zeros(_BATCH), torch.empty(_BATCH, 1, method.denoiser.condition_dim)
        print("denoiser:", counted(unet, lambda: unet(x, *given, return_dict=False)[0]))
        images = torch.empty(_BATCH, channels, side, side)
        print("classifier:", counted(classifier, lambda: classifier(images)))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
