"""Drawing images of given classes from a denoiser.

A second-order multistep solver (DPM-Solver++, Lu et al. 2022, arXiv 2211.01095) with
classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): guided = (1 + w) e(z) - w e(null),
both branches in one batch; with w = 0 the second branch is not computed. A classifier may guide
instead, and then the ancestral sampler draws (see `guidance.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from gppdm_pipeline.algorithm.condition.table import ConditionTable
from gppdm_pipeline.algorithm.context import ProgressBar
from gppdm_pipeline.algorithm.diffusion.guide import Guide, ancestral
from gppdm_pipeline.algorithm.diffusion.network import (
    Denoiser,
    DenoiserConfig,
    noise_scheduler_config,
    signal_shares,
)
from gppdm_pipeline.algorithm.disk.checkpoints import NOWHERE, Checkpoint
from gppdm_pipeline.algorithm.disk.shards import Shards
from gppdm_pipeline.algorithm.fitting.batches import Pixels
from gppdm_pipeline.algorithm.fitting.threads import parts_of, together

if TYPE_CHECKING:
    from diffusers import DPMSolverMultistepScheduler

Level = Annotated[float, Field(ge=0)]


class ReplayConfig(BaseModel):
    """How many images are replayed, and how they are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images_per_class: Annotated[int, Field(ge=1)] = 200
    images: Annotated[int, Field(ge=1)] | None = None
    """At most so many in all, shared evenly among the old classes, though at least one of each: a
    task then costs the same however many there are. null: images_per_class of each."""
    keep: bool = False
    """Whether the images of a class are drawn once, right after the task in which it was real, and
    kept in the state; otherwise every task draws them anew from the generator before it."""
    filter_rounds: Annotated[int, Field(ge=0, le=20)] = 0
    """How often what the classifier of the task before does not agree with is drawn again, the
    first draw included; 0: all is taken as it comes."""
    guidance: Annotated[float, Field(ge=0, le=20)] = 0.0
    """w; 0 is plain conditional sampling. Above 0 it needs `denoiser.label_dropout`."""
    guidance_interval: tuple[Level, Level] | None = None
    """Guidance only where the noise level sigma = sqrt((1 - abar) / abar) is above the first and at
    most the second (Kynkäänniemi et al. 2024, arXiv 2404.07724); null: everywhere."""
    sampler_steps: Annotated[int, Field(ge=2, le=1000)] = 15
    sigma_max: Annotated[float, Field(ge=1)] | None = None
    """The noise level sigma = sqrt((1 - abar) / abar) that the solver's steps begin at, the nearest
    below; null: the end of the schedule. Far above 40, images of [-1, 1] leave next to nothing."""
    batch_size: Annotated[int, Field(ge=1)] = 512

    def shares(self, classes: Sequence[int]) -> dict[int, int]:
        """How many images of each of these old classes; earlier ones get what does not divide."""
        if self.images is None or not classes:
            return dict.fromkeys(classes, self.images_per_class)
        each, over = divmod(self.images, len(classes))
        counts = (max(1, each + (place < over)) for place in range(len(classes)))
        return {k: min(self.images_per_class, n) for k, n in zip(classes, counts, strict=True)}

    @field_validator("guidance_interval")
    @classmethod
    def _from_low_to_high(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError(
                f"{list(value)} is empty: give two noise levels, the lower first, such as [0.2, 5]"
            )
        return value


@dataclass(frozen=True)
class Beginning:
    """Images that are noised, and drawn anew from there (SDEdit, Meng et al. 2021).

    Attributes:
        images: n of them.
        signal: abar, the share of signal that noise leaves; the solver begins at its first step
            that has as much or more.
    """

    images: Pixels
    signal: float

    def of(self, piece: slice) -> tuple[Tensor, float]:
        """Those of a batch, float32 [b, c, h, w] in [-1, 1], and the share."""
        chosen = torch.arange(len(self.images), device=self.images.device)[piece]
        return self.images[chosen], self.signal


@torch.no_grad()
def draw_images(
    denoiser: Denoiser,
    table: ConditionTable,
    rows: Tensor,
    image_shape: tuple[int, int, int],
    config: ReplayConfig,
    denoiser_config: DenoiserConfig,
    generator: torch.Generator,
    bar: ProgressBar,
    checkpoint: Checkpoint = NOWHERE,
    guide: Guide | None = None,
    beginning: Beginning | None = None,
) -> NDArray[np.uint8]:
    """One image for each row.

    Args:
        denoiser: on the generator's device.
        table: conditions.
        rows: int64 [n], rows of the table.
        image_shape: (height, width, channels).
        config: guidance, sampler steps, batch size.
        denoiser_config: its schedule and prediction type.
        generator: of the starting noise; the solver itself is deterministic.
        bar: advanced by the images of each batch.
        checkpoint: keeps what is drawn, as shards.
        guide: the classifier that guides, if one does.
        beginning: images to begin with, one for each row; None: noise. No guide then.

    Returns:
        uint8 [n, h, w, c].
    """
    height, width, channels = image_shape
    drawn = Shards((len(rows), *image_shape), generator, checkpoint)
    if drawn.done:
        bar.advance(drawn.done)
    shares = signal_shares(denoiser_config, generator.device)
    guided = guided_steps(config, shares)
    for start in range(drawn.done, len(rows), config.batch_size):
        piece = slice(start, start + config.batch_size)
        batch = rows[piece]
        x = torch.randn(
            len(batch), channels, height, width, generator=generator, device=generator.device
        )
        begun = None if beginning is None else beginning.of(piece)
        if guide is None:
            x = _solved(denoiser, table, batch, x, config, denoiser_config, guided, begun)
        else:
            likelihood = guide.of(piece)
            x = ancestral(
                _prediction(denoiser, table, batch, config.guidance, guided),
                x,
                shares,
                denoiser_config.prediction,
                config.sampler_steps,
                likelihood,
                guide.scale,
                generator,
                guide.variance,
            )
        pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        drawn.add(pixels.permute(0, 2, 3, 1).cpu().numpy())
        bar.advance(len(batch))
    return drawn.images


def guided_steps(config: ReplayConfig, shares: Tensor) -> Tensor:
    """At which tau the sampler is guided: bool [T], on the CPU.

    Args:
        config: guidance and its interval.
        shares: abar, float32 [T].
    """
    low, high = config.guidance_interval or (0.0, math.inf)
    levels = ((1 - shares) / shares).sqrt().cpu()
    return (levels > low) & (levels <= high) & (config.guidance > 0)


def _prediction(
    denoiser: Denoiser, table: ConditionTable, rows: Tensor, guidance: float, guided: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """(x [b, c, h, w], tau) -> what the denoiser says, with classifier-free guidance."""
    b, everywhere, anywhere = len(rows), bool(guided.all()), bool(guided.any())
    kept = torch.arange(2 * b, device=rows.device) < b if anywhere else None
    tokens, which, images = table.shared(rows.repeat(2) if anywhere else rows, kept)

    def predict(x: Tensor, tau: Tensor) -> Tensor:
        if not everywhere and not (anywhere and guided[int(tau)]):
            conditional = None if images is None else images[:b]
            output: Tensor = denoiser(x, tau.expand(b), tokens, conditional, which[:b])
            return output
        both = denoiser(x.repeat(2, 1, 1, 1), tau.expand(2 * b), tokens, images, which)
        with_condition, without = both.chunk(2)
        output = (1 + guidance) * with_condition - guidance * without
        return output

    return predict


def _solved(
    denoiser: Denoiser,
    table: ConditionTable,
    rows: Tensor,
    x: Tensor,
    config: ReplayConfig,
    denoiser_config: DenoiserConfig,
    guided: Tensor,
    begun: tuple[Tensor, float] | None,
) -> Tensor:
    """A batch by the solver, its parts by threads."""

    @torch.no_grad()
    def solve(part: slice) -> Tensor:
        predict = _prediction(denoiser, table, rows[part], config.guidance, guided)
        some = None if begun is None else (begun[0][part], begun[1])
        return _solve(predict, x[part], config, denoiser_config, some)

    return torch.cat(together(solve, parts_of(len(x), x.device), x.device))


def _solve(
    predict: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    config: ReplayConfig,
    denoiser_config: DenoiserConfig,
    begun: tuple[Tensor, float] | None,
) -> Tensor:
    """From noise to images, float32 [b, c, h, w].

    With images and a signal share in `begun`, from these images, with so much of the noise x.
    """
    from diffusers import DPMSolverMultistepScheduler  # noqa: PLC0415 (takes two seconds)

    # Steps evenly spread in the logarithm of the noise: with steps evenly spread in tau, the spread
    # of fine detail is lost (on Gaussians of standard deviation 0.1, 15 steps: 0.06).
    solver = DPMSolverMultistepScheduler(
        **noise_scheduler_config(denoiser_config),
        timestep_spacing="linspace",
        use_lu_lambdas=True,
    )
    first = _set_steps(solver, config, x.device)
    if begun is not None:
        images, signal = begun
        noisier = solver.sigmas[: len(solver.timesteps) - 1] > math.sqrt((1 - signal) / signal)
        first = max(first, int(noisier.sum()))
        share = float(1 / (1 + solver.sigmas[first] ** 2))
        x = math.sqrt(share) * images + math.sqrt(1 - share) * x
    solver.set_begin_index(first)  # it looks its place up by tau, and rounded tau may come twice
    for tau in solver.timesteps[first:]:
        x = solver.step(predict(x, tau), tau, x, return_dict=False)[0]
    return x


def _set_steps(
    solver: DPMSolverMultistepScheduler, config: ReplayConfig, device: torch.device
) -> int:
    """Set the solver's steps, and say which is the first at or below `sigma_max`.

    There are as many in all as it takes for `sampler_steps` from there, the last included.
    """
    first = 0
    solver.set_timesteps(config.sampler_steps, device=device)
    while config.sigma_max is not None and int((solver.sigmas > config.sigma_max).sum()) > first:
        first += 1
        solver.set_timesteps(config.sampler_steps + first, device=device)
    return first
