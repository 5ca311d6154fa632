"""Nearest mean: an image is of the class whose mean is nearest. Nothing is trained.

Rebuffi et al. 2017 (arXiv 1611.07725) classify so on learnt features; here the features are those
of the space, which no task changes, so that no image has to be kept.
"""

from __future__ import annotations

from typing import Literal

from gppdm_pipeline.algorithm.classifier.moments import nearest_mean, with_head, with_moments
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods.finetune import Finetune


class NearestMean(Finetune):
    """Sums of each class; the settings of `classifier` are not used."""

    name: Literal["nearest_mean"] = "nearest_mean"  # type: ignore[assignment]

    def train_classifier(
        self,
        state: LearnerState,
        train: LabelledImages,
        validation: LabelledImages,
        replay: LabelledImages,
        context: Context,
    ) -> tuple[LearnerState, StageLog]:
        """Add this task's images to the sums."""
        state = state.begin(context.task, train.classes, train.image_shape)
        state, moments = with_moments(state, train, context, products=None)
        return with_head(state, nearest_mean(moments), validation, context)
