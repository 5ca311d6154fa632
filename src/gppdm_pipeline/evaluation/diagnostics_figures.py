"""How it was learnt: seconds, losses, projection; and where a run stands between its bounds.

Unlike the pictures of results, these depend on the machine, on logs and on what other runs
there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from gppdm_pipeline.evaluation.figures import (
    GREY,
    SMALL,
    TEXT,
    TITLE,
    VERMILION,
    WIDTH,
    gridded,
    new_figure,
    style,
)
from gppdm_pipeline.evaluation.pictures import Picture, Row

Logs = Mapping[str, Mapping[str, Any]]
"""By `<task>.<stage>` what a stage told; empty where it was run elsewhere."""

# Okabe and Ito's, and greys for what is not learning.
_STAGES = {
    "train_autoencoder": ("train autoencoder", "#CC79A7"),
    "synthesise_replay": ("synthesise replay", "#56B4E9"),
    "train_generator": ("train generator", "#0072B2"),
    "train_classifier": ("train classifier", "#E69F00"),
    "evaluate": ("evaluate", "#595959"),
    "assess_replay": ("assess replay", "#A6A6A6"),
}
_KINDS = {"to_q": "queries", "to_k": "keys", "to_v": "values", "to_out": "outputs"}
_LINES = ("-o", "--s", ":^", "-.D")
_MOST_POINTS = 200  # of a curve


def seconds_picture(seconds: Mapping[str, Mapping[str, float]]) -> Picture:
    """Where the seconds went: a bar for each task, a colour for each stage.

    Args:
        seconds: by task and stage.
    """
    tasks = list(seconds)
    if not tasks:
        return _nothing("No stage has left a log here.", ("task", "stage", "seconds"))
    figure = new_figure(WIDTH, float(np.clip(0.36 * len(tasks) + 1.5, 2.2, 8)))
    axes = figure.add_subplot()
    left = np.zeros(len(tasks))
    for stage, (name, colour) in _STAGES.items():
        values = np.array([seconds[task].get(stage, 0.0) for task in tasks])
        if values.any():
            label = f"{name}, {values.sum():.0f} s"
            axes.barh(range(len(tasks)), values, left=left, color=colour, label=label)
            left += values
    style(axes, title=f"Where the seconds went: {left.sum():.0f} s", x="seconds", y="task")
    axes.set_yticks(range(len(tasks)), [str(int(t.removeprefix("task_"))) for t in tasks])
    axes.invert_yaxis()
    axes.set_xlim(0, None)
    gridded(axes, "x")
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=SMALL)
    rows: list[Row] = [
        {"task": task, "stage": stage, "seconds": spent}
        for task in tasks
        for stage, spent in seconds[task].items()
    ]
    return Picture(figure, rows)


def losses_picture(logs: Logs) -> Picture:
    """Every loss over the steps of a task, a line for each task.

    Args:
        logs: of all stages; their `curves` are drawn, those over many steps thinned out.
    """
    curves = _curves_of(logs)
    if not curves:
        return _nothing("No training has left a log here.", ("loss", "task", "step", "value"))
    panels = len(curves)
    lines = -(-panels // 2)
    figure = new_figure(WIDTH, 2.5 * lines + 0.6)
    grid = figure.subplots(lines, min(panels, 2), squeeze=False).flat
    tasks = sorted({task for by_task in curves.values() for task in by_task})
    colours = dict(zip(tasks, colormaps["viridis"](np.linspace(0, 0.9, len(tasks))), strict=True))
    for axes in grid[len(curves) :]:
        axes.set_visible(False)
    rows: list[Row] = []
    for axes, (name, by_task) in zip(grid[: len(curves)], curves.items(), strict=True):
        for task, curve in by_task.items():
            points = _thinned(curve)
            number = int(task.removeprefix("task_"))
            x, y = zip(*points, strict=True)
            axes.plot(x, y, lw=1.2, color=colours[task], label=f"task {number}")
            rows += [{"loss": name, "task": number, "step": s, "value": v} for s, v in points]
        style(axes, title=name.replace("_", " "), x="step")
        gridded(axes)
        drawn = [row["value"] for row in rows if row["loss"] == name]
        if min(drawn) > 0 and max(drawn) > 10 * min(drawn):  # type: ignore[type-var, operator]
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
    _name_tasks(figure, grid[0])
    return Picture(figure, rows)


def _curves_of(logs: Logs) -> dict[str, dict[str, Sequence[Sequence[float]]]]:
    """Every curve, by the loss's name and the task."""
    curves: dict[str, dict[str, Sequence[Sequence[float]]]] = {}
    for stage, record in logs.items():
        for name, curve in record.get("curves", {}).items():
            curves.setdefault(name, {})[stage.partition(".")[0]] = curve
    return curves


def _name_tasks(figure: Figure, axes: Axes) -> None:
    """Say which line is which task's; of many, of the first and the last."""
    handles, labels = axes.get_legend_handles_labels()
    kept = range(len(labels)) if len(labels) <= 12 else (0, len(labels) - 1)
    figure.legend(
        [handles[i] for i in kept],
        [labels[i] for i in kept],
        loc="outside right upper",
        frameon=False,
        fontsize=SMALL,
    )


def projection_picture(logs: Logs) -> Picture:
    """What projected layers could learn of new classes, and how old keys and values changed.

    Args:
        logs: of all stages, in the order of the tasks; metrics `basis_free/<layer>`,
            `basis_rank/<layer>` and `<what>_drift/<layer>` are drawn.
    """
    rows = _of_layers(logs)
    if not rows:
        return _nothing("No projected layer has left a log here.", ("measure", "layer", "task"))
    measures = ["basis_free", *sorted({str(r["measure"]) for r in rows if "drift" in str(r)})]
    kinds = [k for k in _KINDS if any(k in str(row["layer"]).split(".") for row in rows)]
    places = sorted({_place(str(row["layer"])) for row in rows})
    figure = new_figure(WIDTH, 2.3 * len(measures) + 0.9)
    grid = figure.subplots(len(measures), len(kinds), squeeze=False, sharex=True, sharey="row")
    for line, measure in zip(grid, measures, strict=True):
        for axes, kind in zip(line, kinds, strict=True):
            for i, place in enumerate(places):
                points = _points(rows, measure, kind, place)
                if points:
                    _line(axes, points, i, place, factor=100 if measure == "basis_free" else 1)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            gridded(axes)
        title = "free, %" if measure == "basis_free" else measure.replace("_", " ")
        line[0].set_ylabel(title, fontsize=TEXT)
        if measure == "basis_free":
            line[0].set_ylim(-3, 103)
    for axes, kind in zip(grid[0], kinds, strict=True):
        axes.set_title(_KINDS[kind], fontsize=TEXT)
    for axes in grid[-1]:
        axes.set_xlabel("after task", fontsize=TEXT)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=SMALL
    )
    figure.suptitle("Projected layers: what of the new classes they could learn", fontsize=TITLE)
    return Picture(figure, rows)


def _of_layers(logs: Logs) -> list[Row]:
    """What was measured of each projected layer after each task."""
    rows: list[Row] = []
    for stage, record in logs.items():
        task = stage.partition(".")[0].removeprefix("task_")
        for name, value in record.get("metrics", {}).items():
            measure, _, layer = name.partition("/")
            if layer and (measure in ("basis_free", "basis_rank") or measure.endswith("_drift")):
                rows.append({"measure": measure, "layer": layer, "task": int(task), "value": value})
    return rows


def _points(rows: Sequence[Row], measure: str, kind: str, place: str) -> list[tuple[Any, Any]]:
    """Task and value of what was measured of the layers of one kind in one place."""
    return [
        (row["task"], row["value"])
        for row in rows
        if row["measure"] == measure
        and kind in str(row["layer"]).split(".")
        and _place(str(row["layer"])) == place
    ]


def bounds_picture(
    name: str, average: Sequence[float], bounds: Mapping[str, Sequence[Sequence[float]]]
) -> Picture:
    """Average accuracy after each task between the lower and the upper bound.

    Args:
        name: of the run's method.
        average: [T] in 0..1, of the run.
        bounds: by method, the same of each comparable run of it; may be empty.
    """
    figure = new_figure(WIDTH, 3.8)
    axes = figure.add_subplot()
    tasks = np.arange(1, len(average) + 1)
    rows: list[Row] = []
    looks = {
        "joint": ("joint, the upper bound", "--^"),
        "finetune": ("finetune, the lower bound", ":v"),
    }
    for method, (label, line) in looks.items():
        curves = 100 * np.array(bounds.get(method, []), np.float64).reshape(-1, len(average))
        if len(curves):
            more = f" ({len(curves)} seeds)" if len(curves) > 1 else ""
            axes.plot(tasks, curves.mean(0), line, ms=5, lw=1.6, color=GREY, label=label + more)
            rows += _curve_rows(method, curves.mean(0) / 100)
        else:
            axes.plot([], [], line, color=GREY, label=f"{method}: no such run yet")
    if name not in looks:
        axes.plot(tasks, 100 * np.array(average), "-s", ms=6, lw=3, color=VERMILION, label=name)
        rows = [*_curve_rows(name, average), *rows]
    style(axes, title="Average accuracy between its bounds", x="after task", y="test accuracy, %")
    axes.set(ylim=(-2, 102), xlim=(0.7, len(average) + 0.3))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    gridded(axes)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=SMALL)
    return Picture(figure, rows or _curve_rows(name, average))


def _nothing(message: str, columns: Sequence[str]) -> Picture:
    figure = new_figure(WIDTH, 1.2)
    figure.text(0.5, 0.5, message, ha="center", va="center", fontsize=TEXT, color=GREY)
    return Picture(figure, [dict.fromkeys(columns)])


def _curve_rows(method: str, values: Any) -> list[Row]:
    return [
        {"method": method, "after_task": t, "average_accuracy": float(value)}
        for t, value in enumerate(values, start=1)
    ]


def _line(axes: Axes, points: Sequence[Any], i: int, label: str, factor: float) -> None:
    x, y = zip(*points, strict=True)
    colour = colormaps["viridis"](0.25 * (i % 4))
    axes.plot(x, factor * np.array(y), _LINES[i % 4], ms=4, lw=1.3, color=colour, label=label)


def _place(layer: str) -> str:
    """Where a layer is, such as `down_blocks.1` or `mid_block`."""
    return layer.partition(".attentions")[0]


def _thinned(curve: Sequence[Sequence[float]]) -> list[tuple[int, float]]:
    chosen = np.unique(np.linspace(0, len(curve) - 1, min(len(curve), _MOST_POINTS)).astype(int))
    return [(int(curve[i][0]), float(curve[i][1])) for i in chosen]
