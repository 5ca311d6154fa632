"""The texture of real images, added to generated ones.

Generated images lack details such as the texture of cloth, and a classifier trained on them alone
fails on real images. The residuals of real images of the current task (image minus reconstruction)
hold these details. They are added to generated images of all classes, old and new, so that they
tell nothing about the class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gppdm_pipeline.algorithm.classifier.network import Alteration
from gppdm_pipeline.algorithm.fitting.batches import PIXELS, Scale


def texture_of(residuals: Tensor, scale: Scale = PIXELS) -> Alteration:
    """Images with a residual drawn for each.

    Args:
        scale: whether images have a bound.
        residuals: real images less their reconstructions, float32 [n, c, h, w], on the device.
    """

    def textured(x: Tensor, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(residuals), (len(x),), generator=generator, device=x.device)
        return scale.bounded(x + residuals[chosen])

    return textured
