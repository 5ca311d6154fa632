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
from torch.optim.lr_scheduler import LambdaLR

from gppdm_pipeline.algorithm.context import Context, silent
from gppdm_pipeline.algorithm.disk.checkpoints import NOWHERE, Checkpoint, Snapshot
from gppdm_pipeline.algorithm.fitting.average import Average
from gppdm_pipeline.algorithm.fitting.batches import balanced_indices
from gppdm_pipeline.algorithm.fitting.forks import ranks_for, share
from gppdm_pipeline.algorithm.fitting.graphs import Step, recorded
from gppdm_pipeline.algorithm.fitting.log import LossRecorder, StageLog
from gppdm_pipeline.algorithm.fitting.private import Private, PrivateGradients, poisson_batches
from gppdm_pipeline.algorithm.fitting.schedule import continue_at, warm_up_then_cosine
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
    generator, parameters = context.generator(stage), [*moving.weights, *moving.beside]
    private = moving.private
    if private is not None and private.config.secret:
        generator.seed()
    schedule = warm_up_then_cosine(moving.optimiser, budget.steps)
    average = None if budget.ema_decay is None else Average(moving.weights, budget.ema_decay)
    training = _Training(parameters, moving.optimiser, schedule, generator, LossRecorder(), average)
    drawn: Callable[..., Sequence[Tensor] | Tensor]
    drawn = balanced_indices if private is None else poisson_batches
    batches = drawn(labels, budget.steps, budget.batch_size, generator, budget.class_weights)
    checkpoint = context.checkpoints(stage)
    done = training.resumed(checkpoint)

    def run(team: Team) -> None:
        first = team.rank == 0
        take = _step_of(objective, moving, budget, generator, team)
        take = take if private else recorded(take, generator)
        with (context.progress if first else silent)(budget.steps, stage) as bar:
            for taken, batch in training.remaining(batches, done, checkpoint if first else NOWHERE):
                losses = take(batch)
                schedule.step()
                if average is not None:
                    average.update()
                if first:
                    bar.advance(taken, **training.recorder.add(**losses))

    if private is not None:
        run(ALONE)
    elif context.team.size > 1:
        run(context.team)
    else:
        share(run, ranks_for(budget.batch_size + objective.beside, context.device))
    if average is not None:
        average.apply()
    given = (labels, budget.steps, budget.batch_size, budget.class_weights)
    metrics = {} if private is None else private.spends(*given)._asdict()
    return StageLog(metrics, training.recorder.curves)


def _step_of(
    objective: Objective,
    moving: Moving,
    budget: Budget,
    generator: torch.Generator,
    team: Team,
) -> Step:
    """What trains on a batch, as one rank of a team."""
    parameters = [*moving.weights, *moving.beside]
    gradients: Callable[[Sequence[Tensor]], dict[str, Tensor]]
    gradients = partial(backward, objective, parameters=parameters, team=team)
    if moving.private is not None:
        gradients = PrivateGradients(
            moving.private, objective, moving.optimiser, budget.batch_size, generator
        )

    def step(batch: Tensor) -> dict[str, Tensor]:
        moving.optimiser.zero_grad(set_to_none=True)
        losses = gradients(objective.drawn(batch, generator))
        if budget.gradient_clip is not None:
            nn.utils.clip_grad_norm_(moving.weights, budget.gradient_clip)
        moving.optimiser.step()
        return losses

    return step


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
    """All that a training loop changes.

    Attributes:
        parameters: that the optimiser moves, always in the same order.
        optimiser: its state is tensors only (as AdamW's is).
        schedule: of its learning rates.
        generator: of the random numbers drawn in the loop.
        recorder: of the losses.
        average: of the parameters, if there is one.
    """

    parameters: Sequence[nn.Parameter]
    optimiser: Optimizer
    schedule: LambdaLR
    generator: torch.Generator
    recorder: LossRecorder
    average: Average | None

    def resumed(self, checkpoint: Checkpoint) -> int:
        """Go back to where the training was when it was stopped; how many steps that is."""
        latest = checkpoint.latest()
        return 0 if latest is None else self._restore(latest)

    def remaining(
        self, batches: Sequence[Tensor] | Tensor, done: int, checkpoint: Checkpoint
    ) -> Iterator[tuple[int, Tensor]]:
        """The steps that are left, and the batch of each.

        Args:
            batches: one for each step, the same whenever they are drawn.
            done: how many steps have been taken before.
            checkpoint: is offered a snapshot after each.

        Yields:
            How many steps are done with this one that were not before: 1, but for the first to
            come after a restored snapshot; and the batch.
        """
        for step in range(done, len(batches)):
            yield (step + 1 if step == done else 1), batches[step]
            checkpoint.offer(partial(self._snapshot, step + 1))

    def _snapshot(self, step: int) -> Snapshot:
        tensors = {f"parameter.{i}": value.detach() for i, value in enumerate(self.parameters)}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{name}": value for name, value in state.items()}
        tensors |= {f"average.{i}": value for i, value in enumerate(self._averages())}
        tensors |= {f"losses.{name}": value for name, value in self.recorder.pending().items()}
        tensors["generator"] = self.generator.get_state()
        return Snapshot(step, tensors, {"curves": self.recorder.curves})

    @torch.no_grad()
    def _restore(self, snapshot: Snapshot) -> int:
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in snapshot.tensors.items():
            group, _, key = name.partition(".")
            groups.setdefault(group, {})[key] = tensor
        for i, parameter in enumerate(self.parameters):
            parameter.copy_(groups["parameter"][str(i)])
        for i, average in enumerate(self._averages()):
            average.copy_(groups["average"][str(i)])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups.get("optimiser", {}).items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
        now = self.optimiser.state_dict()
        self.optimiser.load_state_dict({**now, "state": state})
        continue_at(self.schedule, snapshot.step)
        if self.average is not None:
            self.average.count = snapshot.step
        losses = groups.get("losses", {})
        pending = {name: values.to(self.generator.device) for name, values in losses.items()}
        self.recorder.restore(snapshot.step, snapshot.record["curves"], pending)
        self.generator.set_state(groups["generator"][""])
        return snapshot.step

    def _averages(self) -> Sequence[Tensor]:
        return () if self.average is None else self.average.tensors
