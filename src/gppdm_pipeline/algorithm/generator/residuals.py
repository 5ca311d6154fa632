"""What the generator leaves out of images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.process import Process
from gppdm_pipeline.algorithm.fitting.batches import Pixels
from gppdm_pipeline.algorithm.fitting.scale import scale_of
from gppdm_pipeline.algorithm.generator.parts import GeneratorSettings, condition_table, denoiser_of
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages

TEXTURE_SHARE = 0.5
"""abar up to which texture is hidden in noise: as much signal as noise."""
TEXTURES = 2000


@torch.no_grad()
def denoising_residuals(
    state: LearnerState, images: LabelledImages, settings: GeneratorSettings, context: Context
) -> Tensor:
    """What the denoiser leaves out of images: x less the x_0 that it sees in x with noise.

    Args:
        state: with a generator that knows the images' classes, whose adapter is the same.
        images: any number; TEXTURES of them are drawn if there are more.
        settings: of the generator.
        context: seed, task, device.

    Returns:
        float32 [n, c, h, w], in the units of what a classifier is given.
    """
    generator = context.generator("texture")
    chosen = torch.randperm(len(images), generator=generator, device=context.device)[:TEXTURES]
    images = images.select(chosen.cpu().numpy())
    classes = images.classes
    denoiser = denoiser_of(state, settings, context, classes[0])
    table = condition_table(state, classes, settings, context)
    rows = torch.from_numpy(np.searchsorted(classes, images.labels)).to(context.device)
    scale = scale_of(state, context.device)
    process = Process(settings.denoiser, context.device)
    pixels = Pixels(images.images, context.device, scale.given)
    level, parts = process.level((process.shares >= TEXTURE_SHARE).sum() - 1), []

    def left_out(part: Tensor, noise: Tensor) -> Tensor:
        x = pixels[part]
        noisy = level.noised(x, noise)
        output = denoiser(noisy, level.tau.expand(len(part)), table(rows[part]).of(slice(None)))
        clean = scale.bounded(process.clean(noisy, output, level))
        return scale.numbers(x) - scale.numbers(clean)

    height, width, channels = images.image_shape
    for part in torch.arange(len(rows), device=rows.device).split(settings.replay.batch_size):
        shape = (len(part), channels, height, width)
        noise = torch.randn(shape, generator=generator, device=rows.device)
        parts.append(context.team.in_parts(left_out, part, noise))
    return torch.cat(parts)
