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
    "cpu_seconds",
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
        "seconds": lambda record: None if on_gpu(record) else _total(record["seconds"]),
        "CPU seconds": lambda record: (
            _total(record["cpu_seconds"])
            if "cpu_seconds" in record and not on_gpu(record)
            else None
        ),
        "seconds, GPU": lambda record: _total(record["seconds"]) if on_gpu(record) else None,
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


def replay_as_markdown(records: Mapping[str, Sequence[Record]]) -> str:
    """A table of the first two classes' replay after every task: how it keeps.

    In a cell, the share that the oracle takes for its class in per cent, and the Frechet distance
    to real test images in the features of the first extractor asked for; means of both classes and
    of all seeds whose records have them.

    Args:
        records: of each variant.

    Returns:
        The table, or nothing where no record has the quality of replay.
    """
    rows = {
        variant: [_first_classes(record) for record in found if "replay_quality" in record]
        for variant, found in records.items()
    }
    tasks = max((len(cells) for found in rows.values() for cells in found), default=0)
    if not tasks:
        return ""
    lines = [
        _row(["replay of the first two classes after task", *map(str, range(1, tasks + 1))]),
        _row(["---"] + ["---:"] * tasks),
    ]
    for variant, found in rows.items():
        after = zip(*found, strict=True)
        cells = [
            f"{fmean(share for share, _ in seeds):.0f}, {fmean(d for _, d in seeds):.1f}"
            for seeds in after
        ]
        if cells:
            lines.append(_row([variant, *cells]))
    return "\n".join(lines) + "\n"


def first_labels(record: Record) -> list[str]:
    """The labels of the first two classes that were learnt."""
    after_task = record["replay_quality"]["after_task"]
    return list(dict.fromkeys(label for after in after_task for label in after))[:2]


def on_gpu(record: Record) -> bool:
    """Whether a GPU learnt it."""
    has_one = record["made"].get("gpu") is not None
    return has_one and record["configuration"].get("device") != "cpu"


def cost_of(record: Record) -> float:
    """Seconds of learning: of the processor if it learnt and they are known, else of the clock."""
    return _total(
        record["seconds"] if on_gpu(record) else record.get("cpu_seconds", record["seconds"])
    )


def _first_classes(record: Record) -> list[tuple[float, float]]:
    """The oracle's agreement in per cent and the Frechet distance, after each task."""
    quality = record["replay_quality"]
    extractor = quality["settings"]["extractors"][0]
    first = first_labels(record)
    return [
        (
            fmean(100 * after[label]["oracle_agreement"] for label in first if label in after),
            fmean(
                _known(after[label]["frechet_distance"][extractor])
                for label in first
                if label in after
            ),
        )
        for after in quality["after_task"]
    ]


def _known(value: float | None) -> float:
    """A distance may be undefined, for too few images; so is then a mean with it."""
    return math.nan if value is None else value


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


def _total(costs: Mapping[str, Mapping[str, float]]) -> float:
    """Of all stages of all tasks."""
    return float(sum(sum(stages.values()) for stages in costs.values()))


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
