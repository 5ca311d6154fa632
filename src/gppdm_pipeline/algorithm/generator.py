"""The generator as a part of the state: take in new classes, train, extend the bases, draw images.

The generator is the denoiser with its condition; each function takes a state and returns a new one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from gppdm_pipeline.algorithm.condition import (
    ConditionTable,
    check_token_side,
    label_codes,
    make_token_map,
)
from gppdm_pipeline.algorithm.denoiser import (
    Denoiser,
    DenoiserConfig,
    build_unet,
    noisy_batch,
    signal_shares,
    unet_config,
)
from gppdm_pipeline.algorithm.device import Context
from gppdm_pipeline.algorithm.guidance import Guide
from gppdm_pipeline.algorithm.log import StageLog
from gppdm_pipeline.algorithm.pixels import to_unit_range
from gppdm_pipeline.algorithm.projection import (
    ProjectionConfig,
    cross_attention_layers,
    extend_basis,
    input_moments,
    orthogonal_updates,
)
from gppdm_pipeline.algorithm.prototypes import PrototypeConfig, prototype_starts
from gppdm_pipeline.algorithm.replay import ReplayConfig, draw_images
from gppdm_pipeline.algorithm.state import Condition, LearnerState, Weights
from gppdm_pipeline.algorithm.training import fit_denoiser
from gppdm_pipeline.images import LabelledImages

logger = logging.getLogger(__name__)

NEARLY_FULL = 0.9
"""Share of its directions from which on a projected layer is reported."""


class GeneratorSettings(Protocol):
    """What a method with a diffusion generator is set to."""

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
            more classes than orthonormal labels. It names the setting and what would do.
    """
    unet_config(settings.denoiser, image_shape, settings.prototypes.concatenated)
    if settings.prototypes.shown_as_tokens:
        check_token_side(image_shape, settings.prototypes.token_side)
    dim = settings.denoiser.condition_dim
    if classes > dim:
        raise ValueError(
            f"denoiser.condition_dim is {dim}, and there are as many orthonormal labels: too few "
            f"for class {classes - 1}; set it to {classes} at least"
        )


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
    codes = label_codes(dim, context.fixed_generator("labels"))
    if settings.prototypes.route == "none":
        starts = dict.fromkeys(new, torch.empty(0))
    else:
        start = settings.prototypes.start
        starts = prototype_starts(start, train.of_classes(new), state, context)
    condition = replace(
        condition,
        embeddings={**condition.embeddings, **{label: codes[label].clone() for label in new}},
        prototypes={**condition.prototypes, **starts},
        starts={**condition.starts, **starts},
    )
    return replace(state, condition=condition)


def train_denoiser(
    state: LearnerState, images: LabelledImages, settings: GeneratorSettings, context: Context
) -> tuple[LearnerState, StageLog]:
    """Train denoiser and current prototypes; cross-attention moves orthogonally to the bases.

    Args:
        state: its classes have labels and prototypes (`add_classes`).
        images: of every class that shall be remembered, real and replayed.
        settings: of the generator.
        context: seed, task, device, progress.
    """
    assert state.condition is not None
    old = state.classes_before(context.task)
    new = tuple(label for label in state.tasks[-1] if label not in old)
    table = _table(state, (*old, *new), settings, context, learnable=len(new))
    unet = _unet(state, settings, context).to(context.device)
    row_of = {label: row for row, label in enumerate((*old, *new))}
    rows = torch.tensor([row_of[int(label)] for label in images.labels], device=context.device)
    pixels = to_unit_range(images.images, context.device)
    with orthogonal_updates(unet, state.bases):
        denoiser = Denoiser(unet, settings.denoiser.patch)
        log = fit_denoiser(
            denoiser, table, pixels, rows, settings.denoiser, settings.prototypes, context
        )
    learnt = dict(zip(new, table.new_prototypes.detach().cpu().clone(), strict=True))
    condition = replace(state.condition, prototypes={**state.condition.prototypes, **learnt})
    return replace(state, condition=condition, denoiser=_weights_of(unet)), log


def extend_bases(
    state: LearnerState, settings: GeneratorSettings, context: Context
) -> tuple[LearnerState, StageLog]:
    """Add to the basis of each projected layer what it is fed for the classes just learnt.

    The denoiser runs on fresh replay of these classes at steps spread over the whole range. Keys
    and values are fed condition tokens, which do not depend on the image.

    Returns:
        The state, and the log: `basis_rank/<layer>`, and `basis_free/<layer>`, the share of
        directions that the layer can still learn in.
    """
    assert state.denoiser is not None
    old = state.classes_before(context.task)
    new = [label for label in state.tasks[-1] if label not in old]
    if not settings.projection.layers or not new:
        return state, StageLog()
    count = settings.projection.images_per_class
    replayed = replay_of(state, new, count, settings, context, "bases")
    unet = build_unet(state.denoiser).to(context.device).eval()
    denoiser, table = Denoiser(unet, settings.denoiser.patch), _table(state, new, settings, context)
    layers = cross_attention_layers(unet, settings.projection.layers)
    images = to_unit_range(replayed.images, context.device)
    rows = torch.arange(len(new), device=context.device).repeat_interleave(count)
    shares, generator = signal_shares(settings.denoiser, context.device), context.generator("noise")

    def run() -> None:
        for part in torch.randperm(len(rows), generator=generator, device=rows.device).split(
            settings.replay.batch_size
        ):
            noisy = noisy_batch(images[part], shares, settings.denoiser.prediction, generator)
            denoiser(noisy.x, noisy.tau, *table(rows[part]))

    moments = input_moments({name: layer for name, (_, layer) in layers.items()}, run)
    bases = {
        name: extend_basis(state.bases.get(name), moments[name], settings.projection.energy(kind))
        for name, (kind, _) in layers.items()
    }
    _warn_if_full(bases)
    return replace(state, bases=bases), StageLog(_ranks(bases))


def replay_of(
    state: LearnerState,
    classes: Sequence[int],
    per_class: int,
    settings: GeneratorSettings,
    context: Context,
    stage: str,
    guide: Guide | None = None,
) -> LabelledImages:
    """Draw `per_class` images of each of `classes` from the generator of `state`.

    Args:
        state: with a generator that knows the classes.
        classes: any it knows.
        per_class: how many of each, at least 1.
        settings: of the generator.
        context: seed, task, device, progress.
        stage: names the random numbers, and the bar.
        guide: the classifier that guides, if one does.

    Returns:
        uint8 images, class after class.
    """
    assert state.denoiser is not None and state.image_shape is not None
    unet = build_unet(state.denoiser).to(context.device).eval()
    denoiser, table = (
        Denoiser(unet, settings.denoiser.patch),
        _table(state, classes, settings, context),
    )
    rows = torch.arange(len(classes), device=context.device).repeat_interleave(per_class)
    with context.progress(len(rows), stage) as bar:
        images = draw_images(
            denoiser,
            table,
            rows,
            state.image_shape,
            settings.replay,
            settings.denoiser,
            context.generator(stage),
            bar,
            context.checkpoints(stage),
            guide,
        )
    return LabelledImages(images, torch.tensor(classes)[rows.cpu()].numpy())


def _table(
    state: LearnerState,
    classes: Sequence[int],
    settings: GeneratorSettings,
    context: Context,
    learnable: int = 0,
) -> ConditionTable:
    assert state.condition is not None
    concatenates = settings.prototypes.concatenated
    return ConditionTable(state.condition, classes, learnable, concatenates).to(context.device)


def _unet(
    state: LearnerState, settings: GeneratorSettings, context: Context
) -> UNet2DConditionModel:
    if state.denoiser is not None:
        return build_unet(state.denoiser)
    assert state.image_shape is not None
    config = unet_config(settings.denoiser, state.image_shape, settings.prototypes.concatenated)
    with context.initialisation("denoiser"):
        return UNet2DConditionModel(**config)


def _weights_of(unet: UNet2DConditionModel) -> Weights:
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    tensors = {name: value.detach().cpu() for name, value in unet.state_dict().items()}
    return Weights(config, tensors)


def _warn_if_full(bases: Mapping[str, Tensor]) -> None:
    full = [name for name, basis in bases.items() if basis.shape[1] > NEARLY_FULL * basis.shape[0]]
    if full:
        logger.warning(
            "Nearly every direction is taken by old classes in %s: these layers can learn little "
            "more. Raise denoiser.condition_dim (keys, values) or lower projection.energy_q and "
            "projection.energy_out.",
            ", ".join(full),
        )


def _ranks(bases: Mapping[str, Tensor]) -> dict[str, float]:
    ranks = {f"basis_rank/{name}": float(basis.shape[1]) for name, basis in bases.items()}
    free = {f"basis_free/{name}": 1 - b.shape[1] / b.shape[0] for name, b in bases.items()}
    return {**ranks, **free}
