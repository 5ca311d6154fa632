"""Records of finished runs that are small enough to be committed, and tables of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
    "peak_memory_bytes",
    "state_bytes",
)
"""What a record takes over from a run's metrics.json as it is."""


def record_of(
    report: Mapping[str, Any], logs: Mapping[str, Mapping[str, Any]], made: Mapping[str, Any]
) -> dict[str, Any]:
    """A run's record.

    Args:
        report: the content of its metrics.json.
        logs: of its stages, by `<task>.<stage>`, with `metrics`.
        made: when, of which code and on which machine.

    Returns:
        The settings, the measures, `stages` (what the stages measured besides, by
        `<task>.<stage>`) and `made`; plain JSON values.
    """
    measures = {name: report[name] for name in MEASURES if name in report}
    stages = {name: log["metrics"] for name, log in logs.items() if log.get("metrics")}
    return {
        "configuration": report["configuration"],
        **measures,
        "stages": stages,
        "made": dict(made),
    }


def as_markdown(records: Mapping[str, Sequence[Record]], baseline: str) -> str:
    """A table of variants: mean and standard deviation over seeds.

    The last column is the paired difference of the average accuracy to the baseline's, over the
    seeds that both have, with its standard error.

    Args:
        records: of each variant, in any order of the seeds; none for one that was not run.
        baseline: the name of a variant.
    """
    columns: dict[str, Callable[[Record], float | None]] = {
        "average accuracy, %": lambda record: _percent(record["average_accuracy"]),
        "incremental, %": lambda record: _percent(record["average_incremental_accuracy"]),
        "forgetting, %": lambda record: _percent(record["forgetting"]),
        "drift of old keys, values": _drift,
        "seconds": lambda record: float(
            sum(sum(stages.values()) for stages in record["seconds"].values())
        ),
        "state, MB": lambda record: record["state_bytes"][-1] / 1e6,
    }
    columns = {
        name: of
        for name, of in columns.items()
        if any(of(record) is not None for found in records.values() for record in found)
    }
    lines = [
        _row(["variant", "seeds", *columns, f"to {baseline}"]),
        _row(["---"] + ["---:"] * (len(columns) + 2)),
    ]
    for variant, found in records.items():
        if not found:
            lines.append(_row([variant, "not run", *[""] * (len(columns) + 1)]))
            continue
        cells = [_spread([of(record) for record in found]) for of in columns.values()]
        seeds = ", ".join(str(seed) for seed in sorted(_by_seed(found)))
        difference = "" if variant == baseline else paired(found, records.get(baseline, []))
        lines.append(_row([variant, seeds, *cells, difference]))
    return "\n".join(lines) + "\n"


def paired(found: Sequence[Record], baseline: Sequence[Record]) -> str:
    """Mean difference of average accuracies over common seeds, in per cent, ± standard error."""
    ours, theirs = _by_seed(found), _by_seed(baseline)
    differences = [
        100 * (ours[seed]["average_accuracy"] - theirs[seed]["average_accuracy"])
        for seed in sorted(ours.keys() & theirs.keys())
    ]
    if not differences:
        return ""
    error = f" ± {stdev(differences) / math.sqrt(len(differences)):.1f}" if differences[1:] else ""
    return f"{fmean(differences):+.1f}{error}"


def _drift(record: Record) -> float | None:
    """The largest relative change of an old class's keys and values, of all layers and tasks."""
    drifts = [
        value
        for metrics in record["stages"].values()
        for name, value in metrics.items()
        if name.startswith(("key_drift/", "value_drift/"))
    ]
    return max(drifts, default=None)


def _by_seed(found: Sequence[Record]) -> dict[int, Record]:
    return {record["configuration"]["seed"]: record for record in found}


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean = _number(fmean(known))
    return f"{mean} ± {_number(stdev(known))}" if len(known) > 1 else mean


def _number(value: float) -> str:
    return f"{value:.1f}" if value == 0 or abs(value) >= 0.05 else f"{value:.0e}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
