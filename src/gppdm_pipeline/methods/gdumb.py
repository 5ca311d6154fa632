"""GDumb: a classifier trained anew on the buffer of real images alone, after every task.

Prabhu et al. 2020, "GDumb: A Simple Approach that Questions Our Progress in Continual Learning",
ECCV 2020: a buffer that is balanced over the classes seen, filled without looking at what it is
good for, and a network from random weights. A method with a buffer of the same size that does not
beat it makes no use of what it learnt before. Departure: as many steps as every other method here,
without CutMix.
"""

from __future__ import annotations

from typing import Literal

from gppdm_pipeline.algorithm.classifier.network import fit_classifier
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods.exemplar import Exemplar


class Gdumb(Exemplar):
    """The classifier on the buffer, which has taken in this task's images."""

    name: Literal["gdumb"] = "gdumb"  # type: ignore[assignment]
    choice: Literal["random"] = "random"
    distillation: Literal[0] = 0

    @property
    def generator_first(self) -> bool:
        """The buffer comes before the classifier."""
        return True

    def train_classifier(
        self,
        state: LearnerState,
        train: LabelledImages,
        validation: LabelledImages,
        replay: LabelledImages,
        context: Context,
    ) -> tuple[LearnerState, StageLog]:
        """From random weights, on the buffer."""
        state = state.begin(context.task, train.classes, train.image_shape)
        assert state.kept is not None
        anew = self.classifier.model_copy(update={"start": "anew"})
        return fit_classifier(state, anew, state.kept, validation, context)
