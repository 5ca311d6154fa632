"""Records of finished runs that are small enough to be committed, and what is read of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

Record = Mapping[str, Any]

MEASURES = (
    "accuracy_matrix",
    "average_accuracy",
    "average_accuracy_after_task",
    "average_incremental_accuracy",
    "forgetting",
    "backward_transfer",
    "task_masked_accuracy",
    "per_class_accuracy",
    "replay_quality",
    "seconds",
    "cpu_seconds",
    "peak_memory_bytes",
    "state_bytes",
)
"""What a record takes over from a run's metrics.json as it is."""


def record_of(
    report: Mapping[str, Any],
    logs: Mapping[str, Mapping[str, Any]],
    made: Mapping[str, Any],
    project: Path,
) -> dict[str, Any]:
    """A run's record.

    Args:
        report: the content of its metrics.json.
        logs: of its stages, by `<task>.<stage>`, with `metrics`.
        made: when, of which code and on which machine.
        project: its folder; paths in there are told from it on.

    Returns:
        The settings, the measures, `stages` (what the stages measured besides, by
        `<task>.<stage>`) and `made`; plain JSON values.
    """
    measures = {name: report[name] for name in MEASURES if name in report}
    stages = {name: log["metrics"] for name, log in logs.items() if log.get("metrics")}
    return {
        "configuration": _told_from(project, report["configuration"]),
        **measures,
        "stages": stages,
        "made": dict(made),
    }


def _told_from(project: Path, value: Any) -> Any:
    """JSON values, with paths within the project told from there on."""
    if isinstance(value, Mapping):
        return {key: _told_from(project, each) for key, each in value.items()}
    if isinstance(value, list):
        return [_told_from(project, each) for each in value]
    return value.removeprefix(f"{project}/") if isinstance(value, str) else value


def first_labels(record: Record) -> list[str]:
    """The labels of the first two classes that were learnt."""
    after_task = record["replay_quality"]["after_task"]
    return list(dict.fromkeys(label for after in after_task for label in after))[:2]


def on_gpu(record: Record) -> bool:
    """Whether the run was trained on a GPU."""
    has_one = record["made"].get("gpu") is not None
    return has_one and record["configuration"].get("device") != "cpu"


def cost_of(record: Record) -> float:
    """Seconds of a run: of the CPU if it was trained on one and they are known, or the clock's."""
    return _total(
        record["seconds"] if on_gpu(record) else record.get("cpu_seconds", record["seconds"])
    )


def distance_slope(record: Record) -> float:
    """How much farther from real test images replay of a class is with each task behind its own.

    The slope of the least-squares lines through the Frechet distances of the classes after each
    task (in the features of the first extractor asked for): one for all classes, each of which has
    a level of its own. In each task the generator learns from what that of the task before has
    drawn, so that a task is a generation.

    Args:
        record: with `replay_quality`.

    Returns:
        NaN if a distance is undefined, or no class was measured twice.
    """
    quality = record["replay_quality"]
    extractor = quality["settings"]["extractors"][0]
    distances: dict[str, list[float]] = {}
    for after in quality["after_task"]:
        for label, measured in after.items():
            known = known_distance(measured["frechet_distance"][extractor])
            distances.setdefault(label, []).append(known)
    together = squares = 0.0
    for found in distances.values():
        middle = (len(found) - 1) / 2
        together += sum((n - middle) * distance for n, distance in enumerate(found))
        squares += sum((n - middle) ** 2 for n in range(len(found)))
    return together / squares if squares else math.nan


def known_distance(value: float | None) -> float:
    """NaN for a distance that is undefined, for lack of images; so is a mean with it."""
    return math.nan if value is None else value


def paired(found: Sequence[Record], baseline: Sequence[Record]) -> str:
    """The difference of average accuracies in percentage points, over common seeds.

    Returns:
        Its mean, the half width of its 95 % interval (Student's t on the differences of equal
        seeds; none for one seed), and the number n of seeds; nothing without a common seed.
    """
    ours, theirs = by_seed(found), by_seed(baseline)
    differences = [
        100 * (ours[seed]["average_accuracy"] - theirs[seed]["average_accuracy"])
        for seed in sorted(ours.keys() & theirs.keys())
    ]
    n = len(differences)
    if n == 0:
        return ""
    half = f" ± {_quantile(n) * stdev(differences) / math.sqrt(n):.1f}" if n > 1 else ""
    return f"{fmean(differences):+.1f}{half} (n = {n})"


def _quantile(n: int) -> float:
    """Student's t with n - 1 degrees of freedom is below it with a probability of 97.5 %."""
    from scipy.stats import t  # type: ignore[import-untyped]  # noqa: PLC0415 (slow)

    return float(t.ppf(0.975, n - 1))


def by_seed(found: Sequence[Record]) -> dict[int, Record]:
    """The last of each seed."""
    return {record["configuration"]["seed"]: record for record in found}


def _total(costs: Mapping[str, Mapping[str, float]]) -> float:
    """Of all stages of all tasks."""
    return float(sum(sum(stages.values()) for stages in costs.values()))
