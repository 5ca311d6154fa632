"""Finished runs side by side: which of them may be averaged, and what comes out.

A report is the content of a run's metrics.json. Runs are comparable if they learnt the same stream
with the same classifier and budget; they are averaged over seeds if nothing else differs.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from gppdm_pipeline.configuration.layers import flatten

Report = Mapping[str, Any]

SHARED = ("benchmark", "stream", "space", "classifier")
"""Settings that comparable runs have in common."""
_NOT_SETTINGS = ("seed", "device", "variant")
_COLUMNS = {
    "average_accuracy": "average accuracy, %",
    "average_incremental_accuracy": "average incremental accuracy, %",
    "forgetting": "forgetting, %",
    "task_masked_accuracy": "task-masked accuracy, %",
    "seconds": "seconds",
    "state_bytes": "state, MB",
}
_SCALES = {"seconds": 1.0, "state_bytes": 1e-6}  # the others are shares, shown in per cent


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds only.

    Attributes:
        name: the method, with its variant, and with what else tells it from others of that name.
        reports: one per seed, ascending.
    """

    name: str
    reports: tuple[Report, ...]

    @property
    def seeds(self) -> list[int]:
        """Ascending."""
        return [report["configuration"]["seed"] for report in self.reports]

    def values(self, measure: str) -> list[float]:
        """Of a column of the table, by seed; empty where it is undefined."""
        found = [_measure(report, measure) for report in self.reports]
        return [value for value in found if value is not None]


@dataclass(frozen=True)
class Refusal:
    """A run that is not comparable with the others, and what differs: (setting, its, theirs)."""

    run: str
    differences: tuple[tuple[str, Any, Any], ...]


@dataclass(frozen=True)
class Comparison:
    """What can be compared, best average accuracy first, and what cannot."""

    groups: tuple[Group, ...]
    refusals: tuple[Refusal, ...]


def compare(reports: Iterable[Report]) -> Comparison:
    """Sort out finished runs of one benchmark.

    Of several runs with the same settings and seed the first counts. The largest set of comparable
    runs is compared (of equally large ones, that of the first run); all others are refused.

    Args:
        reports: at least one.
    """
    runs: dict[str, Report] = {}
    for report in reports:
        runs.setdefault(_key(report, ("device",)), report)
    sets: dict[str, list[Report]] = {}
    for report in runs.values():
        sets.setdefault(_canonical({key: _of(report, key) for key in SHARED}), []).append(report)
    chosen = max(sets.values(), key=len)  # the first of the largest
    refusals = [
        Refusal(run_name(report), tuple(_differences(report, chosen[0])))
        for others in sets.values()
        for report in others
        if others is not chosen
    ]
    groups = _groups(chosen)
    ranked = sorted(groups, key=lambda group: -fmean(group.values("average_accuracy")))
    return Comparison(tuple(ranked), tuple(sorted(refusals, key=lambda refusal: refusal.run)))


def table(comparison: Comparison) -> list[dict[str, Any]]:
    """A row per group: method, seeds, and mean and spread of each measure, in its column's unit.

    The spread is the standard deviation over seeds (n - 1); None for a single seed.
    """
    rows = []
    for group in comparison.groups:
        row: dict[str, Any] = {"method": group.name, "seeds": len(group.seeds)}
        for measure in _COLUMNS:
            values = [value * _SCALES.get(measure, 100.0) for value in group.values(measure)]
            row[measure] = fmean(values) if values else None
            row[f"{measure}_spread"] = stdev(values) if len(values) > 1 else None
        rows.append(row)
    return rows


def as_csv(comparison: Comparison) -> str:
    """The table as comma-separated values, a header first."""
    rows = table(comparison)
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def as_cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """The table as text to be read: its header, and its rows."""
    rows = []
    for group, row in zip(comparison.groups, table(comparison), strict=True):
        seeds = f"{row['seeds']} ({', '.join(map(str, group.seeds))})"
        cells = [_cell(row[measure], row[f"{measure}_spread"]) for measure in _COLUMNS]
        rows.append([group.name, seeds, *cells])
    return ["method", "seeds", *_COLUMNS.values()], rows


def as_markdown(comparison: Comparison) -> str:
    """The table, what the runs have in common, and the refused runs with their reasons."""
    shared = comparison.groups[0].reports[0]["configuration"]
    lines = [f"# {shared['benchmark']}", "", "Mean ± standard deviation over seeds.", ""]
    head, rows = as_cells(comparison)
    lines += _row(head)
    lines += _row(["---", *["---:"] * (len(_COLUMNS) + 1)])
    for cells in rows:
        lines += _row(cells)
    if comparison.refusals:
        lines += ["", "## Not comparable", ""]
        lines += _row(["run", "differs in", "its value", "theirs"]) + _row(["---"] * 4)
        for refusal in comparison.refusals:
            for setting, its, theirs in refusal.differences:
                lines += _row([refusal.run, f"`{setting}`", str(its), str(theirs)])
    return "\n".join(lines) + "\n"


def run_name(report: Report) -> str:
    """Method, variant and seed."""
    return f"{_name(report)} seed {report['configuration']['seed']}"


def _groups(reports: Sequence[Report]) -> list[Group]:
    alike: dict[str, list[Report]] = {}
    for report in reports:
        alike.setdefault(_key(report, _NOT_SETTINGS) + _name(report), []).append(report)
    by_name: dict[str, list[list[Report]]] = {}
    for group in alike.values():
        by_name.setdefault(_name(group[0]), []).append(group)
    return [
        Group(
            name + _told_apart(group[0], [other[0] for other in namesakes]),
            tuple(sorted(group, key=lambda report: int(report["configuration"]["seed"]))),
        )
        for name, namesakes in by_name.items()
        for group in namesakes
    ]


def _told_apart(report: Report, namesakes: Sequence[Report]) -> str:
    """The settings in which a method differs from others of its name, as ` (key=value, ...)`."""
    own, flats = _settings(report), [_settings(each) for each in namesakes]
    keys = sorted(
        key
        for key in {key for flat in flats for key in flat}
        if any(flat.get(key) != own.get(key) for flat in flats)
    )
    return f" ({', '.join(f'{key}={own.get(key)}' for key in keys)})" if keys else ""


def _settings(report: Report) -> dict[str, Any]:
    configuration = report["configuration"]
    own = configuration.get(configuration["method"], {})
    return flatten(own)


def _differences(report: Report, other: Report) -> list[tuple[str, Any, Any]]:
    its, theirs = (flatten({key: _of(each, key) for key in SHARED}) for each in (report, other))
    return [
        (key, its.get(key, "unset"), theirs.get(key, "unset"))
        for key in sorted({*its, *theirs})
        if its.get(key, "unset") != theirs.get(key, "unset")
    ]


def _measure(report: Report, measure: str) -> float | None:
    if measure == "seconds":
        return float(sum(sum(stages.values()) for stages in report["seconds"].values()))
    if measure == "state_bytes":
        return float(report["state_bytes"][-1])
    value = report[measure]
    return None if value is None else float(value)


def _name(report: Report) -> str:
    configuration = report["configuration"]
    variant = configuration.get("variant")
    return f"{configuration['method']}-{variant}" if variant else str(configuration["method"])


def _of(report: Report, key: str) -> Any:
    return report["configuration"].get(key, "unset")


def _key(report: Report, without: Sequence[str]) -> str:
    kept = {key: value for key, value in report["configuration"].items() if key not in without}
    return _canonical(kept)


def _canonical(values: Any) -> str:
    return json.dumps(values, sort_keys=True)


def _row(cells: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def _cell(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return ""
    return f"{mean:.1f}" if spread is None else f"{mean:.1f} ± {spread:.1f}"
