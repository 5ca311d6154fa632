"""The generator draws: a batch at a time, by the solver or by what stands in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gppdm_pipeline.algorithm.condition.table import Conditions, ConditionTable
from gppdm_pipeline.algorithm.context import Context, ProgressBar
from gppdm_pipeline.algorithm.diffusion.network import Denoiser
from gppdm_pipeline.algorithm.diffusion.process import Clean, Level, Multistep, Process, Sampler
from gppdm_pipeline.algorithm.disk.checkpoints import NOWHERE, Checkpoint
from gppdm_pipeline.algorithm.disk.shards import Shards
from gppdm_pipeline.algorithm.fitting.batches import PIXELS, Scale
from gppdm_pipeline.algorithm.fitting.scale import scale_of
from gppdm_pipeline.algorithm.fitting.threads import parts_of, together
from gppdm_pipeline.algorithm.generator.gaussians import Begun, OfGaussians
from gppdm_pipeline.algorithm.generator.parts import (
    GeneratorSettings,
    ReplayConfig,
    condition_table,
    denoiser_of,
)
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.algorithm.team import ALONE, Team
from gppdm_pipeline.images.labelled import LabelledImages


class Samplers(Protocol):
    """Gives the images at each slice of all that are drawn their sampler."""

    @property
    def random(self) -> bool:
        """Whether samplers draw random numbers, so that a batch cannot be cut for threads."""

    def of(self, process: Process, piece: slice) -> Sampler:
        """The sampler of some of the images."""


@dataclass(frozen=True)
class Solver:
    """DPM-Solver++ from noise, or from images with noise.

    Attributes:
        config: its steps.
        images: what is noised and drawn anew, if anything is.
        signal: abar, the share of it that is left.
    """

    config: ReplayConfig
    images: Begun | None = None
    signal: float = 0.0
    random: ClassVar[bool] = False

    def of(self, process: Process, piece: slice) -> Multistep:
        """As `Samplers`."""
        begun = None
        if self.images is not None:
            device = self.images.device
            begun = self.images[torch.arange(len(self.images), device=device)[piece]]
        steps, sigma_max = self.config.sampler_steps, self.config.sigma_max
        return Multistep(process, steps, sigma_max, begun, self.signal)


def solver_of_classes(
    state: LearnerState,
    labels: NDArray[np.int64],
    numbers: NDArray[np.int64],
    settings: GeneratorSettings,
    context: Context,
) -> Solver:
    """The solver that the settings describe: from noise, or from the classes' Gaussians.

    Args:
        state: with a generator that knows the classes.
        labels: int64 [n], the class of each image that is to be drawn.
        numbers: int64 [n], which of its class each is.
        settings: of the generator.
        context: seed, device.
    """
    if not settings.replay.gaussians:
        return Solver(settings.replay)
    begun = OfGaussians(state, labels, numbers, context)
    return Solver(settings.replay, begun, settings.replay.gaussians)


def replay_of(
    state: LearnerState,
    classes: Sequence[int],
    per_class: int | Sequence[int],
    settings: GeneratorSettings,
    context: Context,
    stage: str,
    *,
    samplers: Samplers | None = None,
) -> LabelledImages:
    """Draw images of each of `classes` from the generator of `state`.

    Args:
        state: with a generator that knows the classes.
        classes: any it knows.
        per_class: how many of each, at least 1: one number, or one for each class.
        settings: of the generator.
        context: seed, task, device, progress.
        stage: names the random numbers, and the bar.
        samplers: instead of the solver that the settings describe.

    Returns:
        Images as they are stored (uint8 or float16), class after class.
    """
    counts = [per_class] * len(classes) if isinstance(per_class, int) else list(per_class)
    labels = np.repeat(np.asarray(classes), counts)
    if samplers is None:
        numbers = np.concatenate([np.arange(count) for count in counts])
        samplers = solver_of_classes(state, labels, numbers, settings, context)
    return draw(state, labels, settings, context, stage, samplers=samplers)


def draw(
    state: LearnerState,
    labels: NDArray[np.int64],
    settings: GeneratorSettings,
    context: Context,
    stage: str,
    *,
    samplers: Samplers,
) -> LabelledImages:
    """An image for each label, as it is stored: uint8 or float16.

    Args:
        state: with a generator that knows the classes.
        labels: int64 [n], of classes with the same adapter, or none.
        settings: of the generator.
        context: seed, task, device, progress; its checkpoints keep what is drawn, as shards.
        stage: names the random numbers, and the bar.
        samplers: of each batch, and of each part of one.
    """
    classes, indices = np.unique(labels, return_inverse=True)
    drawer = drawer_of(state, classes.tolist(), settings, context)
    rows, generator = torch.from_numpy(indices).to(context.device), context.generator(stage)
    with context.progress(len(rows), stage) as bar:
        images = drawer(rows, samplers, generator, bar, context.checkpoints(stage))
    return LabelledImages(images, labels)


def drawer_of(
    state: LearnerState, classes: Sequence[int], settings: GeneratorSettings, context: Context
) -> Drawer:
    """What draws images of `classes`, which have the same adapter, or none."""
    assert state.image_shape is not None
    assert len({state.adapter_of(label) for label in classes}) == 1
    return Drawer(
        denoiser_of(state, settings, context, classes[0]),
        condition_table(state, classes, settings, context),
        Process(settings.denoiser, context.device),
        settings.replay,
        state.image_shape,
        context.team,
        scale_of(state, context.device),
    )


@dataclass(frozen=True)
class Drawer:
    """Draws images of the classes in a table.

    Attributes:
        denoiser: on the table's device.
        table: conditions.
        process: noise and prediction.
        config: guidance and batch size.
        image_shape: (height, width, channels).
        team: each rank draws a part of a batch; all get all of it.
        scale: of what the denoiser draws.
    """

    denoiser: Denoiser
    table: ConditionTable
    process: Process
    config: ReplayConfig
    image_shape: tuple[int, int, int]
    team: Team = ALONE
    scale: Scale = PIXELS

    def __call__(
        self,
        rows: Tensor,
        samplers: Samplers,
        generator: torch.Generator,
        bar: ProgressBar,
        checkpoint: Checkpoint = NOWHERE,
    ) -> NDArray[Any]:
        """One image for each row.

        Args:
            rows: int64 [n], rows of the table.
            samplers: of each batch, and of each part of one.
            generator: of the starting noise, and of samplers that draw some.
            bar: advanced by the images of each batch.
            checkpoint: keeps what is drawn, as shards.

        Returns:
            uint8 or float16 [n, h, w, c].
        """
        height, width, channels = self.image_shape
        device, size = generator.device, self.config.batch_size
        shape = (len(rows), *self.image_shape)
        drawn = Shards(shape, generator, checkpoint, self.scale.dtype)
        if drawn.done:
            bar.advance(drawn.done)
        for start in range(drawn.done, len(rows), size):
            n = min(size, len(rows) - start)
            noise = torch.randn(n, channels, height, width, generator=generator, device=device)
            drawn.add(self.batch(rows, start, noise, samplers, generator))
            bar.advance(n)
        return drawn.images

    @torch.no_grad()
    def batch(
        self,
        rows: Tensor,
        start: int,
        noise: Tensor,
        samplers: Samplers,
        generator: torch.Generator,
    ) -> NDArray[Any]:
        """Some of the images, uint8 or float16 [b, h, w, c].

        Args:
            rows: int64 [n], of all.
            start: which is the first.
            noise: float32 [b, c, h, w], what they are drawn from.
            samplers: as above.
            generator: of samplers that draw random numbers.
        """
        device, images = noise.device, len(noise)
        own = self.team.part(images)
        done = own if own.stop > own.start else slice(0, 1)  # for its random numbers alone
        number = done.stop - done.start
        pieces = [slice(0, number)] if samplers.random else parts_of(number, device)

        def fresh() -> Tensor:
            return torch.randn(noise.shape, generator=generator, device=device)[done]

        @torch.no_grad()
        def solve(part: slice) -> Tensor:
            first, end = done.start + part.start, done.start + part.stop
            piece = slice(start + first, start + end)
            clean = self.clean(rows[piece])
            return samplers.of(self.process, piece)(clean, noise[first:end], fresh)

        x = torch.cat(together(solve, pieces, device))[: own.stop - own.start]
        stored = self.team.gather(self.scale.stored(x), images)
        return stored.permute(0, 2, 3, 1).cpu().numpy()

    def clean(self, rows: Tensor) -> Clean:
        """x_0 as the denoiser sees it, with classifier-free guidance (Ho & Salimans 2022).

        guided = (1 + w) e(z) - w e(null) (arXiv 2207.12598), both branches in one batch; with
        w = 0, or outside the interval of guidance, the second is not computed.

        Args:
            rows: int64 [b], of the table: the images' classes.
        """
        guided = self.config.guided(self.process.shares)
        b, everywhere, anywhere = len(rows), bool(guided.all()), bool(guided.any())
        kept = torch.arange(2 * b, device=rows.device) < b if anywhere else None
        tokens, which, images = self.table(rows.repeat(2) if anywhere else rows, kept)
        assert which is not None
        both = Conditions(tokens, which, images)
        alone = Conditions(tokens, which[:b], None if images is None else images[:b])
        w = self.config.guidance

        def clean(x: Tensor, level: Level) -> Tensor:
            if not everywhere and not (anywhere and guided[int(level.tau)]):
                output = self.denoiser(x, level.tau.expand(b), alone)
            else:
                twice = self.denoiser(x.repeat(2, 1, 1, 1), level.tau.expand(2 * b), both)
                with_condition, without = twice.chunk(2)
                output = (1 + w) * with_condition - w * without
            return self.process.clean(x, output, level)

        return clean
