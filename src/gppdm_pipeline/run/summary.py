"""The end of a run, on the console."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

_BESIDE, _COLUMN = 22, 9  # characters that tasks side by side take


def print_summary(report: Mapping[str, Any], places: Mapping[str, Path | str]) -> None:
    """Tables of accuracies and seconds, the run's measures, and where things are.

    Args:
        report: the content of metrics.json.
        places: by what is there.
    """
    console = Console(highlight=False)
    console.print(
        "\n[bold]{benchmark} · {method} · seed {seed}".format_map(report["configuration"])
    )
    console.print(_accuracies(report, console.width), _seconds(report["seconds"]))
    for name in ("average_accuracy", "average_incremental_accuracy", "forgetting"):
        console.print(f"{name.replace('_', ' '):<30}{_percent(report[name])} %")
    for name, place in places.items():
        console.print(f"{name:<30}{place}", soft_wrap=True, markup=False)


def _accuracies(report: Mapping[str, Any], width: int) -> Table:
    """Of each task and on average; the average alone where there is no room for all tasks."""
    matrix = report["accuracy_matrix"]
    table = Table(title="accuracy, %", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("after task", justify="right")
    tested = [i for i, accuracy in enumerate(matrix[-1]) if accuracy is not None]
    shown = tested if _BESIDE + _COLUMN * len(tested) <= width else []
    for i in shown:
        table.add_column(f"task {i + 1}", justify="right")
    table.add_column("average", justify="right", style="bold")
    rows = zip(matrix, report["average_accuracy_after_task"], strict=True)
    for number, (accuracies, average) in enumerate(rows, start=1):
        table.add_row(str(number), *(_percent(accuracies[i]) for i in shown), _percent(average))
    return table


def _seconds(by_task: Mapping[str, Mapping[str, float]]) -> Table:
    stages = dict.fromkeys(stage for seconds in by_task.values() for stage in seconds)
    table = Table(title="seconds", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("task", justify="right")
    for stage in stages:
        table.add_column(stage, justify="right")
    for task, seconds in by_task.items():
        known = (f"{seconds[stage]:.1f}" if stage in seconds else "" for stage in stages)
        table.add_row(str(int(task.removeprefix("task_"))), *known)
    table.add_section()
    totals = [sum(seconds.get(stage, 0) for seconds in by_task.values()) for stage in stages]
    table.add_row("all", *(f"{total:.1f}" for total in totals))
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
