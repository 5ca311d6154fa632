"""DDGR: diffusion replay whose sampler is guided by the classifier of the task before.

Gao & Liu 2023, "DDGR: Continual learning with deep diffusion-based generative replay", ICML. The
guidance is that of Dhariwal & Nichol 2021 (arXiv 2105.05233): the mean of every sampling step moves
by scale x variance x grad log p(y | x). Departures: the denoiser is conditioned on the label too,
like all here, and the presets' ancestral sampler is short: 50 steps, where the authors respace a
chain of 4,000 steps to 250 and learn the variance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gppdm_pipeline.algorithm.classifier.analytic import AnalyticConfig
from gppdm_pipeline.algorithm.classifier.network import build_classifier
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.network import DIFFUSION_STEPS
from gppdm_pipeline.algorithm.diffusion.process import Clean, Fresh, Process
from gppdm_pipeline.algorithm.fitting.batches import PIXELS, Scale
from gppdm_pipeline.algorithm.fitting.scale import scale_of
from gppdm_pipeline.algorithm.generator.draw import replay_of
from gppdm_pipeline.algorithm.generator.parts import ReplayConfig
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods.diffusion_replay import DiffusionReplay

LogLikelihood = Callable[[Tensor], Tensor]
"""x float32 [b, c, h, w] -> log p(y | x) of each image's class, [b]."""


class GuideConfig(Config):
    """How hard the classifier guides."""

    scale: Annotated[float, Field(ge=0)] = 1.0
    """Of the gradient; 0 is ancestral sampling without guidance."""


@dataclass(frozen=True)
class Step:
    """From tau to an earlier step.

    q(x_before | x_tau, x_0) = N(of_clean x_0 + of_noisy x_tau, variance): Ho et al. 2020 (arXiv
    2006.11239), eq. 7, with alpha = abar_tau / abar_before, since steps between are left out.
    """

    of_clean: Tensor
    of_noisy: Tensor
    variance: Tensor

    @classmethod
    def between(cls, share: Tensor, before: Tensor) -> Step:
        """From abar_tau to abar_before, each a scalar."""
        alpha = share / before
        beta = 1 - alpha
        return cls(
            before.sqrt() * beta / (1 - share),
            alpha.sqrt() * (1 - before) / (1 - share),
            beta * (1 - before) / (1 - share),
        )


@dataclass(frozen=True)
class GuidedAncestral:
    """DDPM's ancestral sampler over some of the steps, guided by a classifier's gradient.

    Dhariwal & Nichol 2021 (arXiv 2105.05233), algorithm 1, which DDGR (Gao & Liu 2023, ICML)
    replays with: the mean moves by scale x variance x grad_x log p(y | x).

    Attributes:
        process: its noise schedule.
        steps: evaluations of the denoiser, spread evenly over all.
        log_likelihood: of each image's class.
        scale: of its gradient; 0 is plain ancestral sampling.
        bounded: keeps x_0 where images are, float32 [b, c, h, w] -> likewise.
    """

    process: Process
    steps: int
    log_likelihood: LogLikelihood
    scale: float
    bounded: Callable[[Tensor], Tensor] = PIXELS.bounded

    def __call__(self, clean: Clean, x: Tensor, fresh: Fresh) -> Tensor:
        """From noise to images, float32 [b, c, h, w]."""
        shares = self.process.shares
        taus = torch.linspace(DIFFUSION_STEPS - 1, 0, self.steps, device=x.device).round().long()
        for i, tau in enumerate(taus):
            share = shares[tau]
            before = shares[taus[i + 1]] if i + 1 < self.steps else torch.ones_like(share)
            seen = self.bounded(clean(x, self.process.level(tau)))
            step = Step.between(share, before)
            x = self.mean(step, x, seen)
            x = x + step.variance.sqrt() * fresh()
        return x

    def mean(self, step: Step, x: Tensor, clean: Tensor) -> Tensor:
        """Mu + scale x variance x grad_x log p(y | x_tau).

        Args:
            step: where it leads.
            x: float32 [b, c, h, w].
            clean: the denoiser's x_0, likewise.
        """
        with torch.enable_grad():
            inputs = x.detach().requires_grad_()
            likelihood = self.log_likelihood(inputs).sum()
            (gradient,) = torch.autograd.grad(likelihood, inputs)
        return step.of_clean * clean + step.of_noisy * x + self.scale * step.variance * gradient


@dataclass(frozen=True)
class Guided:
    """Ancestral samplers that a classifier of clean images guides.

    Attributes:
        network: float32 [b, c, h, w] -> logits [b, k].
        columns: int64 [n], the output of each image that will be drawn.
        steps: of the sampler.
        scale: of the gradient.
        space: the scale of what is drawn.
    """

    network: nn.Module
    columns: Tensor
    steps: int
    scale: float
    space: Scale = PIXELS
    random: ClassVar[bool] = True

    def of(self, process: Process, piece: slice) -> GuidedAncestral:
        """As `Samplers`."""
        columns = self.columns[piece]

        def log_likelihood(x: Tensor) -> Tensor:
            logits: Tensor = self.network(self.space.numbers(x))
            return logits.log_softmax(1).gather(1, columns[:, None]).squeeze(1)

        bounded = self.space.bounded
        return GuidedAncestral(process, self.steps, log_likelihood, self.scale, bounded)


class Ddgr(DiffusionReplay):
    """Diffusion replay, guided; the classifier is trained first, since it guides."""

    order: ClassVar[Literal["classifier_first"]] = "classifier_first"  # type: ignore[misc]
    texture: ClassVar[Literal[False]] = False  # type: ignore[misc]
    redraw: ClassVar[float] = 0.0  # type: ignore[misc]
    redraw_images: ClassVar[int] = 400  # type: ignore[misc]
    analytic: ClassVar[AnalyticConfig] = AnalyticConfig()  # type: ignore[misc]

    name: Literal["ddgr"] = "ddgr"  # type: ignore[assignment]
    guide: GuideConfig = GuideConfig()
    replay: ReplayConfig = ReplayConfig(sampler_steps=50)

    @property
    def draws_once(self) -> bool:
        """The classifier that guides is another one in each task."""
        return False

    @property
    def classifies_what_is_drawn(self) -> bool:
        """Since it guides."""
        return True

    def _draw(
        self, state: LearnerState, counts: Mapping[int, int], context: Context, stage: str
    ) -> LabelledImages:
        if self.memory == "adapters" and len(counts) > 1:  # each with its own weights
            each = [
                self._draw(state, {label: count}, context, f"{stage}_{label}")
                for label, count in counts.items()
            ]
            return LabelledImages.concatenate(each)
        assert state.classifier is not None
        columns = torch.tensor([state.classes.index(label) for label in counts])
        of_each = torch.tensor(list(counts.values()))
        guided = Guided(
            build_classifier(state.classifier).to(context.device),
            columns.repeat_interleave(of_each).to(context.device),
            self.replay.sampler_steps,
            self.guide.scale,
            scale_of(state, context.device),
        )
        classes, numbers = tuple(counts), tuple(of_each.tolist())
        return replay_of(state, classes, numbers, self, context, stage, samplers=guided)

    @model_validator(mode="after")
    def _guided_by_real_images(self) -> Ddgr:
        if self.private.on:
            raise ValueError(
                "private.noise_multiplier is above 0, but ddgr's replay is guided by a classifier "
                "of real images; use gppdm, cpdm or diffusion_replay, or "
                "private.noise_multiplier: 0"
            )
        return self

    @model_validator(mode="after")
    def _ancestral(self) -> Ddgr:
        for name, off in (("sigma_max", None), ("gaussians", 0)):
            value = getattr(self.replay, name)
            if value not in (None, 0):
                raise ValueError(
                    f"replay.{name} is {value:g}, which is of the solver, but ddgr draws by the "
                    f"ancestral sampler; use replay.{name}: {'null' if off is None else off}"
                )
        return self
