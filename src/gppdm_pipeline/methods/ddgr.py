"""DDGR: diffusion replay whose sampler is guided by the classifier of the task before.

Gao & Liu 2023, "DDGR: Continual learning with deep diffusion-based generative replay", ICML. The
guidance is that of Dhariwal & Nichol 2021 (arXiv 2105.05233): the mean of every sampling step moves
by scale x variance x grad log p(y | x). Departures: the denoiser is conditioned on the label too,
like all here, and the presets' ancestral sampler is short: 50 steps, where the authors respace a
chain of 4,000 steps to 250 and learn the variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gppdm_pipeline.algorithm.classifier.network import build_classifier
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.guide import Guide, Variance, fit_guide
from gppdm_pipeline.algorithm.diffusion.samplers import ReplayConfig
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.generator.draw import replay_of
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods.base import all_images
from gppdm_pipeline.methods.diffusion_replay import DiffusionReplay


class GuideConfig(BaseModel):
    """Which classifier guides, and how hard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: Annotated[float, Field(ge=0)] = 1.0
    """Of the gradient; 0 is ancestral sampling without guidance."""
    time_aware: bool = False
    """False: the state's classifier, which has seen clean images only. True: a second one of the
    same size and budget, trained on noisy images and told how noisy they are."""
    variance: Variance = "small"
    """Of the sampler's steps. small: as published; where steps are few, it draws images too much
    alike. analytic: Bao et al. 2022 (arXiv 2201.06503), at the same cost."""


class Ddgr(DiffusionReplay):
    """Diffusion replay, guided; the classifier is trained first, since it guides."""

    order: ClassVar[Literal["classifier_first"]] = "classifier_first"  # type: ignore[misc]
    texture: ClassVar[Literal[False]] = False  # type: ignore[misc]
    redraw: ClassVar[float] = 0.0  # type: ignore[misc]
    redraw_images: ClassVar[int] = 400  # type: ignore[misc]

    name: Literal["ddgr"] = "ddgr"  # type: ignore[assignment]
    guide: GuideConfig = GuideConfig()
    replay: ReplayConfig = ReplayConfig(sampler_steps=50)

    def _fit_generator(
        self, state: LearnerState, train: LabelledImages, replay: LabelledImages, context: Context
    ) -> tuple[LearnerState, StageLog]:
        """The denoiser, and the time-aware classifier if that one guides."""
        state, log = super()._fit_generator(state, train, replay, context)
        if not self.guide.time_aware:
            return state, log
        images = all_images(train, replay)
        state, more = fit_guide(state, self.classifier, self.denoiser, images, context)
        return state, StageLog(log.metrics, {**log.curves, **more.curves})

    def _draw(
        self, state: LearnerState, counts: Mapping[int, int], context: Context, stage: str
    ) -> LabelledImages:
        weights = state.extras["guide"] if self.guide.time_aware else state.classifier
        assert weights is not None
        columns = torch.tensor([state.classes.index(label) for label in counts])
        of_each = torch.tensor(list(counts.values()))
        guide = Guide(
            build_classifier(weights).to(context.device),
            columns.repeat_interleave(of_each).to(context.device),
            self.guide.scale,
            self.guide.time_aware,
            self.guide.variance,
        )
        return replay_of(state, tuple(counts), tuple(of_each.tolist()), self, context, stage, guide)

    @model_validator(mode="after")
    def _ancestral(self) -> Ddgr:
        if self.replay.sigma_max is not None:
            raise ValueError(
                f"replay.sigma_max is {self.replay.sigma_max:g}, which is of the solver, but ddgr "
                "draws by the ancestral sampler; use replay.sigma_max: null"
            )
        return self
