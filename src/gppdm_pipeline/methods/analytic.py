"""Analytic learning: ridge regression on maps of random filters, from sums.

Zhuang et al. 2022 (ACIL, arXiv 2205.14922), with filters of noise where they have those of a first
task, and without a random layer on top of them. As in ranpac, the last classifier is that of all
images at once.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gppdm_pipeline.algorithm.classifier.analytic import (
    NUMBERS,
    check_maps,
    computed,
)
from gppdm_pipeline.algorithm.classifier.moments import with_accuracy
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods.finetune import Finetune


class Analytic(Finetune):
    """Sums over random maps; the settings of `classifier` are not used."""

    name: Literal["analytic"] = "analytic"  # type: ignore[assignment]
    filters: Annotated[int, Field(ge=1, le=250)] = 60
    """f, which make 32 f numbers of an image. A state keeps the square of as many numbers of four
    bytes (60: 15 MB), and what a task computes of them takes f^3 (60: one second, 250: one or two
    minutes)."""

    def summed_numbers(self, first: int) -> int:
        """Of the maps."""
        return NUMBERS * self.filters

    def check(self, image_shape: tuple[int, int, int], classes: int) -> None:
        """Refuse vectors."""
        check_maps("filters", image_shape)

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
        state, classifier = computed(state, train, self.filters, context)
        return with_accuracy(state, classifier, validation, context)
