"""Pictures of a comparison: each method in a colour of its own, the same in every picture."""

from __future__ import annotations

from statistics import fmean

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gppdm_pipeline.evaluation.comparison import Comparison, Group
from gppdm_pipeline.evaluation.figures import (
    SMALL,
    TEXT,
    WIDTH,
    gridded,
    new_figure,
    shortened,
    style,
    wrapped,
)

_MARKERS = "osD^vP*X<>"
_OF_RUNS = 40  # letters of a name, beyond which it would leave no room


def accuracy_by_method_figure(comparison: Comparison) -> Figure:
    """Average accuracy after each task: the mean over seeds, and a band from least to most."""
    figure = new_figure(WIDTH, 4.2)
    axes = figure.add_subplot()
    for i, group in enumerate(comparison.groups):
        curves = 100 * np.array([r["average_accuracy_after_task"] for r in group.reports])
        tasks = np.arange(1, curves.shape[1] + 1)
        colour = _colour(i, comparison)
        axes.fill_between(tasks, curves.min(0), curves.max(0), color=colour, alpha=0.15, lw=0)
        axes.plot(
            tasks,
            curves.mean(0),
            marker=_marker(i),
            ms=5,
            color=colour,
            label=shortened(group.name, _OF_RUNS),
        )
    style(axes, title="Average accuracy", x="after task", y="test accuracy, %")
    axes.set_ylim(-2, 102)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _finish(figure, axes)
    return figure


def forgetting_against_cost_figure(comparison: Comparison) -> Figure:
    """Forgetting and seconds of each run (small) and on average (large)."""
    figure = new_figure(WIDTH, 4.2)
    axes = figure.add_subplot()
    for i, group in enumerate(comparison.groups):
        forgetting, seconds = group.values("forgetting"), group.values("seconds")
        if not forgetting:  # a single task forgets nothing
            continue
        colour, marker = [_colour(i, comparison)], _marker(i)
        losses = [100 * value for value in forgetting]
        axes.scatter(seconds, losses, 15, c=colour, marker=marker, alpha=0.5, lw=0)
        centre = fmean(seconds), fmean(losses)
        axes.scatter(*centre, s=80, c=colour, marker=marker, label=shortened(group.name, _OF_RUNS))
    style(axes, title="Forgetting against cost", x="seconds", y="forgetting, %")
    axes.set_xscale("log")
    _finish(figure, axes)
    return figure


def accuracy_by_class_figure(comparison: Comparison) -> Figure:
    """Final accuracy of each class (columns, in order of arrival) for each method (rows)."""
    groups = comparison.groups
    classes = list(dict.fromkeys(label for group in groups for label in _per_class(group)))
    values = np.array([[_per_class(g).get(label, np.nan) for label in classes] for g in groups])
    turned = any(len(name) > 3 for name in classes)
    figure = new_figure(WIDTH, 0.35 * len(groups) + (2.2 if turned else 1.4))
    axes = figure.add_subplot()
    axes.imshow(values, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    if len(classes) <= 20:
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                ink = "black" if value > 45 else "white"
                axes.text(column, row, f"{value:.0f}", color=ink, ha="center", va="center")
    style(axes, title="Final accuracy by class, %", x="class, in order of arrival")
    step = -(-len(classes) // 20)
    axes.set_xticks(
        range(0, len(classes), step),
        [wrapped(name, 20, 1) for name in classes[::step]],
        rotation=90 if turned else 0,
        fontsize=SMALL,
        parse_math=False,
    )
    names = [shortened(group.name, _OF_RUNS) for group in groups]
    axes.set_yticks(range(len(groups)), names, fontsize=TEXT, parse_math=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _per_class(group: Group) -> dict[str, float]:
    """Mean over seeds, in per cent, by the class's name; in the first seed's order of arrival."""
    by_class: dict[str, list[float]] = {}
    for report in group.reports:
        for label, accuracy in report["per_class_accuracy"].items():
            by_class.setdefault(label, [])
            if accuracy is not None:
                by_class[label].append(100 * accuracy)
    return {label: float(np.mean(found)) for label, found in by_class.items() if found}


def _colour(i: int, comparison: Comparison) -> tuple[float, ...]:
    """Of the i-th group; those of neighbours differ in lightness too."""
    return tuple(colormaps["turbo"](np.linspace(0.05, 0.95, len(comparison.groups))[i]))


def _marker(i: int) -> str:
    return _MARKERS[i % len(_MARKERS)]


def _finish(figure: Figure, axes: Axes) -> None:
    gridded(axes)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right upper", frameon=False, fontsize=SMALL)
