"""Replay that is kept: images of a class, drawn once, right after the task in which it was real.

Otherwise each task's generator learns old classes from images of the generator before, which learnt
them from images of the one before that: copies of copies. What is kept are generated images, no
training images; they are part of the state, and counted in its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.images.labelled import LabelledImages

_NAME = "replay"


def keep_replay(
    state: LearnerState,
    drawn: LabelledImages,
    shares: Callable[[Sequence[int]], Mapping[int, int]] | None = None,
) -> LearnerState:
    """The state with `drawn` kept, instead of what it kept of these classes before.

    Args:
        state: may keep images already.
        drawn: of some classes.
        shares: how many images of each class there is room for, if room is short: of classes that
            have more, those drawn first are kept.
    """
    if _NAME in state.extras:
        kept = _images_of(state)
        others = kept.select(~np.isin(kept.labels, drawn.classes))
        drawn = LabelledImages.concatenate([others, drawn])
    if shares is not None:
        arrived = [label for label in state.classes if label in drawn.classes]
        room = shares(arrived)
        first = [np.flatnonzero(drawn.labels == label)[: room[label]] for label in drawn.classes]
        drawn = drawn.select(np.sort(np.concatenate(first)))
    tensors = {"images": torch.from_numpy(drawn.images), "labels": torch.from_numpy(drawn.labels)}
    return replace(state, extras={**state.extras, _NAME: Weights({}, tensors)})


def kept_replay(state: LearnerState, classes: Sequence[int]) -> LabelledImages:
    """What the state keeps of `classes` (one at least), class after class.

    Raises:
        ValueError: if it keeps nothing of one of them.
    """
    kept = _images_of(state) if _NAME in state.extras else None
    parts = [] if kept is None else [kept.of_classes([label]) for label in classes]
    lacking = [k for i, k in enumerate(classes) if not parts or not len(parts[i])]
    if lacking:
        raise ValueError(
            f"replay.keep is true, but the state keeps no replay of classes {lacking}: it was made "
            "with replay.keep: false; use that, or learn the tasks of these classes again"
        )
    return LabelledImages.concatenate(parts)


def _images_of(state: LearnerState) -> LabelledImages:
    tensors = state.extras[_NAME].tensors
    return LabelledImages(tensors["images"].numpy(), tensors["labels"].numpy())
