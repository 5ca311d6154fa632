"""The generator learns a task: denoiser and current prototypes, on real and replayed images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gppdm_pipeline.algorithm.classifier.agreement import agreement_by_class
from gppdm_pipeline.algorithm.condition.labels import label_vectors
from gppdm_pipeline.algorithm.condition.table import ConditionTable
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.network import (
    Denoiser,
    build_unet,
    signal_shares,
    unet_config,
)
from gppdm_pipeline.algorithm.diffusion.projection import orthogonal_updates
from gppdm_pipeline.algorithm.fitting.batches import Pixels
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.generator.bases import key_value_drift
from gppdm_pipeline.algorithm.generator.distillation import Teacher
from gppdm_pipeline.algorithm.generator.nearest_label import NearestLabel
from gppdm_pipeline.algorithm.generator.parts import GeneratorSettings, condition_table, denoiser_of
from gppdm_pipeline.algorithm.generator.training import fit_denoiser
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.images.labelled import LabelledImages

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


def train_denoiser(
    state: LearnerState,
    train: LabelledImages,
    replay: LabelledImages,
    settings: GeneratorSettings,
    context: Context,
) -> tuple[LearnerState, StageLog]:
    """Train denoiser and current prototypes; cross-attention moves orthogonally to the bases.

    Args:
        state: its classes have labels and prototypes (`add_classes`).
        train: real images of the current classes.
        replay: images of every other class that shall be remembered; may be empty.
        settings: of the generator.
        context: seed, task, device, progress.

    Returns:
        The state, and the log: curves as of `Objective`; metrics as of `key_value_drift`, and
        `replay_agreement/<class>` where classes are weighted by it.
    """
    assert state.condition is not None
    old = state.classes_before(context.task)
    new = tuple(label for label in state.tasks[-1] if label not in old)
    table = condition_table(state, (*old, *new), settings, context, learnable=len(new))
    unet = _unet(state, settings, context).to(context.device)
    images = LabelledImages.concatenate([train, replay]) if len(replay) else train
    row_of = {label: row for row, label in enumerate((*old, *new))}
    rows = torch.tensor([row_of[int(label)] for label in images.labels], device=context.device)
    replayed = torch.arange(len(images), device=context.device) >= len(train)
    decay = _decay(state, replay, settings, context)
    drawn = [2 - decay.get(k, 1.0) for k in (*old, *new)]
    weights = class_weights(drawn, len(old), settings.denoiser.new_share, context.device)
    steps = settings.denoiser.steps_of(first=state.denoiser is None)
    with orthogonal_updates(unet, state.bases):
        log = fit_denoiser(
            Denoiser(unet, settings.denoiser.patch, context.precision),
            table,
            Pixels(images.images, context.device),
            rows,
            settings.denoiser,
            steps,
            settings.prototypes,
            context,
            _teacher(state, replayed, settings, context),
            _pull(table, (*old, *new), len(old), settings, context),
            weights,
        )
    learnt = dict(zip(new, table.new_prototypes.detach().cpu().clone(), strict=True))
    condition = replace(state.condition, prototypes={**state.condition.prototypes, **learnt})
    after = replace(state, condition=condition, denoiser=_weights_of(unet))
    metrics = key_value_drift(state, after, settings, context)
    metrics |= {f"replay_agreement/{label}": share for label, share in decay.items()}
    return after, StageLog(metrics, log.curves)


def class_weights(
    weights: Sequence[float], old: int, new_share: float, device: torch.device
) -> Tensor | None:
    """How often a batch draws each class, in proportion; None: all alike.

    Args:
        weights: of each class, above 0, old ones first.
        old: how many are old.
        new_share: share of new ones, of all that is drawn, at least: their weights are raised to
            it. (Experience replay draws as many new images as old ones; Chaudhry et al. 2019,
            arXiv 1902.10486.) Nothing is raised where all classes are old, or all are new.
        device: of what is returned.

    Returns:
        float32 [k], or None.
    """
    of_old, of_new = sum(weights[:old]), sum(weights[old:])
    raised = max(1.0, new_share / (1 - new_share) * of_old / of_new) if of_new else 1.0
    found = [*weights[:old], *(raised * weight for weight in weights[old:])]
    return torch.tensor(found, device=device) if len({*found}) > 1 else None


def _teacher(
    state: LearnerState, replayed: Tensor, settings: GeneratorSettings, context: Context
) -> Teacher | None:
    """The denoiser that the task begins with; a task that is gone on with begins with the same."""
    weight = settings.denoiser.distillation
    if state.denoiser is None or weight == 0:
        return None
    return Teacher(denoiser_of(state, settings, context), replayed, weight)


def _decay(
    state: LearnerState, replay: LabelledImages, settings: GeneratorSettings, context: Context
) -> dict[int, float]:
    """How far the classifier agrees with the replay of each old class, if that decides weights."""
    if settings.denoiser.class_weights == "uniform" or not len(replay):
        return {}
    return agreement_by_class(state, replay, context)


def _pull(
    table: ConditionTable,
    classes: Sequence[int],
    old: int,
    settings: GeneratorSettings,
    context: Context,
) -> NearestLabel | None:
    config = settings.denoiser
    if config.nearest_label == 0 or not 0 < old < len(classes):
        return None
    vectors = label_vectors(settings.condition, classes)
    shares, weight = signal_shares(config, context.device), config.nearest_label
    return NearestLabel.between(vectors, table.embeddings, old, shares, config.prediction, weight)


def _unet(
    state: LearnerState, settings: GeneratorSettings, context: Context
) -> UNet2DConditionModel:
    if state.denoiser is not None:
        return build_unet(state.denoiser)
    from diffusers import UNet2DConditionModel  # noqa: PLC0415 (takes two seconds)

    assert state.image_shape is not None
    config = unet_config(settings.denoiser, state.image_shape, settings.prototypes.concatenated)
    with context.initialisation("denoiser"):
        return UNet2DConditionModel(**config)


def _weights_of(unet: UNet2DConditionModel) -> Weights:
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    tensors = {name: value.detach().cpu() for name, value in unet.state_dict().items()}
    return Weights(config, tensors)
