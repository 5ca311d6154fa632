"""VAE replay: deep generative replay with a conditional convolutional VAE.

Shin et al. 2017, arXiv 1705.08690: classifier and generator learn from this task's images and from
replay of the generator of the task before. Departures: the VAE is told the class, so that replay
needs no classifier to label it; see `order` and `distil` for two more, and how to undo them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from gppdm_pipeline.algorithm.classifier.network import fit_classifier
from gppdm_pipeline.algorithm.classifier.texture import texture_of
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.fitting.scale import scale_of, with_scale
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.algorithm.vae import (
    VaeConfig,
    draw_from_vae,
    fit_vae,
    reconstruction_residuals,
)
from gppdm_pipeline.algorithm.vae_networks import check_image_shape
from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods.base import Method, all_images


class VaeReplayConfig(Config):
    """How much is replayed."""

    images_per_class: Annotated[int, Field(ge=1)] = 1000


class VaeReplay(Method):
    """Replay from a VAE."""

    name: Literal["vae_replay"] = "vae_replay"
    order: Literal["generator_first", "classifier_first"] = "generator_first"
    """generator_first: the classifier learns from the replay of old classes and from images of the
    new ones from the new VAE, all with this task's texture (see `classifier/texture.py`).
    classifier_first, as published: from the replay and this task's real images."""
    distil: bool = True
    """Whether the VAE keeps old classes by distillation from the VAE before (its decoder says the
    same to the same latents) or, as published, learns them again from replay."""
    vae: VaeConfig = VaeConfig()
    replay: VaeReplayConfig = VaeReplayConfig()

    @property
    def generator_first(self) -> bool:
        """As `order` says."""
        return self.order == "generator_first"

    @property
    def has_generator(self) -> bool:
        """Always."""
        return True

    @property
    def classifies_what_is_drawn(self) -> bool:
        """With texture, which is what the VAE leaves out."""
        return self.generator_first

    def check(self, image_shape: tuple[int, int, int], classes: int) -> None:
        """Refuse images that the VAE cannot draw."""
        check_image_shape(image_shape)

    def draw(
        self, state: LearnerState, classes: Sequence[int], per_class: int, context: Context
    ) -> LabelledImages:
        """From latents of noise."""
        return draw_from_vae(state, classes, per_class, context, "draw")

    def generator_losses(
        self, state: LearnerState, images: LabelledImages, context: Context
    ) -> Tensor:
        """What the VAE leaves out of each image."""
        return reconstruction_residuals(state, images, context).square().mean((1, 2, 3))[:, None]

    def synthesise_replay(
        self, state: LearnerState, context: Context, earlier: Sequence[LabelledImages] = ()
    ) -> tuple[LabelledImages, StageLog]:
        """Images of every old class from the VAE of the task before."""
        old = state.classes_before(context.task)
        if not old:
            return LabelledImages.empty(state.image_shape or (0, 0, 0)), StageLog()
        return self._draw(state, old, context, "synthesise_replay"), StageLog()

    def train_generator(
        self, state: LearnerState, train: LabelledImages, replay: LabelledImages, context: Context
    ) -> tuple[LearnerState, StageLog]:
        """The VAE on this task's images and, for old classes, the VAE before or its replay."""
        state = state.begin(context.task, train.classes, train.image_shape)
        state = with_scale(state, train)
        images = train if self.distil else all_images(train, replay)
        return fit_vae(state, self.vae, images, context)

    def train_classifier(
        self,
        state: LearnerState,
        train: LabelledImages,
        validation: LabelledImages,
        replay: LabelledImages,
        context: Context,
    ) -> tuple[LearnerState, StageLog]:
        """On the replay, and on images of this task: generated or real, as `order` says."""
        state = state.begin(context.task, train.classes, train.image_shape)
        if not self.generator_first:
            images = all_images(train, replay)
            return fit_classifier(state, self.classifier, images, validation, context)
        images = all_images(self._draw(state, train.classes, context, "draw_new_classes"), replay)
        residuals = reconstruction_residuals(state, train, context)
        alter = texture_of(residuals, scale_of(state, context.device))
        return fit_classifier(state, self.classifier, images, validation, context, alter=alter)

    def _draw(
        self, state: LearnerState, classes: Sequence[int], context: Context, stage: str
    ) -> LabelledImages:
        return draw_from_vae(state, classes, self.replay.images_per_class, context, stage)
