"""SLDA: linear discriminant analysis with one covariance for all classes, from sums.

Hayes & Kanan 2020 (arXiv 1909.01520). Their covariance is updated image by image, so that it
depends on the order of the images; this one is that of all images, whatever their order.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gppdm_pipeline.algorithm.classifier.moments import (
    check_size,
    discriminant,
    with_head,
    with_moments,
)
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods.finetune import Finetune


class Slda(Finetune):
    """Sums of each class, and of all products; the settings of `classifier` are not used."""

    name: Literal["slda"] = "slda"  # type: ignore[assignment]
    shrinkage: Annotated[float, Field(gt=0, le=1)] = 1e-2
    """The share of the identity, times the mean variance, in the covariance that is inverted."""

    def check(self, image_shape: tuple[int, int, int], classes: int) -> None:
        """Refuse images whose covariance is too large."""
        check_size(self.name, image_shape)

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
        state, moments = with_moments(state, train, context)
        return with_head(state, discriminant(moments, self.shrinkage), validation, context)
