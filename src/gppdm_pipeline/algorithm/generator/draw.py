"""The generator draws: replay, images drawn anew, and what it leaves out of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.guide import Guide
from gppdm_pipeline.algorithm.diffusion.network import clean_images, signal_shares
from gppdm_pipeline.algorithm.diffusion.samplers import Beginning, draw_images
from gppdm_pipeline.algorithm.fitting.batches import Pixels
from gppdm_pipeline.algorithm.generator.parts import GeneratorSettings, condition_table, denoiser_of
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages

TEXTURE_SHARE = 0.5
"""abar up to which texture is hidden in noise: as much signal as noise."""
TEXTURES = 2000


def replay_of(
    state: LearnerState,
    classes: Sequence[int],
    per_class: int | Sequence[int],
    settings: GeneratorSettings,
    context: Context,
    stage: str,
    guide: Guide | None = None,
) -> LabelledImages:
    """Draw images of each of `classes` from the generator of `state`.

    Args:
        state: with a generator that knows the classes.
        classes: any it knows.
        per_class: how many of each, at least 1: one number, or one for each class.
        settings: of the generator.
        context: seed, task, device, progress.
        stage: names the random numbers, and the bar.
        guide: the classifier that guides, if one does.

    Returns:
        uint8 images, class after class.
    """
    counts = [per_class] * len(classes) if isinstance(per_class, int) else list(per_class)
    labels = np.repeat(np.asarray(classes), counts)
    return _drawn(state, labels, settings, context, stage, guide=guide)


def redrawn(
    state: LearnerState,
    images: LabelledImages,
    per_class: int,
    signal: float,
    settings: GeneratorSettings,
    context: Context,
    stage: str,
) -> LabelledImages:
    """Images noised until a share `signal` is left, and drawn anew from there by the generator.

    They vary as the given ones do in what is left, and look as generated ones do in the rest.

    Args:
        state: with a generator that knows the images' classes.
        images: any number.
        per_class: at most so many of each class are drawn among them.
        signal: abar, above 0 and below 1.
        settings: of the generator.
        context: seed, task, device, progress.
        stage: names the random numbers, and the bar.

    Returns:
        uint8 images, class after class.
    """
    generator = context.generator(f"{stage}, of")
    order = torch.randperm(len(images), generator=generator, device=context.device).cpu().numpy()
    of_class = [order[images.labels[order] == label][:per_class] for label in images.classes]
    images = images.select(np.concatenate(of_class))
    beginning = Beginning(Pixels(images.images, context.device), signal)
    return _drawn(state, images.labels, settings, context, stage, beginning=beginning)


def _drawn(
    state: LearnerState,
    labels: NDArray[np.int64],
    settings: GeneratorSettings,
    context: Context,
    stage: str,
    guide: Guide | None = None,
    beginning: Beginning | None = None,
) -> LabelledImages:
    """An image for each label."""
    assert state.image_shape is not None
    denoiser = denoiser_of(state, settings, context)
    classes, rows = np.unique(labels, return_inverse=True)
    table = condition_table(state, classes.tolist(), settings, context)
    with context.progress(len(rows), stage) as bar:
        images = draw_images(
            denoiser,
            table,
            torch.from_numpy(rows).to(context.device),
            state.image_shape,
            settings.replay,
            settings.denoiser,
            context.generator(stage),
            bar,
            context.checkpoints(stage),
            guide,
            beginning,
        )
    return LabelledImages(images, labels)


@torch.no_grad()
def denoising_residuals(
    state: LearnerState, images: LabelledImages, settings: GeneratorSettings, context: Context
) -> Tensor:
    """What the denoiser leaves out of images: x less the x_0 that it sees in x with noise.

    Args:
        state: with a generator that knows the images' classes.
        images: any number; TEXTURES of them are drawn if there are more.
        settings: of the generator.
        context: seed, task, device.

    Returns:
        float32 [n, c, h, w], in units of [-1, 1].
    """
    generator = context.generator("texture")
    chosen = torch.randperm(len(images), generator=generator, device=context.device)[:TEXTURES]
    images = images.select(chosen.cpu().numpy())
    denoiser = denoiser_of(state, settings, context)
    classes = images.classes
    table = condition_table(state, classes, settings, context)
    rows = torch.from_numpy(np.searchsorted(classes, images.labels)).to(context.device)
    pixels = Pixels(images.images, context.device)
    shares = signal_shares(settings.denoiser, context.device)
    tau = (shares >= TEXTURE_SHARE).sum() - 1
    share, parts = shares[tau], []
    for part in torch.arange(len(rows), device=rows.device).split(settings.replay.batch_size):
        clean = pixels[part]
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        noisy = share.sqrt() * clean + (1 - share).sqrt() * noise
        output = denoiser(noisy, tau.expand(len(part)), *table(rows[part]))
        parts.append(clean - clean_images(noisy, output, share, settings.denoiser.prediction))
    return torch.cat(parts)
