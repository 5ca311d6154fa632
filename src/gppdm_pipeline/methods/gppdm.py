"""GPPDM: class-prototype conditional diffusion with gradient projection.

Doan et al. 2024, arXiv 2312.06710. Where this departs from the paper: by default the generator is
trained before the classifier, which then sees images of one origin only (see `order`), and a
prototype starts from the mean of its class, so that no state contains a training image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import model_validator

from gppdm_pipeline.algorithm.classifier import fit_classifier
from gppdm_pipeline.algorithm.denoiser import DenoiserConfig
from gppdm_pipeline.algorithm.device import Context
from gppdm_pipeline.algorithm.generator import (
    add_classes,
    check_images,
    extend_bases,
    replay_of,
    train_denoiser,
)
from gppdm_pipeline.algorithm.log import StageLog
from gppdm_pipeline.algorithm.projection import ProjectionConfig
from gppdm_pipeline.algorithm.prototypes import PrototypeConfig
from gppdm_pipeline.algorithm.replay import ReplayConfig
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images import LabelledImages
from gppdm_pipeline.methods.base import Method, all_images


class Gppdm(Method):
    """Diffusion replay with learnable class prototypes and projected cross-attention."""

    name: Literal["gppdm"] = "gppdm"
    order: Literal["generator_first", "classifier_first"] = "generator_first"
    """generator_first: the classifier learns from generated images alone, the replay of old classes
    and images of the new ones from the new generator, so that it cannot tell old from new by
    replayed from real. classifier_first, as published: from the replay and this task's real images.
    """
    denoiser: DenoiserConfig = DenoiserConfig()
    prototypes: PrototypeConfig = PrototypeConfig()
    projection: ProjectionConfig = ProjectionConfig()
    replay: ReplayConfig = ReplayConfig()

    @property
    def generator_first(self) -> bool:
        """As `order` says."""
        return self.order == "generator_first"

    @property
    def has_generator(self) -> bool:
        """Always."""
        return True

    @property
    def has_prototypes(self) -> bool:
        """Unless the denoiser is given none."""
        return self.prototypes.route != "none"

    def check(self, image_shape: tuple[int, int, int], classes: int) -> None:
        """As the generator says."""
        check_images(self, image_shape, classes)

    def synthesise_replay(
        self, state: LearnerState, context: Context, earlier: Sequence[LabelledImages] = ()
    ) -> tuple[LabelledImages, StageLog]:
        """Images of every old class from the generator of the task before."""
        old = state.classes_before(context.task)
        if not old:
            return LabelledImages.empty(state.image_shape or (0, 0, 0)), StageLog()
        return self._draw(state, old, context, "synthesise_replay"), StageLog()

    def train_generator(
        self, state: LearnerState, train: LabelledImages, replay: LabelledImages, context: Context
    ) -> tuple[LearnerState, StageLog]:
        """Denoiser and new prototypes on this task's images and the replay; then the bases."""
        state = state.begin(context.task, train.classes, train.image_shape)
        state = add_classes(state, train, self, context)
        state, log = train_denoiser(state, all_images(train, replay), self, context)
        state, ranks = extend_bases(state, self, context)
        return state, StageLog({**log.metrics, **ranks.metrics}, log.curves)

    def train_classifier(
        self,
        state: LearnerState,
        train: LabelledImages,
        validation: LabelledImages,
        replay: LabelledImages,
        context: Context,
    ) -> tuple[LearnerState, StageLog]:
        """On the replay, and on images of this task's classes: generated or real (`order`)."""
        state = state.begin(context.task, train.classes, train.image_shape)
        if not self.generator_first:
            images = all_images(train, replay)
        else:  # a class that comes back, too, from the generator that has just seen it again
            drawn = self._draw(state, train.classes, context, "draw_new_classes")
            images = all_images(drawn, replay.of_classes(set(replay.classes) - {*train.classes}))
        return fit_classifier(state, self.classifier, images, validation, context)

    def _draw(
        self, state: LearnerState, classes: Sequence[int], context: Context, stage: str
    ) -> LabelledImages:
        return replay_of(state, classes, self.replay.images_per_class, self, context, stage)

    @model_validator(mode="after")
    def _starts_are_known(self) -> Gppdm:
        needs_classifier = self.prototypes.start in ("most_confident", "least_confident")
        if self.generator_first and needs_classifier:
            raise ValueError(
                f"prototypes.start is {self.prototypes.start!r}, which asks a classifier that "
                "knows the new classes, but order is 'generator_first'; use order: "
                "classifier_first, or prototypes.start: class_mean or noise"
            )
        return self
