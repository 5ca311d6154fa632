"""The generator as a part of the state: take in new classes, draw images.

The generator is the denoiser with its condition. It is trained in `generator_training.py`; what its
projected layers must keep is in `generator_bases.py`. Each function takes a state and returns a new
one, or images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gppdm_pipeline.algorithm.condition import (
    ConditionTable,
    check_token_side,
    make_token_map,
)
from gppdm_pipeline.algorithm.denoiser import (
    Denoiser,
    DenoiserConfig,
    build_unet,
    clean_images,
    signal_shares,
    unet_config,
)
from gppdm_pipeline.algorithm.device import Context
from gppdm_pipeline.algorithm.embeddings import (
    ConditionConfig,
    check_embeddings,
    label_embeddings,
)
from gppdm_pipeline.algorithm.guidance import Guide
from gppdm_pipeline.algorithm.pixels import Pixels
from gppdm_pipeline.algorithm.projection import ProjectionConfig
from gppdm_pipeline.algorithm.prototypes import PrototypeConfig, prototype_starts
from gppdm_pipeline.algorithm.replay import Beginning, ReplayConfig, draw_images
from gppdm_pipeline.algorithm.state import Condition, LearnerState
from gppdm_pipeline.images import LabelledImages

TEXTURE_SHARE = 0.5
"""abar up to which texture is hidden in noise: as much signal as noise."""
TEXTURES = 2000


class GeneratorSettings(Protocol):
    """What a method with a diffusion generator is set to."""

    @property
    def condition(self) -> ConditionConfig:
        """What stands for a class, and for none."""

    @property
    def denoiser(self) -> DenoiserConfig:
        """Architecture, objective and budget."""

    @property
    def prototypes(self) -> PrototypeConfig:
        """How prototypes start, learn and enter."""

    @property
    def projection(self) -> ProjectionConfig:
        """Which updates are projected."""

    @property
    def replay(self) -> ReplayConfig:
        """How images are drawn."""


def check_images(
    settings: GeneratorSettings, image_shape: tuple[int, int, int], classes: int
) -> None:
    """Whether a generator with these settings can draw such images.

    Args:
        settings: of the generator.
        image_shape: (height, width, channels).
        classes: how many there will be; they are 0 to classes - 1.

    Raises:
        ValueError: if the image cannot be halved or cut as often as the settings say, or there are
            a class without a label. It names the setting and what would do.
    """
    unet_config(settings.denoiser, image_shape, settings.prototypes.concatenated)
    if settings.prototypes.shown_as_tokens:
        check_token_side(image_shape, settings.prototypes.token_side)
    check_embeddings(settings.condition, settings.denoiser.condition_dim, classes)


def add_classes(
    state: LearnerState, train: LabelledImages, settings: GeneratorSettings, context: Context
) -> LearnerState:
    """Give each class of the current task that the generator has not met a label and a prototype.

    Labels and the token map depend on (seed, class) alone: they follow a class under any order.

    Args:
        state: with the current task begun.
        train: its images.
        settings: of the generator.
        context: seed, task, device, progress.

    Raises:
        ValueError: as `check_images`.
    """
    assert state.image_shape is not None
    check_images(settings, state.image_shape, max(state.tasks[-1]) + 1)
    dim = settings.denoiser.condition_dim
    condition = state.condition
    if condition is None:
        side = settings.prototypes.token_side if settings.prototypes.shown_as_tokens else 0
        condition = Condition(
            {}, make_token_map(state.image_shape, side, dim, context.fixed_generator("token map"))
        )
    new = [label for label in state.tasks[-1] if label not in condition.embeddings]
    labels = label_embeddings(settings.condition, dim, new, context)
    if settings.prototypes.route == "none":
        starts = dict.fromkeys(new, torch.empty(0))
    else:
        start = settings.prototypes.start
        starts = prototype_starts(start, train.of_classes(new), state, context)
    condition = replace(
        condition,
        embeddings={**condition.embeddings, **labels},
        prototypes={**condition.prototypes, **starts},
        starts={**condition.starts, **starts},
    )
    return replace(state, condition=condition)


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


def denoiser_of(state: LearnerState, settings: GeneratorSettings, context: Context) -> Denoiser:
    """The denoiser of `state`, which has one, on the context's device, in evaluation mode."""
    assert state.denoiser is not None
    unet = build_unet(state.denoiser)
    denoiser = Denoiser(unet, settings.denoiser.patch, context.precision)
    return denoiser.to(context.device).eval()


def condition_table(
    state: LearnerState,
    classes: Sequence[int],
    settings: GeneratorSettings,
    context: Context,
    learnable: int = 0,
) -> ConditionTable:
    """The conditions of `classes`, on the context's device; the last `learnable` may learn."""
    assert state.condition is not None
    return ConditionTable(
        state.condition,
        classes,
        learnable,
        settings.prototypes.concatenated,
        settings.condition.null_keeps_prototype,
    ).to(context.device)
