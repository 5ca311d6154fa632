"""Measures of a class-incremental learner.

Notation: T tasks; a[t, i] is the accuracy on task i's test images after task t, over all classes
seen, without a mask. A class that comes back belongs to the task that first brought it, and so do
its test images: every image counts once. A task that brings no new class has no test image, and
a[t, i] is undefined there.

Forgetting after Chaudhry et al. (2018, arXiv 1801.10112), backward transfer after Lopez-Paz and
Ranzato (2017, arXiv 1706.08840). Counts are kept as integers, and accuracies are derived from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.streams.repetition import first_seen

Matrix = list[list[float | None]]


class TaskCounts(TypedDict):
    """How one task's test images were classified."""

    count: int
    correct: int
    correct_task_masked: int


class ClassCounts(TypedDict):
    """How one class's test images were classified."""

    count: int
    correct: int


class TaskEvaluation(TypedDict):
    """One state on the test images of all tasks so far; goes through JSON unchanged.

    `classes` is the head order, which `per_class` and `confusion` (rows true, columns predicted)
    follow; `tasks` holds the classes of each task, which `per_task` follows.
    """

    classes: list[int]
    tasks: list[list[int]]
    per_task: list[TaskCounts]
    per_class: list[ClassCounts]
    confusion: list[list[int]]


class Summary(TypedDict):
    """A whole run; goes through JSON unchanged. None stands where a measure is undefined."""

    accuracy_matrix: Matrix
    average_accuracy: float
    average_accuracy_after_task: list[float]
    average_incremental_accuracy: float
    forgetting: float | None
    backward_transfer: float | None
    task_masked_accuracy: float
    task_masked_accuracy_matrix: Matrix
    per_class_accuracy: dict[str, float | None]


def evaluate_predictions(
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    head_classes: tuple[int, ...],
    tasks: tuple[tuple[int, ...], ...],
) -> TaskEvaluation:
    """Count what one state gets right on the test images of all tasks so far.

    The prediction is the class of the largest logit, the earlier in the head if several are equal;
    task-masked, of the largest among the classes of the image's own task.

    Args:
        logits: float32 [n, k], finite; column j is class head_classes[j].
        labels: int64 [n], each one of head_classes.
        head_classes: k classes.
        tasks: the classes of each task so far: together head_classes.

    Raises:
        ValueError: if an argument is not as above, or a task with new classes has no image.
    """
    _check_predictions(logits, labels, head_classes, tasks)
    column_of = {label: column for column, label in enumerate(head_classes)}
    task_of = {label: task for task, classes in enumerate(first_seen(tasks)) for label in classes}
    true = np.array([column_of[int(label)] for label in labels])
    owner = np.array([task_of[label] for label in head_classes])  # column -> its task
    task = owner[true]
    own_task = owner == task[:, np.newaxis]  # bool [n, k]
    correct = logits.argmax(axis=1) == true
    correct_masked = np.where(own_task, logits, -np.inf).argmax(axis=1) == true
    confusion = np.zeros((len(head_classes),) * 2, np.int64)
    np.add.at(confusion, (true, logits.argmax(axis=1)), 1)
    return TaskEvaluation(
        classes=list(head_classes),
        tasks=[list(classes) for classes in tasks],
        per_task=_by_task(len(tasks), task, correct, correct_masked),
        per_class=_by_class(confusion),
        confusion=confusion.tolist(),
    )


def _by_task(
    tasks: int, task: NDArray[np.int_], correct: NDArray[np.bool_], masked: NDArray[np.bool_]
) -> list[TaskCounts]:
    """Given each image's task, and whether it is classified rightly: at all, and task-masked."""
    return [
        TaskCounts(
            count=int((task == i).sum()),
            correct=int(correct[task == i].sum()),
            correct_task_masked=int(masked[task == i].sum()),
        )
        for i in range(tasks)
    ]


def _by_class(confusion: NDArray[np.int64]) -> list[ClassCounts]:
    return [
        ClassCounts(count=int(row.sum()), correct=int(row[column]))
        for column, row in enumerate(confusion)
    ]


def accuracy_matrix(
    evaluations: Sequence[TaskEvaluation],
    correct: Literal["correct", "correct_task_masked"] = "correct",
) -> Matrix:
    """a[t, i], [T, T] in 0..1: row t after task t, column i task i.

    None above the diagonal, and in the columns of tasks without new classes.
    """
    total = len(evaluations)
    return [
        [
            counts[correct] / counts["count"] if counts["count"] else None
            for counts in evaluation["per_task"]
        ]
        + [None] * (total - t)
        for t, evaluation in enumerate(evaluations, start=1)
    ]


def average_accuracy(evaluations: Sequence[TaskEvaluation]) -> list[float]:
    """A_t after each task: over all test images of all classes seen, each counted once."""
    return [
        sum(counts["correct"] for counts in evaluation["per_task"])
        / sum(counts["count"] for counts in evaluation["per_task"])
        for evaluation in evaluations
    ]


def average_incremental_accuracy(evaluations: Sequence[TaskEvaluation]) -> float:
    """The mean over t of A_t."""
    return _mean(average_accuracy(evaluations))


def forgetting(matrix: Matrix) -> float | None:
    """The mean over i < T of (max over t < T of a[t, i]) - a[T, i]; None if there is no such i.

    Tasks i without new classes are left out.
    """
    return _mean_of([max(column[:-1]) - column[-1] for column in _earlier_tasks(matrix)])


def backward_transfer(matrix: Matrix) -> float | None:
    """The mean over i < T of a[T, i] - a[i, i]; None if there is no such i."""
    return _mean_of([column[-1] - column[0] for column in _earlier_tasks(matrix)])


def task_masked_accuracy(evaluations: Sequence[TaskEvaluation]) -> float:
    """The mean over tasks, unweighted, of the task-masked accuracy after the last one.

    It takes each test image's task for known, and so is no class-incremental accuracy: it is there
    to be set beside published numbers that were measured in this way.
    """
    last = accuracy_matrix(evaluations, "correct_task_masked")[-1]
    return _mean([accuracy for accuracy in last if accuracy is not None])


def per_class_accuracy(evaluation: TaskEvaluation) -> dict[str, float | None]:
    """Accuracy by class (written in decimal, as JSON has it), head order; None without images."""
    return {
        str(label): counts["correct"] / counts["count"] if counts["count"] else None
        for label, counts in zip(evaluation["classes"], evaluation["per_class"], strict=True)
    }


def summarise(evaluations: Sequence[TaskEvaluation]) -> Summary:
    """All measures of a run.

    Args:
        evaluations: after task 1, after task 2, ..., after task T.

    Raises:
        ValueError: if the evaluations are not of one stream, measured after each task in turn on
            the same test images.
    """
    _check_evaluations(evaluations)
    matrix = accuracy_matrix(evaluations)
    after_task = average_accuracy(evaluations)
    return Summary(
        accuracy_matrix=matrix,
        average_accuracy=after_task[-1],
        average_accuracy_after_task=after_task,
        average_incremental_accuracy=average_incremental_accuracy(evaluations),
        forgetting=forgetting(matrix),
        backward_transfer=backward_transfer(matrix),
        task_masked_accuracy=task_masked_accuracy(evaluations),
        task_masked_accuracy_matrix=accuracy_matrix(evaluations, "correct_task_masked"),
        per_class_accuracy=per_class_accuracy(evaluations[-1]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_of(values: Sequence[float]) -> float | None:
    return _mean(values) if values else None


def _earlier_tasks(matrix: Matrix) -> list[list[float]]:
    """a[i, i] to a[T, i] of every task i < T with new classes."""
    columns = [[row[i] for row in matrix[i:]] for i in range(len(matrix) - 1)]
    return [[a for a in column if a is not None] for column in columns if column[-1] is not None]


def _check_predictions(
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    head_classes: tuple[int, ...],
    tasks: tuple[tuple[int, ...], ...],
) -> None:
    if logits.shape != (len(labels), len(head_classes)):
        raise ValueError(
            f"logits are {list(logits.shape)}, expected [{len(labels)} labels, "
            f"{len(head_classes)} classes of the head]"
        )
    if not np.isfinite(logits).all():
        raise ValueError("logits hold NaN or infinity: the classifier's training diverged")
    if sorted({label for classes in tasks for label in classes}) != sorted(head_classes):
        raise ValueError(
            f"the tasks {tasks} do not have the head's classes {head_classes}: each class must be "
            "in a task"
        )
    if unknown := sorted(set(labels.tolist()) - set(head_classes)):
        raise ValueError(f"labels {unknown} are not among the head's classes {head_classes}")
    for task, classes in enumerate(first_seen(tasks), start=1):
        if classes and not np.isin(labels, classes).any():
            raise ValueError(f"task {task} (classes {classes}) has no test image")


def _check_evaluations(evaluations: Sequence[TaskEvaluation]) -> None:
    if not evaluations:
        raise ValueError("no evaluation: a run has one after each task")
    last = evaluations[-1]
    counts = [task["count"] for task in last["per_task"]]
    for t, evaluation in enumerate(evaluations, start=1):
        if evaluation["tasks"] != last["tasks"][:t] or len(evaluation["tasks"]) != t:
            raise ValueError(
                f"evaluation {t} covers the tasks {evaluation['tasks']}, expected the first {t} of "
                f"{last['tasks']}"
            )
        if [task["count"] for task in evaluation["per_task"]] != counts[:t]:
            raise ValueError(f"evaluation {t} was not measured on the test images of the last")
