"""GPPDM: class-prototype conditional diffusion with gradient projection.

Doan et al. 2024, arXiv 2312.06710. Where this departs from the paper: by default the generator is
trained before the classifier, which then sees images of one origin only (see `order`); a prototype
starts from the mean of its class, so that no state contains a training image; and the targets for
replayed images are the predictions of the denoiser before (see `generator/objective.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor

from gppdm_pipeline.algorithm.classifier.analytic import (
    NUMBERS,
    AnalyticConfig,
    check_maps,
    with_analytic,
)
from gppdm_pipeline.algorithm.classifier.network import Loss, cross_entropy, fit_classifier
from gppdm_pipeline.algorithm.classifier.networks import trained_part
from gppdm_pipeline.algorithm.classifier.regularisation import with_soft_labels
from gppdm_pipeline.algorithm.classifier.texture import texture_of
from gppdm_pipeline.algorithm.condition.labels import ConditionConfig
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.adapters import AdapterConfig
from gppdm_pipeline.algorithm.diffusion.network import DenoiserConfig
from gppdm_pipeline.algorithm.diffusion.projection import ProjectionConfig
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.fitting.private import PrivateConfig
from gppdm_pipeline.algorithm.fitting.scale import scale_of, with_scale
from gppdm_pipeline.algorithm.generator.bases import extend_bases
from gppdm_pipeline.algorithm.generator.draw import replay_of
from gppdm_pipeline.algorithm.generator.exact import exact_replay
from gppdm_pipeline.algorithm.generator.gaussians import with_gaussians
from gppdm_pipeline.algorithm.generator.guarantee import (
    check_pixels,
    check_private,
    with_guarantee,
)
from gppdm_pipeline.algorithm.generator.learn import train_adapter, train_denoiser
from gppdm_pipeline.algorithm.generator.losses import denoising_losses
from gppdm_pipeline.algorithm.generator.parts import (
    Memory,
    ReplayConfig,
    add_classes,
    check_guidance,
    check_images,
    warn_if_tokens_fill,
)
from gppdm_pipeline.algorithm.generator.prototypes import PrototypeConfig
from gppdm_pipeline.algorithm.generator.redraw import redrawn
from gppdm_pipeline.algorithm.generator.residuals import denoising_residuals
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods.base import Method, all_images

TEMPERATURE = 2.0
"""Of soft labels."""


class Gppdm(Method):
    """Diffusion replay with learnable class prototypes and projected cross-attention."""

    shares_generator: ClassVar[bool] = True

    name: Literal["gppdm"] = "gppdm"
    order: Literal["generator_first", "classifier_first"] = "generator_first"
    """generator_first: the classifier learns from generated images alone, the replay of old classes
    and images of the new ones from the new generator, so that it cannot tell old from new by
    replayed from real. classifier_first, as published: from the replay and this task's real images.
    """
    memory: Memory = "shared"
    """shared, as published: every task trains the one denoiser, on replay of old classes too.
    adapters: the denoiser stays as the first task left it, each later task learns an adapter for
    its own classes from its own images, and what is drawn of old classes never changes."""
    texture: bool = False
    """Whether the classifier sees generated images with what the denoiser leaves out of this task's
    real ones, so that it knows the texture of real images (see `classifier/texture.py`)."""
    soft_labels: Annotated[float, Field(ge=0)] = 0.0
    """Weight, in the classifier's loss, of what the classifier before says of replayed images (van
    de Ven & Tolias 2018, arXiv 1809.10635)."""
    redraw: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """What the classifier sees of new classes: this task's real images, noised until this share of
    signal (abar) is left and drawn anew from there (SDEdit, Meng et al. 2021, arXiv 2108.01073).
    They look as replay does and vary as real images do. 0: images drawn from noise alone."""
    redraw_images: Annotated[int, Field(ge=1)] = 400
    """How many of each class are drawn anew at most, each from another real image."""
    analytic: AnalyticConfig = AnalyticConfig()
    """What sums over all images ever learnt say beside the classifier."""
    condition: ConditionConfig = ConditionConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    adapters: AdapterConfig = AdapterConfig()
    prototypes: PrototypeConfig = PrototypeConfig()
    projection: ProjectionConfig = ProjectionConfig()
    replay: ReplayConfig = ReplayConfig()
    private: PrivateConfig = PrivateConfig()

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

    @property
    def draws_once(self) -> bool:
        """With adapters, whose replay is exact."""
        return self.memory == "adapters"

    def summed_numbers(self, first: int) -> int:
        """Of sums beside the classifier."""
        return NUMBERS * self.analytic.count(first)

    @property
    def measures_keys_and_values(self) -> bool:
        """With prototypes, where all tasks train one network; adapters leave old ones alone."""
        return self.has_prototypes and self.memory == "shared"

    @property
    def classifies_what_is_drawn(self) -> bool:
        """With texture, which is what the denoiser leaves out."""
        return self.texture

    def check(self, image_shape: tuple[int, int, int], classes: int) -> None:
        """Refuse images that the generator cannot draw."""
        check_images(self, image_shape, classes)
        if self.analytic.on:
            check_maps(f"analytic.filters = {self.analytic.filters}", image_shape)
        if self.memory == "shared":
            warn_if_tokens_fill(self, classes)

    def check_encoded(self) -> None:
        """Refuse private training."""
        check_pixels(self.private)

    def replaying(self, images_per_class: int) -> Method:
        """As base; with adapters this method itself, whose images are drawn once in any case."""
        return self if self.memory == "adapters" else super().replaying(images_per_class)

    def with_class_names(self, names: Sequence[str], instead_of: Sequence[str] = ()) -> Self:
        """As base; kept where labels are made from names, and the user gave none."""
        condition = self.condition
        if condition.embeddings == "orthonormal":
            return self
        if condition.class_names and condition.class_names != tuple(instead_of):
            return self
        condition = condition.model_copy(update={"class_names": tuple(names)})
        return self.model_copy(update={"condition": condition})

    def draw(
        self, state: LearnerState, classes: Sequence[int], per_class: int, context: Context
    ) -> LabelledImages:
        """From noise, as replay is."""
        most = max(per_class, self.replay.images_per_class)
        enough = self.replay.model_copy(update={"images_per_class": most})
        method = self.model_copy(update={"replay": enough})
        return method._draw(state, dict.fromkeys(classes, per_class), context, "draw")

    def draw_like(
        self,
        state: LearnerState,
        images: LabelledImages,
        signal: float,
        context: Context,
    ) -> LabelledImages:
        """By SDEdit, as `redraw` does."""
        most = len(images)
        return redrawn(state, images, self, context, "draw_like", per_class=most, signal=signal)

    def generator_losses(
        self, state: LearnerState, images: LabelledImages, context: Context
    ) -> Tensor:
        """The denoiser's, at several levels of noise."""
        return denoising_losses(state, images, self, context)

    def synthesise_replay(
        self, state: LearnerState, context: Context, earlier: Sequence[LabelledImages] = ()
    ) -> tuple[LabelledImages, StageLog]:
        """Images of every old class from the generator of the task before."""
        old = state.classes_before(context.task)
        if not old:
            return LabelledImages.empty(state.image_shape or (0, 0, 0)), StageLog()
        return self._draw(state, self.replay.shares(old), context, "synthesise_replay"), StageLog()

    def train_generator(
        self, state: LearnerState, train: LabelledImages, replay: LabelledImages, context: Context
    ) -> tuple[LearnerState, StageLog]:
        """Denoiser and new prototypes on this task's images and the replay; then the bases.

        With `memory: adapters`, from the second task on, an adapter in place of the denoiser.
        """
        if train.images.dtype != np.uint8:
            check_pixels(self.private)
        state = state.begin(context.task, train.classes, train.image_shape)
        state = with_scale(state, train)
        state = add_classes(state, train, self, context)
        if self.replay.gaussians:
            state = with_gaussians(state, train, replay, context)
        if self.memory == "adapters" and state.denoiser is not None:
            state, log = train_adapter(state, train, replay, self, context)
        else:
            state, log = train_denoiser(state, train, replay, self, context)
            state, ranks = extend_bases(state, self, context)
            log = StageLog({**log.metrics, **ranks.metrics}, log.curves)
        return with_guarantee(state, log, self.private) if self.private.on else (state, log)

    def train_classifier(
        self,
        state: LearnerState,
        train: LabelledImages,
        validation: LabelledImages,
        replay: LabelledImages,
        context: Context,
    ) -> tuple[LearnerState, StageLog]:
        """On the replay, and on images of this task's classes: generated or real (`order`)."""
        before = state.classifier and trained_part(state.classifier)
        state = state.begin(context.task, train.classes, train.image_shape)
        if not self.generator_first:
            images = all_images(train, replay)
        else:  # a class that comes back, too, from the generator that has just seen it again
            drawn = self._of_this_task(state, train, context)
            images = all_images(drawn, replay.of_classes(set(replay.classes) - {*train.classes}))
        loss: Loss = cross_entropy
        alter = None
        if self.soft_labels and before is not None:
            loss = with_soft_labels(before, self.soft_labels, TEMPERATURE, context.device)
        if self.texture:
            residuals = denoising_residuals(state, train, self, context)
            alter = texture_of(residuals, scale_of(state, context.device))
        state, log = fit_classifier(
            state, self.classifier, images, validation, context, loss=loss, alter=alter
        )
        if not self.analytic.on:
            return state, log
        state, both = with_analytic(state, train, validation, self.analytic, context)
        return state, StageLog({**log.metrics, **both.metrics}, log.curves)

    def _of_this_task(
        self, state: LearnerState, train: LabelledImages, context: Context
    ) -> LabelledImages:
        """From the new generator, as it is: no classifier knows new classes yet."""
        stage = "draw_new_classes"
        if not self.redraw:
            counts = dict.fromkeys(train.classes, self.replay.images_per_class)
            return self._draw(state, counts, context, stage)
        most, signal = self.redraw_images, self.redraw
        return redrawn(state, train, self, context, stage, per_class=most, signal=signal)

    def _draw(
        self, state: LearnerState, counts: Mapping[int, int], context: Context, stage: str
    ) -> LabelledImages:
        if self.memory == "adapters":
            return exact_replay(state, counts, self, context, stage)
        return replay_of(state, tuple(counts), tuple(counts.values()), self, context, stage)

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        off = {"private": not self.private.on, "analytic": not self.analytic.on}
        return {name: value for name, value in values.items() if not off.get(name)}

    @model_validator(mode="after")
    def _of_images_that_may_be_used(self) -> Gppdm:
        check_private(self)
        check_guidance(self)
        for name, off in (("texture", "false"), ("redraw", "0")):
            if getattr(self, name) and not self.generator_first:
                raise ValueError(
                    f"{name} is set, but order is 'classifier_first', where the classifier sees "
                    f"real images; use order: generator_first, or {name}: {off}"
                )
        return self

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
