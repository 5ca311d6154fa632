"""The generator learns a task: denoiser and current prototypes, on real and replayed images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gppdm_pipeline.algorithm.condition.table import ConditionTable
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.adapters import adapter_of, attach
from gppdm_pipeline.algorithm.diffusion.network import (
    Denoiser,
    DenoiserConfig,
    build_unet,
    network_class,
    network_config,
)
from gppdm_pipeline.algorithm.diffusion.process import Process
from gppdm_pipeline.algorithm.diffusion.projection import orthogonal_updates
from gppdm_pipeline.algorithm.fitting.batches import Pixels
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.fitting.loop import Budget, Moving, fit
from gppdm_pipeline.algorithm.fitting.muon import Group, optimiser_of
from gppdm_pipeline.algorithm.fitting.private import Private, PrivateConfig
from gppdm_pipeline.algorithm.fitting.scale import scale_of
from gppdm_pipeline.algorithm.generator.bases import key_value_drift
from gppdm_pipeline.algorithm.generator.objective import DenoisingObjective, Examples, Teacher
from gppdm_pipeline.algorithm.generator.parts import GeneratorSettings, condition_table, denoiser_of
from gppdm_pipeline.algorithm.generator.prototypes import PrototypeConfig
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.images.labelled import LabelledImages

if TYPE_CHECKING:
    from diffusers import ModelMixin as Network

logger = logging.getLogger(__name__)

ROSE = 1.5
"""How many times its first fifth the last fifth of a curve is that has risen."""

_ENDS = ("unet.conv_in.", "unet.conv_out.", "unet.proj_in.", "unet.proj_out.", "unet.gates.")


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
        The state, and the log: curve `denoiser_loss`; metrics as of `key_value_drift`.
    """
    old = state.classes_before(context.task)
    new = tuple(label for label in state.tasks[-1] if label not in old)
    table = condition_table(state, (*old, *new), settings, context, learnable=len(new))
    unet = _unet(state, settings, context).to(context.device)
    examples = _examples(state, train, replay, (*old, *new), context)
    config, teacher = settings.denoiser, _teacher(state, settings, context)
    budget = _budget(config, config.steps_of(first=state.denoiser is None), old, new, context)
    with orthogonal_updates(unet, state.bases):
        log = _fit(
            *(unet, table, examples, config, settings.prototypes, context),
            budget=budget,
            private=settings.private,
            teacher=teacher,
        )
    after = replace(_learnt(state, new, table), denoiser=_weights_of(unet))
    drift = key_value_drift(state, after, settings, context)
    return after, StageLog({**log.metrics, **drift}, log.curves)


def train_adapter(
    state: LearnerState,
    train: LabelledImages,
    replay: LabelledImages,
    settings: GeneratorSettings,
    context: Context,
) -> tuple[LearnerState, StageLog]:
    """Train an adapter and the prototypes of new classes; the denoiser stays, bit by bit.

    It serves the classes of this task. It begins as the adapter of those that come back, if they
    share one, else as `adapters.start` says; adapters that serve no class any more are dropped.

    Args:
        state: with a denoiser; its classes have labels and prototypes (`add_classes`).
        train: real images of the current classes.
        replay: images of those that come back are learnt, too; others are not looked at.
        settings: of the generator.
        context: seed, task, device, progress.

    Returns:
        The state, and the log: curve `denoiser_loss`.
    """
    assert state.denoiser is not None
    old = state.classes_before(context.task)
    back = tuple(label for label in state.tasks[-1] if label in old)
    new = tuple(label for label in state.tasks[-1] if label not in old)
    table = condition_table(state, (*back, *new), settings, context, learnable=len(new))
    unet = _with_adapter(state, back, settings, context)
    examples = _examples(state, train, replay.of_classes(back), (*back, *new), context)
    config = settings.adapters.learning(settings.denoiser)
    budget = _budget(config, config.steps, back, new, context)
    given = (unet, table, examples, config, settings.prototypes, context)
    log = _fit(*given, budget=budget, private=settings.private)
    adapter = adapter_of(unet, state.denoiser, settings.adapters)
    adapters = {**state.adapters, context.task: adapter}
    after = replace(_learnt(state, new, table), adapters=adapters)
    serving = {after.adapter_of(label) for label in after.classes}
    adapters = {task: adapter for task, adapter in adapters.items() if task in serving}
    return replace(after, adapters=adapters), log


def _fit(
    unet: Network,
    table: ConditionTable,
    examples: Examples,
    config: DenoiserConfig,
    prototypes: PrototypeConfig,
    context: Context,
    *,
    budget: Budget,
    private: PrivateConfig,
    teacher: Teacher | None = None,
) -> StageLog:
    """Train what of the network may move, and the table's new prototypes."""
    denoiser = Denoiser(unet, config.patch, context.precision).train()
    process = Process(config, context.device, independent=private.on)
    objective = DenoisingObjective(
        denoiser, table, examples, process, config.label_dropout, teacher
    )
    moving = _moving(denoiser, table.new_prototypes, config, prototypes)
    if private.on:
        moving = replace(moving, private=Private(private, nn.ModuleList([denoiser, table])))
    log = fit(objective, moving, examples.rows, budget, context, "train_generator")
    _warn_if_it_rose(log.curves.get("denoiser_loss", ()), context.task)
    return log


def _warn_if_it_rose(curve: Sequence[tuple[int, float]], task: int) -> None:
    """Say so if the loss ends far above where it began: what is drawn is noise then."""
    part = len(curve) // 5
    first, last = (
        [loss for _, loss in curve[where]] for where in (slice(part), slice(-part, None))
    )
    if part and fmean(last) > ROSE * fmean(first):
        logger.warning(
            "the generator of task %d has not learnt: its loss rose from %.2f to %.2f, so that "
            "what it draws may be noise. Use a lower learning rate: adapters.learning_rate for "
            "adapters of a low rank, else denoiser.learning_rate and, where Muon moves them, "
            "denoiser.muon_learning_rate, of full adapters adapters.muon_learning_rate.",
            *(task, fmean(first), fmean(last)),
        )


def _learnt(state: LearnerState, new: Sequence[int], table: ConditionTable) -> LearnerState:
    """With the prototypes that new classes have come to."""
    assert state.condition is not None
    learnt = dict(zip(new, table.new_prototypes.detach().cpu().clone(), strict=True))
    condition = replace(state.condition, prototypes={**state.condition.prototypes, **learnt})
    return replace(state, condition=condition)


def _examples(
    state: LearnerState,
    train: LabelledImages,
    replay: LabelledImages,
    classes: Sequence[int],
    context: Context,
) -> Examples:
    images = LabelledImages.concatenate([train, replay]) if len(replay) else train
    row_of = {label: row for row, label in enumerate(classes)}
    rows = torch.tensor([row_of[int(label)] for label in images.labels], device=context.device)
    replayed = torch.arange(len(images), device=context.device) >= len(train)
    given = scale_of(state, context.device).given
    return Examples(Pixels(images.images, context.device, given), rows, replayed)


def _budget(
    config: DenoiserConfig, steps: int, old: Sequence[int], new: Sequence[int], context: Context
) -> Budget:
    return Budget(
        steps,
        config.batch_size,
        config.gradient_clip,
        config.ema_decay,
        class_weights(len(old), len(new), config.new_share, context.device),
    )


def _moving(
    denoiser: Denoiser, prototypes: nn.Parameter, config: DenoiserConfig, own: PrototypeConfig
) -> Moving:
    """Weights by Muon or AdamW, and the current prototypes by AdamW.

    By AdamW move, with Muon, all that is no matrix, and the first and last layers, which meet
    pixels.
    """
    free = {name: p for name, p in denoiser.named_parameters() if p.requires_grad}
    inner = {
        name
        for name, parameter in free.items()
        if config.optimiser == "muon" and parameter.ndim > 1 and not name.startswith(_ENDS)
    }
    rest = [parameter for name, parameter in free.items() if name not in inner]
    groups = [
        Group(
            [free[name] for name in free if name in inner],
            config.muon_learning_rate,
            config.weight_decay,
            matrices=True,
        ),
        Group(rest, config.learning_rate, config.weight_decay),
        Group([prototypes] * (prototypes.numel() > 0), own.learning_rate, own.weight_decay),
    ]
    return Moving(list(free.values()), optimiser_of(groups, prototypes.device), [prototypes])


def class_weights(old: int, new: int, new_share: float, device: torch.device) -> Tensor | None:
    """How often a batch draws each class, in proportion; None: all alike.

    Args:
        old: how many classes are old.
        new: how many are new.
        new_share: share of new ones, of all that is drawn, at least. (Experience replay draws as
            many new images as old ones; Chaudhry et al. 2019, arXiv 1902.10486.) 1: old ones are
            never drawn. Nothing is raised where all classes are old, or all are new.
        device: of what is returned.

    Returns:
        float32 [old + new], old ones first, or None.
    """
    if old and new and new_share == 1:
        return torch.tensor([0.0] * old + [1.0] * new, device=device)
    if not old or not new or new_share / (1 - new_share) * old / new <= 1:
        return None
    raised = new_share / (1 - new_share) * old / new
    return torch.tensor([1.0] * old + [raised] * new, device=device)


def _teacher(state: LearnerState, settings: GeneratorSettings, context: Context) -> Teacher | None:
    """The denoiser that the task begins with; a task that is gone on with begins with the same."""
    weight = settings.denoiser.distillation
    if state.denoiser is None or weight == 0:
        return None
    return Teacher(denoiser_of(state, settings, context), weight)


def _unet(state: LearnerState, settings: GeneratorSettings, context: Context) -> Network:
    if state.denoiser is not None:
        return build_unet(state.denoiser)
    assert state.image_shape is not None
    config = network_config(settings.denoiser, state.image_shape, settings.prototypes.concatenated)
    with context.initialisation("denoiser"):
        return network_class(config)(**config)


def _with_adapter(
    state: LearnerState, back: Sequence[int], settings: GeneratorSettings, context: Context
) -> Network:
    """The state's network, of which the adapter of a task learns; `back` are classes of earlier."""
    assert state.denoiser is not None
    unet = build_unet(state.denoiser)
    served = {state.adapter_of(label) for label in back}
    start = None
    if len(served) == 1:
        start = state.adapters.get(served.pop() or 0)
    elif state.adapters and settings.adapters.start == "previous":
        start = state.adapters[max(state.adapters)]
    generator = context.fixed_generator(f"adapter of task {context.task}")
    attach(unet, settings.adapters, generator, start)
    return unet.to(context.device)


def _weights_of(unet: Network) -> Weights:
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    tensors = {name: value.detach().cpu() for name, value in unet.state_dict().items()}
    return Weights(config, tensors)
