"""Finetuning: every task trains on its own images alone. The lower bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from gppdm_pipeline.algorithm.classifier.network import Loss, cross_entropy, fit_classifier
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods.base import Method, all_images


class Finetune(Method):
    """No replay and no generator; the classifier forgets what it is not shown."""

    name: Literal["finetune"] = "finetune"

    def synthesise_replay(
        self, state: LearnerState, context: Context, earlier: Sequence[LabelledImages] = ()
    ) -> tuple[LabelledImages, StageLog]:
        """No image."""
        return LabelledImages.empty(state.image_shape or (0, 0, 0)), StageLog()

    def train_generator(
        self, state: LearnerState, train: LabelledImages, replay: LabelledImages, context: Context
    ) -> tuple[LearnerState, StageLog]:
        """The state as it is."""
        return state, StageLog()

    def train_classifier(
        self,
        state: LearnerState,
        train: LabelledImages,
        validation: LabelledImages,
        replay: LabelledImages,
        context: Context,
    ) -> tuple[LearnerState, StageLog]:
        """Train on this task's images and the replay, if there is any."""
        before, state = state, state.begin(context.task, train.classes, train.image_shape)
        both, loss = all_images(train, replay), self._loss(before, state, context)
        return fit_classifier(state, self.classifier, both, validation, context, loss=loss)

    def _loss(self, before: LearnerState, state: LearnerState, context: Context) -> Loss:
        """What the classifier minimises, by the state before the task and with it begun."""
        return cross_entropy
