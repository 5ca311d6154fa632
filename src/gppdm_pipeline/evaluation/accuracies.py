"""One state's accuracy, weighted in different ways, and what is learnt beside what is kept.

Which weighting and which mask decides whether numbers of two papers mean the same: they stand here
side by side. T tasks; a[t, i] is the accuracy on task i's test images after task t.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.evaluation.metrics import Matrix, TaskEvaluation


class Weighted(TypedDict):
    """Means over the test images of all classes so far, over classes, and over tasks.

    A task that brought no new class has no test images of its own, and is left out.
    """

    by_image: float
    by_class: float
    by_task: float


class Accuracies(TypedDict):
    """Among all classes seen, and with the logits masked to the image's own task."""

    unmasked: Weighted
    task_masked: Weighted


def correct_when_masked(
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    head_classes: tuple[int, ...],
    tasks: tuple[tuple[int, ...], ...],
) -> list[int]:
    """Of each class in head order, how many test images are right among the classes of its task.

    A class's task is the first that has brought it.

    Args:
        logits: float32 [n, k]; column j is class head_classes[j].
        labels: int64 [n].
        head_classes: k classes.
        tasks: the classes of each task so far.
    """
    owner: dict[int, int] = {}
    for task, classes in enumerate(tasks):
        for label in classes:
            owner.setdefault(label, task)
    column_owner = np.array([owner[label] for label in head_classes])
    image_owner = np.array([owner[int(label)] for label in labels])
    allowed = image_owner[:, np.newaxis] == column_owner
    predicted = np.asarray(head_classes)[np.where(allowed, logits, -np.inf).argmax(1)]
    return [int((predicted[labels == label] == label).sum()) for label in head_classes]


def accuracies(evaluation: TaskEvaluation, masked_correct: Sequence[int]) -> Accuracies:
    """All weightings of one state.

    Args:
        evaluation: of the state.
        masked_correct: what `correct_when_masked` says of it.
    """
    per_class, per_task = evaluation["per_class"], evaluation["per_task"]
    counts = [counted["count"] for counted in per_class]
    return Accuracies(
        unmasked=_weighted(
            [counted["correct"] for counted in per_class],
            counts,
            [task["correct"] / task["count"] for task in per_task if task["count"]],
        ),
        task_masked=_weighted(
            masked_correct,
            counts,
            [task["correct_task_masked"] / task["count"] for task in per_task if task["count"]],
        ),
    )


def learning_accuracy(matrix: Matrix) -> float:
    """The mean over i of a[i, i]: what a task's classes are at when they have just been learnt.

    Riemer et al. 2019 (arXiv 1810.11910). With forgetting, it tells a learner that loses from one
    that never learns.
    """
    diagonal = [value for i, row in enumerate(matrix) if (value := row[i]) is not None]
    return sum(diagonal) / len(diagonal)


def forward_transfer(evaluations: Sequence[TaskEvaluation]) -> float | None:
    """The mean over i > 1 of a[i - 1, i]: how much of a task is known before it is learnt.

    Lopez-Paz and Ranzato 2017 (arXiv 1706.08840), equation 4; the accuracy of an untrained model
    that it subtracts is 0 here, where a class gets its output when it first comes.

    Returns:
        None if no class of any task had come before: without an output for its classes, nothing can
        be right, and the 0 would say nothing about the learner.
    """
    shares = []
    returned = False
    for before, after in pairwise(evaluations):
        classes = after["tasks"][-1]
        known = dict(zip(before["classes"], before["per_class"], strict=True))
        counts = dict(zip(after["classes"], after["per_class"], strict=True))
        returned |= any(label in known for label in classes)
        right = sum(known[label]["correct"] for label in classes if label in known)
        shares.append(right / sum(counts[label]["count"] for label in classes))
    return sum(shares) / len(shares) if returned else None


def _weighted(correct: Sequence[int], counts: Sequence[int], by_task: Sequence[float]) -> Weighted:
    by_class = [right / count for right, count in zip(correct, counts, strict=True) if count]
    return Weighted(
        by_image=sum(correct) / sum(counts),
        by_class=sum(by_class) / len(by_class),
        by_task=sum(by_task) / len(by_task),
    )
