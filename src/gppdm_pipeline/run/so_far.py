"""What is measured after a task, while a run goes on."""

from __future__ import annotations

from kedro.io import DataCatalog

from gppdm_pipeline.evaluation import metrics
from gppdm_pipeline.pipelines.continual.pipeline import task_name


def so_far(
    namespace: str, evaluation: metrics.TaskEvaluation, catalog: DataCatalog
) -> dict[str, float | None]:
    """The measures after this task; those over several tasks where the earlier ones are known."""
    earlier = [f"{task_name(n)}.evaluation" for n in range(1, number_of(namespace))]
    numbers: dict[str, float | None] = {
        f"accuracy/{task_name(n)}": accuracy
        for n, accuracy in enumerate(metrics.accuracy_matrix([evaluation])[0], start=1)
    }
    numbers |= {
        f"accuracy/class_{label}": accuracy
        for label, accuracy in metrics.per_class_accuracy(evaluation).items()
    }
    numbers["average_accuracy"] = metrics.average_accuracy([evaluation])[0]
    numbers["calibration_error"] = evaluation["calibration_error"]  # type: ignore[typeddict-item]
    if all(catalog.exists(name) for name in earlier):
        summary = metrics.summarise([*map(catalog.load, earlier), evaluation])
        for key in ("average_incremental_accuracy", "forgetting", "backward_transfer"):
            numbers[key] = summary[key]
        numbers["task_masked_accuracy"] = summary["task_masked_accuracy"]
    return numbers


def number_of(namespace: str) -> int:
    """The number of a task, from the namespace of its nodes."""
    return int(namespace.removeprefix("task_"))
