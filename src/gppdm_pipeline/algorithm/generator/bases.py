"""What the cross-attention of the generator must keep, how full it is, and how far it moves."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from gppdm_pipeline.algorithm.condition.table import ConditionTable
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.network import Denoiser
from gppdm_pipeline.algorithm.diffusion.process import Process
from gppdm_pipeline.algorithm.diffusion.projection import (
    cross_attention_layers,
    extend_basis,
    input_moments,
    share_outside,
)
from gppdm_pipeline.algorithm.fitting.batches import Pixels
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.fitting.scale import scale_of
from gppdm_pipeline.algorithm.generator.draw import replay_of
from gppdm_pipeline.algorithm.generator.parts import GeneratorSettings, condition_table, denoiser_of
from gppdm_pipeline.algorithm.state import LearnerState

logger = logging.getLogger(__name__)

HARDLY_FREE = 0.1
"""Share of new inputs' energy outside the basis below which a projected layer is reported."""


def extend_bases(
    state: LearnerState, settings: GeneratorSettings, context: Context
) -> tuple[LearnerState, StageLog]:
    """Add to the basis of each projected layer what it is fed for the classes just learnt.

    The denoiser runs on fresh replay of these classes at steps spread over the whole range. Keys
    and values are fed condition tokens, which do not depend on the image.

    Returns:
        The state, and the log: `basis_rank/<layer>`, and `basis_free/<layer>`: what of the new
        classes' inputs lies outside the basis of the old ones (`share_outside`), and so what the
        layer could learn for them; 1 in the first task.
    """
    old = state.classes_before(context.task)
    new = [label for label in state.tasks[-1] if label not in old]
    if settings.memory == "adapters" or not settings.projection.layers or not new:
        return state, StageLog()
    count = settings.projection.images_per_class
    replayed = replay_of(state, new, count, settings, context, "bases")
    denoiser = denoiser_of(state, settings, context)
    table = condition_table(state, new, settings, context)
    layers = cross_attention_layers(denoiser.unet, settings.projection.layers)
    images = Pixels(replayed.images, context.device, scale_of(state, context.device).given)
    rows = torch.arange(len(new), device=context.device).repeat_interleave(count)
    run = partial(_run, denoiser, table, images, rows, settings, context)
    moments = input_moments({name: layer for name, (_, layer) in layers.items()}, run)
    bases = {
        name: extend_basis(state.bases.get(name), moments[name], settings.projection.energy(kind))
        for name, (kind, _) in layers.items()
    }
    free = {name: share_outside(state.bases.get(name), moments[name]) for name in layers}
    _warn_if_hardly_free(free)
    ranks = {f"basis_rank/{name}": float(basis.shape[1]) for name, basis in bases.items()}
    measured = {f"basis_free/{name}": share for name, share in free.items()}
    return replace(state, bases=bases), StageLog({**ranks, **measured})


def _run(
    denoiser: Denoiser,
    table: ConditionTable,
    images: Pixels,
    rows: Tensor,
    settings: GeneratorSettings,
    context: Context,
) -> None:
    """Show the denoiser each image once, at some step, with the condition of its row."""
    process, generator = Process(settings.denoiser, context.device), context.generator("noise")
    order = torch.randperm(len(rows), generator=generator, device=rows.device)
    for part in order.split(settings.replay.batch_size):
        x, tau, _ = process.noised(images[part], generator)
        denoiser(x, tau, table(rows[part]).of(slice(None)))


def key_value_drift(
    before: LearnerState, after: LearnerState, settings: GeneratorSettings, context: Context
) -> dict[str, float]:
    """How far keys and values of old classes have moved within a task, projected or not.

    With Z the condition tokens of the classes before `context.task` as columns, and W_0, W_1 a
    layer's weight at the start and the end: ||(W_1 - W_0) Z|| / ||W_0 Z||, Frobenius, in float64.

    Args:
        before: at the start of the task.
        after: at its end.
        settings: of the generator.
        context: its task.

    Returns:
        `key_drift/<layer>` and `value_drift/<layer>` for every cross-attention layer; nothing in
        the first task.
    """
    old = before.classes_before(context.task)
    if before.denoiser is None or after.denoiser is None or not old:
        return {}
    table = condition_table(before, old, settings, context).cpu()
    tokens = table(torch.arange(len(old))).tokens.detach().flatten(0, 1).double().T
    drift = {}
    for name, weight in before.denoiser.tensors.items():
        layer = name.removesuffix(".weight")
        for kind, metric in (("to_k", "key_drift"), ("to_v", "value_drift")):
            if layer.endswith(f"attn2.{kind}"):
                start = weight.double() @ tokens
                end = after.denoiser.tensors[name].double() @ tokens
                drift[f"{metric}/{layer}"] = float((end - start).norm() / start.norm())
    return drift


def _warn_if_hardly_free(free: Mapping[str, float]) -> None:
    hardly = [name for name, share in free.items() if share < HARDLY_FREE]
    if hardly:
        logger.warning(
            "What %s are fed for the new classes lies to more than %d %% in what they are fed for "
            "old ones, which projection keeps: they could learn little for the new classes. Use "
            "memory: adapters, which keeps old classes without this; or leave such layers out of "
            "projection.layers.",
            ", ".join(hardly),
            round(100 * (1 - HARDLY_FREE)),
        )
