"""RanPAC: ridge regression on random features, from sums.

McDonnell et al. 2023 (arXiv 2307.02251), without their first session's adapters: phi(x) =
relu(P x) with a random P that never changes, W = (sum phi phi^T + lambda)^-1 sum phi y^T. It is
trained by nothing but sums, so that the last classifier is that of all images at once. Products are
summed in float32: their rounding is far below lambda, and a state is half as large.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from gppdm_pipeline.algorithm.classifier.moments import ridge, with_head, with_moments
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods.finetune import Finetune


class Ranpac(Finetune):
    """Sums over random features; the settings of `classifier` are not used."""

    name: Literal["ranpac"] = "ranpac"  # type: ignore[assignment]
    features: Annotated[int, Field(ge=1, le=20_000)] = 4000
    """Random features. A state keeps the square of this many numbers of four bytes."""
    strength: Annotated[float, Field(gt=0)] = 100.0
    """Lambda of the ridge; features are of about unit scale, and summed over images."""

    def summed_numbers(self, first: int) -> int:
        """The features."""
        return self.features

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
        layer = self._projection(math.prod(train.image_shape), context)
        state, moments = with_moments(
            state, train, context, lift=lambda x: (x @ layer.T).relu(), products=torch.float32
        )
        return with_head(state, ridge(moments, self.strength), validation, context, layer)

    def _projection(self, numbers: int, context: Context) -> Tensor:
        """P, float32 [features, numbers]: the same in every task."""
        generator = context.fixed_generator("ranpac")
        return torch.randn(self.features, numbers, generator=generator) / math.sqrt(numbers)
