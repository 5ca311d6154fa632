"""Gaussian replay: a Gaussian of each class stands in for its images.

The means and spreads of old classes on frozen features, as PASS (Zhu et al. 2021) and FeTrIL
(Petit et al. 2023, arXiv 2211.13131) keep them, with the covariance that all classes share; but in
the few directions in which a class varies most it has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from gppdm_pipeline.algorithm.classifier.gaussians import draw_from_gaussians, with_directions
from gppdm_pipeline.algorithm.classifier.moments import check_size, with_moments
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods.finetune import Finetune


class GaussianReplayConfig(Config):
    """How much is replayed."""

    images_per_class: Annotated[int, Field(ge=1)] = 300


class GaussianReplay(Finetune):
    """The classifier on this task's images, and on what the Gaussians of old classes draw."""

    name: Literal["gaussian_replay"] = "gaussian_replay"  # type: ignore[assignment]
    replay: GaussianReplayConfig = GaussianReplayConfig()
    directions: Annotated[int, Field(ge=0)] = 16
    """In how many directions a class has a spread of its own, at most; a state keeps a vector of
    two bytes a number for each. 0: the covariance of all classes, as large as the class's own."""

    @property
    def has_generator(self) -> bool:
        """Always: the Gaussians."""
        return True

    def check(self, image_shape: tuple[int, int, int], classes: int) -> None:
        """Refuse images whose covariance is too large."""
        check_size(self.name, image_shape)

    def draw(
        self, state: LearnerState, classes: Sequence[int], per_class: int, context: Context
    ) -> LabelledImages:
        """From the Gaussians."""
        return draw_from_gaussians(state, classes, per_class, context, "draw")

    def synthesise_replay(
        self, state: LearnerState, context: Context, earlier: Sequence[LabelledImages] = ()
    ) -> tuple[LabelledImages, StageLog]:
        """Images of every old class."""
        old, count = state.classes_before(context.task), self.replay.images_per_class
        if not old:
            return super().synthesise_replay(state, context)
        return draw_from_gaussians(state, old, count, context, "synthesise_replay"), StageLog()

    def train_generator(
        self, state: LearnerState, train: LabelledImages, replay: LabelledImages, context: Context
    ) -> tuple[LearnerState, StageLog]:
        """Add this task's images to the sums, and find the directions of its classes."""
        state = state.begin(context.task, train.classes, train.image_shape)
        if self.directions:
            state = with_directions(state, train, self.directions, context)
        return with_moments(state, train, context)[0], StageLog()
