"""What the classifier makes of replay: how much of it is of its label's class.

In deep generative replay (Shin et al. 2017, arXiv 1705.08690) the classifier of the task before
labels what the generator draws. Here the label is known, and the classifier may object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.algorithm.classifier import predict_logits
from gppdm_pipeline.algorithm.device import Context
from gppdm_pipeline.algorithm.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images import LabelledImages

Draw = Callable[[Mapping[int, int], str], LabelledImages]
"""(how many of each class, stage) -> images, class after class."""


def agrees(state: LearnerState, images: LabelledImages, context: Context) -> NDArray[np.bool_]:
    """Where the state's classifier, which knows these classes, gives the label: bool [n]."""
    predicted = predict_logits(state, images.images, context).argmax(1)
    right: NDArray[np.bool_] = np.asarray(state.classes)[predicted] == images.labels
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
    shares: dict[str, float] = {}
    good: dict[int, list[LabelledImages]] = {label: [] for label in counts}
    bad: dict[int, list[LabelledImages]] = {label: [] for label in counts}
    lacking = dict(counts)
    for number in range(1, rounds + 1):
        drawn = draw(lacking, stage if number == 1 else f"{stage}_{number}")
        right = agrees(state, drawn, context)
        for label in lacking:
            ours = drawn.labels == label
            good[label].append(drawn.select(ours & right))
            bad[label].append(drawn.select(ours & ~right))
            if number == 1:
                shares[f"replay_agreement/{label}"] = float(right[ours].mean())
        found = {label: sum(map(len, parts)) for label, parts in good.items()}
        lacking = {k: counts[k] - n for k, n in found.items() if n < counts[k]}
        if not lacking:
            break
    first = [
        LabelledImages.concatenate(good[k] + bad[k]).select(np.arange(n)) for k, n in counts.items()
    ]
    turned_down = {"replay_turned_down": float(sum(lacking.values()))}
    return LabelledImages.concatenate(first), StageLog({**shares, **turned_down})
