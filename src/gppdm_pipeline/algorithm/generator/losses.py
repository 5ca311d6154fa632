"""How well the generator knows an image: the denoising loss, which is low for what it has learnt.

An attacker with the state can compute it (Carlini et al. 2023, arXiv 2301.13188; Duan et al. 2023,
arXiv 2302.01316); nothing here is used in learning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from gppdm_pipeline.algorithm.condition.table import ConditionTable
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.network import Denoiser
from gppdm_pipeline.algorithm.diffusion.process import Level, Process
from gppdm_pipeline.algorithm.fitting.batches import Pixels
from gppdm_pipeline.algorithm.fitting.scale import scale_of
from gppdm_pipeline.algorithm.fitting.threads import parts_of, together
from gppdm_pipeline.algorithm.generator.parts import GeneratorSettings, condition_table, denoiser_of
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages

SHARES = (0.9, 0.7)
"""abar: how much signal is left. With less, the noise hides which image it is: a third level, at
0.4, tells nothing more of digits (docs/log.md, "An audit in twenty seconds")."""
DRAWS = 2


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
    process, device = Process(settings.denoiser, context.device), context.device
    levels = [process.level((process.shares >= share).sum() - 1) for share in SHARES]
    height, width, channels = images.image_shape
    generator = context.generator("denoising losses")
    shape = (len(levels), DRAWS, channels, height, width)
    noises = torch.randn(shape, generator=generator, device=device)
    at = [*zip(levels, noises, strict=True)]
    pixels = Pixels(images.images, device, scale_of(state, device).given)
    found = torch.empty(len(images), len(levels))
    for label in images.classes:
        denoiser = denoiser_of(state, settings, context, label)
        table = condition_table(state, [label], settings, context)
        errors = partial(_errors, denoiser, table, process, pixels, at)
        members = torch.from_numpy(np.flatnonzero(images.labels == label)).to(device)
        for batch in members.split(settings.replay.batch_size):
            found[batch.cpu()] = context.team.in_parts(partial(_by_threads, errors), batch)
    return found


def _by_threads(errors: Callable[[Tensor], Tensor], members: Tensor) -> Tensor:
    pieces = [members[part] for part in parts_of(len(members), members.device)]
    return torch.cat(together(errors, pieces, members.device))


@torch.no_grad()
def _errors(
    denoiser: Denoiser,
    table: ConditionTable,
    process: Process,
    pixels: Pixels,
    noises: Sequence[tuple[Level, Tensor]],
    members: Tensor,
) -> Tensor:
    """Of some images of one class, int64 [b] of them: float32 [b, levels] on the CPU."""
    x, conditions = pixels[members], table(torch.zeros_like(members))
    columns = []
    for level, draws in noises:
        tau, errors = level.tau.expand(len(members)), []
        for noise in draws:
            output = denoiser(level.noised(x, noise), tau, conditions)
            errors.append((output - process.target(x, noise, level)).square())
        columns.append(torch.stack(errors).mean((0, 2, 3, 4)))
    return torch.stack(columns, 1).cpu()
