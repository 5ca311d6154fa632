"""Exemplar replay: a buffer of real images stands in for the old classes.

Rebuffi et al. 2017 (iCaRL, arXiv 1611.07725) for the buffer, herding and, with `distillation`, the
outputs of the classifier before; the classifier is the same as everywhere here, without iCaRL's
nearest-mean rule. It keeps images, and a state's `kept` says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gppdm_pipeline.algorithm.classifier.exemplars import Choice, choose_exemplars
from gppdm_pipeline.algorithm.classifier.network import Loss, cross_entropy
from gppdm_pipeline.algorithm.classifier.regularisation import (
    competing_outputs,
    with_distillation,
)
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods.finetune import Finetune

TEMPERATURE = 2.0
"""Of the distillation, as in LwF."""


class Exemplar(Finetune):
    """The classifier on this task's images and the buffer."""

    keeps_images: ClassVar[bool] = True

    name: Literal["exemplar"] = "exemplar"  # type: ignore[assignment]
    images: Annotated[int, Field(ge=1)] = 20
    """The size of the buffer, for each class or for all (see `per`)."""
    per: Literal["class", "buffer"] = "class"
    """class: `images` of each class, so that the buffer grows. buffer: `images` in all, shared
    equally by the classes seen; old classes give up their least wanted ones."""
    choice: Choice = "herding"
    """herding: those whose mean feature is closest to the class's; or at random."""
    distillation: Annotated[float, Field(ge=0)] = 0.0
    """Weight, in the classifier's loss, of what the classifier before says of this task's images
    and of the buffer (as LwF; iCaRL has it on both, too)."""

    def check(self, image_shape: tuple[int, int, int], classes: int) -> None:
        """A buffer shared by all classes has room for each."""
        if not self.images_of_each(classes):
            raise ValueError(
                f"exemplar.images is {self.images} in all, which is less than one for each of "
                f"{classes} classes; set it to {classes} or more, or exemplar.per: class"
            )

    def synthesise_replay(
        self, state: LearnerState, context: Context, earlier: Sequence[LabelledImages] = ()
    ) -> tuple[LabelledImages, StageLog]:
        """The buffer."""
        if state.kept is None:
            return super().synthesise_replay(state, context)
        return state.kept, StageLog()

    def train_generator(
        self, state: LearnerState, train: LabelledImages, replay: LabelledImages, context: Context
    ) -> tuple[LearnerState, StageLog]:
        """No generator: the buffer takes in images of the new classes, and drops what is over."""
        state = state.begin(context.task, train.classes, train.image_shape)
        count = self.images_of_each(len(state.classes))
        old = state.classes_before(context.task)
        new = train.of_classes([label for label in train.classes if label not in old])
        parts = [part.first_of_each(count) for part in (state.kept,) if part is not None]
        if len(new):
            parts.append(choose_exemplars(state, new, count, self.choice, context))
        return replace(state, kept=LabelledImages.concatenate(parts)), StageLog()

    def _loss(self, before: LearnerState, state: LearnerState, context: Context) -> Loss:
        """Cross-entropy, and with `distillation` what the classifier before says."""
        if not self.distillation or before.classifier is None:
            return cross_entropy
        columns = competing_outputs(state, "all", context.device)
        return with_distillation(before.classifier, self.distillation, TEMPERATURE, columns)

    def images_of_each(self, classes: int) -> int:
        """How many images the buffer has for each of `classes` classes."""
        return self.images if self.per == "class" else self.images // classes
