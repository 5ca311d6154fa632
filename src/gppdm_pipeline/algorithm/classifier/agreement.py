"""What the classifier makes of replay: how much of it is of its label's class.

In deep generative replay (Shin et al. 2017, arXiv 1705.08690) the classifier of the task before
labels what the generator draws. Here the label is known, and the classifier may object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.algorithm.classifier.network import PREDICTION_BATCH, predict_logits
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages

Draw = Callable[[Mapping[int, int], str], LabelledImages]
"""(how many of each class, stage) -> images, class after class."""

_TOGETHER = 16 * PREDICTION_BATCH  # images whose outputs, one for each class, are in memory


def agrees(state: LearnerState, images: LabelledImages, context: Context) -> NDArray[np.bool_]:
    """Where the state's classifier, which knows these classes, gives the label: bool [n]."""
    starts = range(0, len(images), _TOGETHER)
    parts = (images.images[start : start + _TOGETHER] for start in starts)
    predicted = [predict_logits(state, part, context).argmax(1) for part in parts]
    right: NDArray[np.bool_] = np.asarray(state.classes)[np.concatenate(predicted)] == images.labels
    return right


def agreement_by_class(
    state: LearnerState, images: LabelledImages, context: Context
) -> dict[int, float]:
    """Share of each class's images to which the state's classifier gives their label."""
    right = agrees(state, images, context)
    return {label: float(right[images.labels == label].mean()) for label in images.classes}


def agreed_replay(
    draw: Draw,
    state: LearnerState,
    counts: Mapping[int, int],
    rounds: int,
    stage: str,
    context: Context,
) -> tuple[LabelledImages, StageLog]:
    """Replay that the state's classifier agrees with, as far as some rounds of drawing give it.

    What a class lacks after a round is drawn again; what it lacks after the last is made up of
    images that were turned down, first drawn first.

    Args:
        draw: gives images.
        state: its classifier knows the classes.
        counts: how many images of each class, in the end; of one class at least.
        rounds: at least 1; with one, images are only judged.
        stage: names the random numbers of the first round, which are those without a filter.
        context: device.

    Returns:
        As many images as `counts` says, class after class, and the log:
        `replay_agreement/<class>`, the share agreed with in the first round, and
        `replay_turned_down`, how many images are there that were turned down.
    """
    drawn: list[LabelledImages] = []
    right: list[NDArray[np.bool_]] = []
    lacking = dict(counts)
    for number in range(1, rounds + 1):
        drawn.append(draw(lacking, stage if number == 1 else f"{stage}_{number}"))
        right.append(agrees(state, drawn[-1], context))
        agreed = np.concatenate([part.labels for part in drawn])[np.concatenate(right)]
        found = {label: int((agreed == label).sum()) for label in counts}
        lacking = {k: counts[k] - n for k, n in found.items() if n < counts[k]}
        if not lacking:
            break
    first = drawn[0].labels
    shares = {f"replay_agreement/{k}": float(right[0][first == k].mean()) for k in counts}
    images, good = LabelledImages.concatenate(drawn), np.concatenate(right)
    chosen = []
    for k, count in counts.items():  # those agreed with before the others, as they were drawn
        ours = [np.flatnonzero((images.labels == k) & mine) for mine in (good, ~good)]
        chosen.append(np.concatenate(ours)[:count])
    turned_down = {"replay_turned_down": float(sum(lacking.values()))}
    return images.select(np.concatenate(chosen)), StageLog({**shares, **turned_down})
