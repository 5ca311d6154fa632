"""The training loop of the denoiser and the current prototypes."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from gppdm_pipeline.algorithm.condition.table import ConditionTable
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.network import Average, Denoiser, DenoiserConfig
from gppdm_pipeline.algorithm.disk.checkpoints import Training
from gppdm_pipeline.algorithm.fitting.batches import Pixels, balanced_indices
from gppdm_pipeline.algorithm.fitting.graphs import recorded
from gppdm_pipeline.algorithm.fitting.log import LossRecorder, StageLog
from gppdm_pipeline.algorithm.fitting.muon import optimiser_of
from gppdm_pipeline.algorithm.fitting.schedule import warm_up_then_cosine
from gppdm_pipeline.algorithm.fitting.workers import backward_of
from gppdm_pipeline.algorithm.generator.distillation import Teacher
from gppdm_pipeline.algorithm.generator.nearest_label import NearestLabel
from gppdm_pipeline.algorithm.generator.objective import Objective
from gppdm_pipeline.algorithm.generator.prototypes import PrototypeConfig


def fit_denoiser(
    denoiser: Denoiser,
    table: ConditionTable,
    images: Pixels,
    rows: Tensor,
    config: DenoiserConfig,
    steps: int,
    prototypes: PrototypeConfig,
    context: Context,
    teacher: Teacher | None = None,
    pull: NearestLabel | None = None,
    class_weights: Tensor | None = None,
) -> StageLog:
    """Train in place; the denoiser ends with its averaged weights.

    Args:
        denoiser: on the context's device; its parameters are those that may move.
        table: conditions, likewise; current prototypes learn with it.
        images: n of them, real and replayed.
        rows: int64 [n], each image's row in the table.
        config: objective, batch size and optimiser.
        steps: how many.
        prototypes: their learning rate and decay.
        context: seed, task, device, progress, checkpoints.
        teacher: says the targets of replayed images, if there is one.
        pull: towards old labels, if there is one.
        class_weights: float32 [k], how often the class of each row is drawn, or None for alike.

    Returns:
        The log, with a curve for each term of the objective.
    """
    generator = context.generator("train_generator")
    weights = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    parameters = [*weights, table.new_prototypes]
    optimiser = optimiser_of(denoiser, table.new_prototypes, config, prototypes)
    schedule = warm_up_then_cosine(optimiser, steps)
    average = Average(weights, config.ema_decay)
    recorder = LossRecorder()
    batches = balanced_indices(rows, steps, config.batch_size, generator, class_weights)
    training = Training(parameters, optimiser, schedule, generator, recorder, average)
    checkpoint = context.checkpoints("train_generator")
    objective = Objective(images, rows, config, teacher, pull)
    losses_of = partial(objective.losses, denoiser, table)
    denoiser.train()

    def step(batch: Tensor) -> dict[str, Tensor]:
        optimiser.zero_grad(set_to_none=True)
        losses = backward(objective.drawn(batch, generator))
        nn.utils.clip_grad_norm_(weights, config.gradient_clip)
        optimiser.step()
        return losses

    take = recorded(step, generator)
    with (
        context.progress(steps, "train_generator") as bar,
        backward_of(losses_of, parameters, whole=objective.whole) as backward,
    ):
        for taken, batch in training.remaining(batches, checkpoint):
            losses = take(batch)
            schedule.step()
            average.update()
            bar.advance(taken, **recorder.add(**losses))
    average.apply()
    denoiser.eval()
    return StageLog(curves=recorder.curves)
