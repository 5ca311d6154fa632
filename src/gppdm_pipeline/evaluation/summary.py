"""A whole run in one record: what its report and its pictures are made from.

Everything goes through JSON unchanged; None stands where a measure is undefined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

from gppdm_pipeline.evaluation.accuracies import (
    Accuracies,
    accuracies,
    forward_transfer,
    learning_accuracy,
)
from gppdm_pipeline.evaluation.metrics import (
    TaskEvaluation,
    accuracy_matrix,
    per_class_accuracy,
)
from gppdm_pipeline.evaluation.replay_quality import ClassQuality, Quality, check_alike

Evaluation = Mapping[str, Any]
"""A `TaskEvaluation`, `correct_task_masked` of each class, and `calibration_error`."""


class Details(TypedDict):
    """Measures of a run besides those of `metrics.Summary`."""

    accuracies: Accuracies
    learning_accuracy: float
    forward_transfer: float | None
    calibration_error_after_task: list[float]
    per_class_accuracy_after_task: list[dict[str, float | None]]
    confusion: list[list[int]]
    confusion_classes: list[int]


class ReplayReport(TypedDict):
    """Replay of all tasks, and what real training images reach."""

    settings: dict[str, object]
    oracle_test_accuracy: float
    reference: dict[str, ClassQuality]
    after_task: list[dict[str, ClassQuality]]


def details(evaluations: Sequence[Evaluation]) -> Details:
    """What is reported of the evaluations after each task, besides their summary.

    Args:
        evaluations: after task 1, after task 2, ..., after task T.
    """
    of_tasks = cast(Sequence[TaskEvaluation], evaluations)
    last = evaluations[-1]
    return Details(
        accuracies=accuracies(of_tasks[-1], last["per_class_task_masked"]),
        learning_accuracy=learning_accuracy(accuracy_matrix(of_tasks)),
        forward_transfer=forward_transfer(of_tasks),
        calibration_error_after_task=[each["calibration_error"] for each in evaluations],
        per_class_accuracy_after_task=[per_class_accuracy(each) for each in of_tasks],
        confusion=last["confusion"],
        confusion_classes=last["classes"],
    )


def replay_report(reference: Mapping[str, Any], after_task: Sequence[Quality]) -> ReplayReport:
    """What is reported of the replay.

    Args:
        reference: the quality of real training images, with `oracle_test_accuracy`.
        after_task: the quality of replay after each task.

    Raises:
        ValueError: if they were not measured in one way.
    """
    check_alike([cast(Quality, reference), *after_task])
    return ReplayReport(
        settings=reference["settings"],
        oracle_test_accuracy=reference["oracle_test_accuracy"],
        reference=reference["classes"],
        after_task=[quality["classes"] for quality in after_task],
    )
