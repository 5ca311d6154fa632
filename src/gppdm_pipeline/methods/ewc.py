"""Elastic weight consolidation, online: weights that mattered to old classes are held.

Kirkpatrick et al. 2017, arXiv 1612.00796; online (one running importance, anchored at the latest
weights) after Schwarz et al. 2018, arXiv 1805.06370, section 4. Departure: by default the classes
of a task compete among themselves only (`softmax`), as in LwF, so that more of the old classes is
kept; the Fisher information is that of all outputs all the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from gppdm_pipeline.algorithm.classifier.network import Loss, cross_entropy
from gppdm_pipeline.algorithm.classifier.regularisation import (
    Softmax,
    competing_outputs,
    cross_entropy_among,
    fisher_diagonal,
    quadratic_penalty,
)
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods.finetune import Finetune


class Ewc(Finetune):
    """No replay; a quadratic penalty on the classifier's weights."""

    name: Literal["ewc"] = "ewc"  # type: ignore[assignment]
    weight: Annotated[float, Field(ge=0)] = 1000.0
    """lambda, of the penalty."""
    decay: Annotated[float, Field(ge=0, le=1)] = 1.0
    """gamma, by which the importance for earlier tasks fades with every task."""
    importance_images: Annotated[int, Field(ge=1)] = 500
    """Images of the task that the importance is measured on."""
    softmax: Softmax = "current"

    def train_classifier(
        self,
        state: LearnerState,
        train: LabelledImages,
        validation: LabelledImages,
        replay: LabelledImages,
        context: Context,
    ) -> tuple[LearnerState, StageLog]:
        """Train on this task's images under the penalty; then add their importance."""
        before = state
        state, log = super().train_classifier(state, train, validation, replay, context)
        assert state.classifier is not None
        fisher = fisher_diagonal(state.classifier, train, self.importance_images, context)
        old = before.extras["importance"].tensors if "importance" in before.extras else {}
        for name, tensor in old.items():
            fisher[name][: len(tensor)] += self.decay * tensor
        return replace(state, extras={**state.extras, "importance": Weights({}, fisher)}), log

    def _loss(self, before: LearnerState, state: LearnerState, context: Context) -> Loss:
        """L_new + lambda F (theta - theta*)^2 / 2; before the first task L_new alone."""
        if before.classifier is None:
            return cross_entropy
        anchor, importance = (
            {name: tensor.to(context.device) for name, tensor in weights.tensors.items()}
            for weights in (before.classifier, before.extras["importance"])
        )
        columns = competing_outputs(state, self.softmax, context.device)

        def loss(network: nn.Module, x: Tensor, outputs: Tensor) -> Tensor:
            learnt = cross_entropy_among(network(x), outputs, columns)
            return learnt + self.weight * quadratic_penalty(network, anchor, importance)

        return loss
