"""Joint training: every task trains on all images so far. The upper bound; it keeps them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods.finetune import Finetune


class Joint(Finetune):
    """The same classifier with the same budget, on the real images of every task so far."""

    reads_earlier_images: ClassVar[bool] = True

    name: Literal["joint"] = "joint"  # type: ignore[assignment]

    def synthesise_replay(
        self, state: LearnerState, context: Context, earlier: Sequence[LabelledImages] = ()
    ) -> tuple[LabelledImages, StageLog]:
        """The earlier images themselves.

        Raises:
            ValueError: if those of a task before this one are missing.
        """
        if len(earlier) != context.task - 1:
            raise ValueError(
                f"joint training of task {context.task} needs the training images of the "
                f"{context.task - 1} tasks before it, and was given those of {len(earlier)}"
            )
        if not earlier:
            return super().synthesise_replay(state, context)
        return LabelledImages.concatenate(list(earlier)), StageLog()
