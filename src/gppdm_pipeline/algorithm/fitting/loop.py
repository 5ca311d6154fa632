"""The one training loop: of denoiser, classifier and VAE.

It knows steps, batches, learning rates, averaged weights, checkpoints, recorded CUDA steps and the
ranks that share a batch; what is minimised is an `Objective`, what moves is `Moving`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gppdm_pipeline.algorithm.context import Context, silent
from gppdm_pipeline.algorithm.disk.checkpoints import NOWHERE, Checkpoint
from gppdm_pipeline.algorithm.fitting.average import Average
from gppdm_pipeline.algorithm.fitting.batches import balanced_indices
from gppdm_pipeline.algorithm.fitting.changing import Changing
from gppdm_pipeline.algorithm.fitting.forks import Work, ranks_for, share
from gppdm_pipeline.algorithm.fitting.graphs import Step, recorded
from gppdm_pipeline.algorithm.fitting.log import LossRecorder, StageLog
from gppdm_pipeline.algorithm.fitting.private import Private, PrivateGradients, poisson_batches
from gppdm_pipeline.algorithm.fitting.schedule import warm_up_then_cosine
from gppdm_pipeline.algorithm.team import ALONE, Team, even


class Objective(ABC):
    """What a training minimises."""

    beside: int = 0
    """Rows of a batch that belong to no image of it."""

    @abstractmethod
    def drawn(self, batch: Tensor, generator: torch.Generator) -> Sequence[Tensor]:
        """A batch as it is shown: all that is random happens here.

        Args:
            batch: int64 [b], indices into the training images.
            generator: of noise and the like, on the training's device.

        Returns:
            Tensors [b, ...], then those that are [beside, ...], whose shapes and dtypes are the
            same for every batch.
        """

    @abstractmethod
    def losses(self, drawn: Sequence[Tensor]) -> dict[str, Tensor]:
        """Means over the images of what `drawn` gave, or of a part of it: scalars by name.

        The parts' losses, each weighted with its share of the images, add up to the batch's.
        """

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """What is minimised, linear in the losses: their sum."""
        return torch.stack(list(losses.values())).sum()


@dataclass(frozen=True)
class Budget:
    """How long a training is, and of what size its steps are.

    Attributes:
        steps: how many.
        batch_size: images in each; of a private training, expected.
        gradient_clip: the norm at most of the weights' gradient; None: any.
        ema_decay: of the weights' average, with which the network ends; None: it keeps the last.
        class_weights: float32 [k], how often each class is drawn in proportion; None: all alike.
    """

    steps: int
    batch_size: int
    gradient_clip: float | None = None
    ema_decay: float | None = None
    class_weights: Tensor | None = None


@dataclass(frozen=True)
class Moving:
    """What a training moves.

    Attributes:
        weights: of the network, always in the same order; clipped and averaged.
        optimiser: of these and of `beside`; its state is tensors only (as AdamW's is).
        beside: what else the optimiser moves, neither clipped nor averaged.
        private: what keeps what moves from telling of single images, if something does.
    """

    weights: Sequence[nn.Parameter]
    optimiser: Optimizer
    beside: Sequence[nn.Parameter] = ()
    private: Private | None = None

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """All that the optimiser moves."""
        return [*self.weights, *self.beside]


def fit(
    objective: Objective,
    moving: Moving,
    labels: Tensor,
    budget: Budget,
    context: Context,
    stage: str,
) -> StageLog:
    """Train in place.

    A private training is one process's: each rank of a team does all of it.

    Args:
        objective: what is minimised.
        moving: what moves, and how; on the context's device.
        labels: int64 [n], the class of each training image, on the context's device; batches draw
            classes equally often, or as the budget says.
        budget: steps, batch size, clipping, average.
        context: seed, task, device, progress, checkpoints.
        stage: names the random numbers, the bar and the checkpoints.

    Returns:
        The log, with a curve for each loss; of a private training, metrics as of `Spent`.
    """
    training = _Training.begun(objective, moving, budget, context.generator(stage))
    batches = training.batches(labels)
    checkpoint = context.checkpoints(stage)
    done = training.changing.resumed(checkpoint)

    def run(team: Team) -> None:
        first = team.rank == 0
        step, kept = training.step(team), checkpoint if first else NOWHERE
        with (context.progress if first else silent)(budget.steps, stage) as bar:
            for taken, losses in training.take(step, batches, done, kept):
                if first:
                    bar.advance(taken, **training.changing.recorder.add(**losses))

    training.on_ranks(run, context)
    return training.ended(labels)


def backward(
    objective: Objective, drawn: Sequence[Tensor], parameters: Sequence[Tensor], team: Team
) -> dict[str, Tensor]:
    """Set the gradients of a batch, to which each rank's part gives its share.

    A batch that is not cut is every rank's. A rank that no part is left for computes the first one,
    for nothing.

    Args:
        objective: what is minimised.
        drawn: what `objective` has drawn, the same on all ranks; all of it is cut into as many
            parts.
        parameters: leaves without a gradient; those that no loss depends on stay so.
        team: this rank's.

    Returns:
        The losses of the batch, detached.
    """
    images = len(drawn[0])
    number = min(len(team.cut(images + objective.beside)), images)
    place = team.rank if team.rank < number else 0
    part = [tensor[even(len(tensor), number)[place]] for tensor in drawn]
    share = len(part[0]) / images if team.rank < number or number == 1 else 0.0
    losses = {name: share * loss for name, loss in objective.losses(part).items()}
    objective.total(losses).backward()
    losses = {name: loss.detach() for name, loss in losses.items()}
    return losses if number == 1 else team.sum_gradients(parameters, losses)


@dataclass(frozen=True)
class _Training:
    """What `fit` is given, and what its steps change."""

    objective: Objective
    moving: Moving
    budget: Budget
    changing: Changing

    @classmethod
    def begun(
        cls, objective: Objective, moving: Moving, budget: Budget, generator: torch.Generator
    ) -> _Training:
        """Before its first step."""
        if moving.private is not None and moving.private.config.secret:
            generator.seed()
        schedule = warm_up_then_cosine(moving.optimiser, budget.steps)
        average = None if budget.ema_decay is None else Average(moving.weights, budget.ema_decay)
        changing = Changing(
            moving.parameters, moving.optimiser, schedule, generator, LossRecorder(), average
        )
        return cls(objective, moving, budget, changing)

    def batches(self, labels: Tensor) -> Sequence[Tensor] | Tensor:
        """One for each step: int64, indices into the images."""
        drawn: Callable[..., Sequence[Tensor] | Tensor]
        drawn = balanced_indices if self.moving.private is None else poisson_batches
        budget, generator = self.budget, self.changing.generator
        return drawn(labels, budget.steps, budget.batch_size, generator, budget.class_weights)

    def on_ranks(self, run: Work, context: Context) -> None:
        """Do `run` on each rank of the team; of no team, in as many processes as are worth it."""
        if self.moving.private is not None:
            run(ALONE)
        elif context.team.size > 1:
            run(context.team)
        else:
            share(run, ranks_for(self.budget.batch_size + self.objective.beside, context.device))

    def step(self, team: Team) -> Step:
        """What trains on a batch, as one rank of a team."""
        objective, moving, clip = self.objective, self.moving, self.budget.gradient_clip
        private, generator = moving.private, self.changing.generator
        gradients: Callable[[Sequence[Tensor]], dict[str, Tensor]]
        gradients = partial(backward, objective, parameters=moving.parameters, team=team)
        if private is not None:
            size = self.budget.batch_size
            gradients = PrivateGradients(private, objective, moving.optimiser, size, generator)

        def step(batch: Tensor) -> dict[str, Tensor]:
            moving.optimiser.zero_grad(set_to_none=True)
            losses = gradients(objective.drawn(batch, generator))
            if clip is not None:
                nn.utils.clip_grad_norm_(moving.weights, clip)
            moving.optimiser.step()
            return losses

        return step if private is not None else recorded(step, generator)

    def take(
        self, step: Step, batches: Sequence[Tensor] | Tensor, done: int, checkpoint: Checkpoint
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Take the steps that are left.

        Args:
            step: trains on a batch.
            batches: one for each step, the same whenever they are drawn.
            done: how many steps have been taken before.
            checkpoint: is offered a snapshot after each.

        Yields:
            How many steps are done with this one that were not before: 1, but for the first to
            come after a restored snapshot; and its losses.
        """
        for number in range(done, len(batches)):
            losses = step(batches[number])
            self.changing.stepped()
            yield (number + 1 if number == done else 1), losses
            checkpoint.offer(partial(self.changing.snapshot, number + 1))

    def ended(self, labels: Tensor) -> StageLog:
        """Let the network be its average, if there is one; what the training has left."""
        if self.changing.average is not None:
            self.changing.average.apply()
        private, budget = self.moving.private, self.budget
        metrics = {}
        if private is not None:
            given = (labels, budget.steps, budget.batch_size, budget.class_weights)
            metrics = private.spends(*given)._asdict()
        return StageLog(metrics, self.changing.recorder.curves)
