"""Learning from generated images without learning what generated images look like.

A generator leaves out what it cannot say, such as the texture of cloth, and a classifier that
learns from its images alone is at a loss with real ones. What is left out of real images of the
current task is known: the residuals of their reconstructions. Added to generated images of all
classes alike, old and new, they bring the texture of real images and tell nothing about the class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gppdm_pipeline.algorithm.classifier.network import Alteration


def texture_of(residuals: Tensor) -> Alteration:
    """Images with a residual drawn for each.

    Args:
        residuals: real images less their reconstructions, float32 [n, c, h, w], on the device.
    """

    def textured(x: Tensor, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(residuals), (len(x),), generator=generator, device=x.device)
        return (x + residuals[chosen]).clamp(-1, 1)

    return textured
