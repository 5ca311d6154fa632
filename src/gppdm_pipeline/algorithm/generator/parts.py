"""The generator as a part of the state: its settings, its classes, its networks.

The generator is the denoiser with its condition. It is trained in `learn.py`; what its projected
layers must keep is in `bases.py`; it draws in `draw.py`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field, field_validator
from torch import Tensor

from gppdm_pipeline.algorithm.classifier.analytic import AnalyticConfig
from gppdm_pipeline.algorithm.condition.labels import (
    ConditionConfig,
    check_embeddings,
    label_embeddings,
)
from gppdm_pipeline.algorithm.condition.table import (
    ConditionTable,
    check_token_side,
    make_token_map,
    make_turn,
)
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.adapters import AdapterConfig, merged
from gppdm_pipeline.algorithm.diffusion.network import (
    Denoiser,
    DenoiserConfig,
    build_unet,
    network_config,
)
from gppdm_pipeline.algorithm.diffusion.projection import ProjectionConfig
from gppdm_pipeline.algorithm.fitting.private import PrivateConfig
from gppdm_pipeline.algorithm.generator.guarantee import check_installed
from gppdm_pipeline.algorithm.generator.prototypes import PrototypeConfig, prototype_starts
from gppdm_pipeline.algorithm.state import Condition, LearnerState
from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.images.labelled import LabelledImages

logger = logging.getLogger(__name__)

Memory = Literal["shared", "adapters"]
Level = Annotated[float, Field(ge=0)]


class ReplayConfig(Config):
    """How many images are replayed, and how they are drawn."""

    images_per_class: Annotated[int, Field(ge=1)] = 200
    images: Annotated[int, Field(ge=1)] | None = None
    """At most so many in all, shared evenly among the old classes, though at least one of each: a
    task then costs the same however many there are. null: images_per_class of each."""
    guidance: Annotated[float, Field(ge=0, le=20)] = 0.0
    """w; 0 is plain conditional sampling. Above 0 it needs `denoiser.label_dropout`."""
    guidance_interval: tuple[Level, Level] | None = None
    """Guidance only where the noise level sigma = sqrt((1 - abar) / abar) is above the first and at
    most the second (Kynkäänniemi et al. 2024, arXiv 2404.07724); null: everywhere."""
    sampler_steps: Annotated[int, Field(ge=2, le=1000)] = 15
    sigma_max: Annotated[float, Field(ge=1)] | None = None
    """The noise level sigma = sqrt((1 - abar) / abar) that the solver's steps begin at, the nearest
    below; null: the end of the schedule. Far above 40, images of [-1, 1] leave next to nothing."""
    gaussians: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of signal (abar) that drawing begins with, of an image of the Gaussian of its class
    (see `generator/gaussians.py`), which the state then keeps; 0: it begins with noise alone."""
    batch_size: Annotated[int, Field(ge=1)] = 512

    def shares(self, classes: Sequence[int]) -> dict[int, int]:
        """How many images of each of these old classes; earlier ones get what does not divide."""
        if self.images is None or not classes:
            return dict.fromkeys(classes, self.images_per_class)
        each, over = divmod(self.images, len(classes))
        counts = (max(1, each + (place < over)) for place in range(len(classes)))
        return {k: min(self.images_per_class, n) for k, n in zip(classes, counts, strict=True)}

    def guided(self, shares: Tensor) -> Tensor:
        """At which steps the sampler is guided: bool [T], on the CPU; shares float32 [T]: abar."""
        low, high = self.guidance_interval or (0.0, math.inf)
        levels = ((1 - shares) / shares).sqrt().cpu()
        return (levels > low) & (levels <= high) & (self.guidance > 0)

    @field_validator("guidance_interval")
    @classmethod
    def _from_low_to_high(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError(
                f"{list(value)} is empty: give two noise levels, the lower first, such as [0.2, 5]"
            )
        return value


class GeneratorSettings(Protocol):
    """What a method with a diffusion generator is set to."""

    @property
    def condition(self) -> ConditionConfig:
        """What stands for a class, and for none."""

    @property
    def denoiser(self) -> DenoiserConfig:
        """Architecture, objective and budget."""

    @property
    def memory(self) -> Memory:
        """Whether later tasks move the denoiser, or leave it and learn adapters."""

    @property
    def adapters(self) -> AdapterConfig:
        """How large those are, and how they learn."""

    @property
    def prototypes(self) -> PrototypeConfig:
        """How prototypes start, learn and enter."""

    @property
    def projection(self) -> ProjectionConfig:
        """Which updates are projected."""

    @property
    def replay(self) -> ReplayConfig:
        """How images are drawn."""

    @property
    def analytic(self) -> AnalyticConfig:
        """What sums are kept beside it."""

    @property
    def private(self) -> PrivateConfig:
        """How much its training may tell of a single image."""


def check_guidance(settings: GeneratorSettings) -> None:
    """Whether what guides has been learnt, and what has been learnt is asked.

    Raises:
        ValueError: naming the setting, and what would do.
    """
    replay, dropout = settings.replay, settings.denoiser.label_dropout
    if replay.guidance_interval is not None and not replay.guidance:
        raise ValueError(
            f"replay.guidance_interval is {list(replay.guidance_interval)}, but "
            "replay.guidance is 0, so that nothing is guided; set replay.guidance, or leave "
            "the interval out"
        )
    if settings.condition.null_keeps_prototype and not dropout:
        raise ValueError(
            "condition.null_keeps_prototype is true, but denoiser.label_dropout is 0, so that "
            "there is no null condition; use denoiser.label_dropout: 0.1, or leave it false"
        )
    if replay.guidance and not dropout:
        raise ValueError(
            f"replay.guidance is {replay.guidance:g}, which asks what the denoiser says "
            "without a label, but denoiser.label_dropout is 0, so that it never learns that; "
            "use denoiser.label_dropout: 0.1, or replay.guidance: 0"
        )


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
            a class without a label, or a package is missing. It names the setting and what would
            do.
    """
    check_installed(settings.private)
    network_config(settings.denoiser, image_shape, settings.prototypes.concatenated)
    if settings.prototypes.shown_as_tokens:
        check_token_side(image_shape, settings.prototypes.token_side)
    check_embeddings(settings.condition, settings.denoiser.condition_dim, classes)


def warn_if_tokens_fill(settings: GeneratorSettings, classes: int) -> None:
    """Say so if the tokens of so many classes will leave keys and values nothing to learn.

    Each class takes a direction of `condition_dim` for each of its tokens from the layers whose
    inputs they are, if the basis is to hold all of their energy.
    """
    layers = {"k": settings.projection.energy_k, "v": settings.projection.energy_v}
    if not any(layers[kind] == 1 for kind in layers if kind in settings.projection.layers):
        return
    prototypes = settings.prototypes
    tokens = 1 + prototypes.token_side**2 if prototypes.shown_as_tokens else 1
    if classes * tokens > settings.denoiser.condition_dim:
        logger.warning(
            "%d classes of %d tokens each take more than the %d directions of "
            "denoiser.condition_dim: after %d classes, projected keys and values can learn nothing "
            "more. Use denoiser.condition_dim: %d, prototypes.route: concat (one token a class), "
            "or projection.layers without k and v.",
            classes,
            tokens,
            settings.denoiser.condition_dim,
            settings.denoiser.condition_dim // tokens,
            -(-classes * tokens // 8) * 8,
        )


def add_classes(
    state: LearnerState, train: LabelledImages, settings: GeneratorSettings, context: Context
) -> LearnerState:
    """Give each class of the current task that the generator has not met a label and a prototype.

    Labels, the token map and turns depend on (seed, class) alone: they follow a class under any
    order.

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
    turned = new if settings.prototypes.tokens == "turned" else []
    turns = {k: make_turn(dim, context.fixed_generator(f"turn {k}")) for k in turned}
    condition = replace(
        condition,
        embeddings={**condition.embeddings, **labels},
        prototypes={**condition.prototypes, **starts},
        starts={**condition.starts, **starts},
        turns={**condition.turns, **turns},
    )
    return replace(state, condition=condition)


def denoiser_of(
    state: LearnerState, settings: GeneratorSettings, context: Context, label: int | None = None
) -> Denoiser:
    """The denoiser of `state`, which has one, on the context's device, in evaluation mode.

    Args:
        state: with a generator.
        settings: of it.
        context: device, precision.
        label: a class, whose adapter is added where it has one; None: the denoiser alone.
    """
    assert state.denoiser is not None
    adapter = None if label is None else state.adapter_of(label)
    unet = build_unet(merged(state.denoiser, None if adapter is None else state.adapters[adapter]))
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
