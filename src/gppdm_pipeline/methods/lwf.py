"""Learning without forgetting: the old classifier's outputs on new images are held.

Li & Hoiem 2017, arXiv 1606.09282. As published, new classes are learnt by a softmax of their own;
at test time all outputs compete.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gppdm_pipeline.algorithm.classifier.network import Loss, cross_entropy
from gppdm_pipeline.algorithm.classifier.regularisation import (
    Softmax,
    competing_outputs,
    with_distillation,
)
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.methods.finetune import Finetune


class Lwf(Finetune):
    """No replay; distillation from the classifier of the task before."""

    name: Literal["lwf"] = "lwf"  # type: ignore[assignment]
    weight: Annotated[float, Field(ge=0)] = 1.0
    """lambda_o, of the distillation."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    softmax: Softmax = "current"

    def _loss(self, before: LearnerState, state: LearnerState, context: Context) -> Loss:
        """Cross-entropy, and what the classifier before says of this task's images."""
        if before.classifier is None:
            return cross_entropy
        columns = competing_outputs(state, self.softmax, context.device)
        return with_distillation(before.classifier, self.weight, self.temperature, columns)
