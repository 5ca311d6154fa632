"""How well the generator knows an image: the denoising loss, which is low for what it has learnt.

An attacker with the state can compute it (Carlini et al. 2023, arXiv 2301.13188; Duan et al. 2023,
arXiv 2302.01316); nothing here is used in learning.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.network import signal_shares
from gppdm_pipeline.algorithm.fitting.batches import Pixels
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
    denoiser = denoiser_of(state, settings, context)
    table = condition_table(state, images.classes, settings, context)
    rows = torch.from_numpy(np.searchsorted(images.classes, images.labels)).to(context.device)
    pixels = Pixels(images.images, context.device)
    abar = signal_shares(settings.denoiser, context.device)
    taus = [(abar >= share).sum() - 1 for share in SHARES]
    generator = context.generator("denoising losses")
    noises = torch.randn(
        len(taus), DRAWS, *pixels[rows[:0]].shape[1:], generator=generator, device=context.device
    )
    parts = []
    for part in torch.arange(len(rows), device=rows.device).split(settings.replay.batch_size):
        clean, conditions = pixels[part], table(rows[part])
        losses = []
        for tau, draws in zip(taus, noises, strict=True):
            signal, sigma = abar[tau].sqrt(), (1 - abar[tau]).sqrt()
            of_draws = []
            for noise in draws:
                output = denoiser(
                    signal * clean + sigma * noise, tau.expand(len(part)), *conditions
                )
                epsilon = settings.denoiser.prediction == "epsilon"
                target = noise if epsilon else signal * noise - sigma * clean
                of_draws.append((output - target).square().mean((1, 2, 3)))
            losses.append(torch.stack(of_draws).mean(0))
        parts.append(torch.stack(losses, 1).cpu())
    return torch.cat(parts)
