"""How well the generator knows an image: the denoising loss, which is low for what it has learnt.

An attacker with the state can compute it (Carlini et al. 2023, arXiv 2301.13188; Duan et al. 2023,
arXiv 2302.01316); nothing here is used in learning.
"""

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

SHARES = (0.9, 0.7, 0.4)
"""abar: how much signal is left. With less, the noise hides which image it is."""
DRAWS = 2


@torch.no_grad()
def denoising_losses(
    state: LearnerState, images: LabelledImages, settings: GeneratorSettings, context: Context
) -> Tensor:
    """The mean squared error of the denoiser on each image, at several levels of noise.

    The noise is the same for all images, so that their losses can be compared.

    Args:
        state: with a generator that knows the images' classes.
        images: n of them.
        settings: of the generator.
        context: seed, task, device.

    Returns:
        float32 [n, len(SHARES)] on the CPU.
    """
    process = Process(settings.denoiser, context.device)
    levels = [process.level((process.shares >= share).sum() - 1) for share in SHARES]
    height, width, channels = images.image_shape
    generator, device = context.generator("denoising losses"), context.device
    shape = (len(levels), DRAWS, channels, height, width)
    noises = torch.randn(shape, generator=generator, device=device)
    found = torch.empty(len(images), len(levels))
    for label in images.classes:
        denoiser = denoiser_of(state, settings, context, label)
        table = condition_table(state, [label], settings, context)
        pixels = Pixels(images.images, device, scale_of(state, device).given)
        members = torch.from_numpy(np.flatnonzero(images.labels == label)).to(device)
        for part in members.split(settings.replay.batch_size):
            x, rows = pixels[part], torch.zeros_like(part)
            for column, (level, draws) in enumerate(zip(levels, noises, strict=True)):
                errors = []
                for noise in draws:
                    noisy, tau = level.noised(x, noise), level.tau.expand(len(part))
                    output = denoiser(noisy, tau, table(rows))
                    errors.append((output - process.target(x, noise, level)).square())
                found[part.cpu(), column] = torch.stack(errors).mean((0, 2, 3, 4)).cpu()
    return found
