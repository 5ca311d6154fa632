"""Tables as colours: accuracy by task, memory by class, confusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gppdm_pipeline.evaluation.figures import (
    GREY,
    SMALL,
    TEXT,
    new_figure,
    shortened,
    style,
    wrapped,
)
from gppdm_pipeline.evaluation.metrics import Matrix
from gppdm_pipeline.evaluation.pictures import Picture

_MOST_ANNOTATED = 20  # cells a side, beyond which numbers would not be legible
_MOST_TASKS = 12  # of a matrix, beyond which its numbers would not be legible
_MOST_NAMED = 40  # classes, beyond which names would overlap


def accuracy_matrix_figure(matrix: Matrix) -> Figure:
    """A heat map of accuracy by task (columns) after each task (rows).

    Args:
        matrix: [T, T] in 0..1, None above the diagonal and for tasks without new classes.
    """
    total = len(matrix)
    values = np.array(matrix, np.float64)  # None becomes NaN, which is left blank
    side = np.clip(0.55 * total, 1.7, 5.5)
    figure = new_figure(side + 1.5, side + 1.0)
    axes = figure.add_subplot()
    _heat(figure, axes, values, most=_MOST_TASKS)
    style(axes, title="Accuracy by task, %", x="tested on task", y="after task")
    ticks = range(0, total, -(-total // _MOST_TASKS))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [str(tick + 1) for tick in ticks])
    return figure


def memory_picture(
    accuracies: Sequence[Mapping[str, float | None]], class_names: Sequence[str]
) -> Picture:
    """The accuracy of each class (rows, in order of arrival) after each task (columns).

    Args:
        accuracies: after each task, by label; None without test images.
        class_names: the name of each label.
    """
    labels = list(accuracies[-1])
    values = np.array([[after.get(label) for after in accuracies] for label in labels], np.float64)
    total = len(accuracies)
    width = float(np.clip(0.62 * total + 1.4, 3.2, 8.0))
    figure = new_figure(width + 0.9, _height(len(labels)))
    axes = figure.add_subplot()
    _heat(figure, axes, values, aspect="auto")
    style(axes, title="Accuracy by class, %", x="after task")
    step = -(-total // 12)
    axes.set_xticks(range(0, total, step), [str(i + 1) for i in range(0, total, step)])
    _name(axes, [class_names[int(label)] for label in labels])
    rows = [
        {"class": class_names[int(label)], "after_task": t, "accuracy": after[label]}
        for label in labels
        for t, after in enumerate(accuracies, start=1)
        if label in after
    ]
    return Picture(figure, rows)


def confusion_picture(
    counts: Sequence[Sequence[int]], classes: Sequence[int], class_names: Sequence[str]
) -> Picture:
    """Which class (rows) was taken for which (columns), in per cent of the class.

    Args:
        counts: [k, k], rows true, columns predicted.
        classes: the label of each row and column.
        class_names: the name of each label.
    """
    values = np.array(counts, np.float64)
    totals = values.sum(1, keepdims=True)
    shares = np.divide(values, totals, out=np.full_like(values, np.nan), where=totals > 0)
    side = float(np.clip(0.48 * len(classes), 2.2, 5.6))
    names = [class_names[label] for label in classes]
    shown = [shortened(name) for name in names]
    room = 1.0 * (shown != names)  # inches: names that are cut may be of wide letters
    figure = new_figure(side + 2.2 + room, side + 1.4 + room)
    axes = figure.add_subplot()
    _heat(figure, axes, shares, zeros=False)
    style(axes, title="Confusion after the last task, %", x="classified as", y="class")
    _name(axes, names)
    if len(names) <= _MOST_ANNOTATED:
        short = all(len(name) <= 3 for name in names)
        axes.set_xticks(range(len(names)), shown, rotation=0 if short else 90, parse_math=False)
    rows = [
        {"class": names[i], "classified_as": names[j], "images": int(counts[i][j])}
        for i in range(len(names))
        for j in range(len(names))
    ]
    return Picture(figure, rows)


def _height(rows: int) -> float:
    return float(np.clip(0.34 * rows + 1.1, 2.0, 9.0))


def _heat(
    figure: Figure,
    axes: Axes,
    values: NDArray[np.float64],
    aspect: Literal["equal", "auto"] = "equal",
    zeros: bool = True,
    most: int = _MOST_ANNOTATED,
) -> None:
    """Shares in 0..1 as colours, and in numbers where there is room; NaN is left blank."""
    heat = axes.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect=aspect)
    if max(values.shape) <= most:
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value) and (zeros or round(100 * value)):
                ink = "black" if value > 0.45 else "white"
                label = f"{100 * value:.0f}"
                axes.text(column, row, label, color=ink, ha="center", va="center", fontsize=TEXT)
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.tick_params(length=0)
    bar = figure.colorbar(heat, ax=axes, ticks=[0, 0.5, 1], shrink=0.8)
    bar.ax.set_yticklabels(["0", "50", "100"], fontsize=SMALL, color=GREY)
    bar.outline.set_visible(False)


def _name(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows; all of them, if there is room."""
    step = -(-len(names) // _MOST_NAMED)
    ticks = range(0, len(names), step)
    axes.set_yticks(ticks, [wrapped(names[i], 16, 1) for i in ticks], parse_math=False)
    axes.tick_params(axis="y", length=0, labelsize=SMALL)
