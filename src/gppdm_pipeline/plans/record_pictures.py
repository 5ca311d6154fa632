"""Pictures of recorded runs: how replay of the first classes keeps, and accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from gppdm_pipeline.evaluation.figures import (
    GREY,
    SMALL,
    TEXT,
    TITLE,
    WIDTH,
    montage,
    new_figure,
    show,
    style,
    wrapped,
)
from gppdm_pipeline.evaluation.pictures import Picture
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.plans.records import Record, cost_of, first_labels, on_gpu

_ACROSS = 3  # images of a class in a cell
_MARKERS = "osD^vP*Xhd"

Strip = NDArray[np.uint8]


def strip_of(replays: Sequence[LabelledImages], record: Record) -> Strip:
    """A few replayed images of the first two classes after each task.

    Args:
        replays: after each task, of one image shape.
        record: of their run, with `replay_quality`.

    Returns:
        uint8 [classes, tasks, images, height, width, channels]; white where there is none.
    """
    labels = [int(label) for label in first_labels(record)]
    strip = np.full(
        (len(labels), len(replays), _ACROSS, *replays[-1].image_shape), 255, dtype=np.uint8
    )
    for i, label in enumerate(labels):
        for t, replay in enumerate(replays):
            few = replay.images[replay.labels == label][:_ACROSS]
            strip[i, t, : len(few)] = few
    return strip


def first_classes_picture(strips: Mapping[str, Strip], title: str) -> Picture:
    """A row for each variant, a column for each task.

    Args:
        strips: as of `strip_of`, at least one, all of one shape.
        title: says which classes of which stream and seed.
    """
    _, tasks, across, *shape = next(iter(strips.values())).shape
    cell = (WIDTH - 1.2) / tasks
    figure = new_figure(WIDTH, len(strips) * (cell * 2 / across + 0.1) + 0.6)
    grid = figure.subplots(len(strips), tasks, squeeze=False)
    for row, (name, strip) in zip(grid, strips.items(), strict=True):
        for t, axes in enumerate(row):
            show(axes, montage(list(strip[:, t]), across, tuple(shape)))
            axes.set_yticks([])
        label = wrapped(name, 12, 2)
        row[0].set_ylabel(label, fontsize=SMALL, rotation=0, ha="right", va="center")
    for t, axes in enumerate(grid[0], start=1):
        axes.set_title(str(t), fontsize=TEXT, color=GREY)
    figure.suptitle(title, fontsize=TITLE)
    rows = [{"variant": name, "mean_brightness": float(s.mean())} for name, s in strips.items()]
    return Picture(figure, rows)


def accuracy_against_cost_picture(records: Mapping[str, Sequence[Record]], title: str) -> Picture:
    """Average accuracy over what a run costs: each run small, the mean of a variant large.

    The cost is the least of a variant's runs, since other work on the machine only adds to it.
    Runs on a GPU are hollow, with a cost and a mean of their own.

    Args:
        records: of each variant; those without any are left out, at least one has some.
        title: says of which stream.
    """
    figure = new_figure(WIDTH, 4.2)
    axes = figure.add_subplot()
    rows: list[dict[str, object]] = []
    found = {name: runs for name, runs in records.items() if runs}
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(found)))
    for i, (name, runs) in enumerate(found.items()):
        label = name
        for gpu in (False, True):
            there = [run for run in runs if on_gpu(run) is gpu]
            if not there:
                continue
            cost = min(map(cost_of, there))
            accuracies = [100 * run["average_accuracy"] for run in there]
            look = _look(i, colours[i], hollow=gpu)
            small: dict[str, Any] = {"alpha": 0.5, "linewidths": 0.5 if gpu else 0}
            axes.scatter([cost] * len(there), accuracies, 15, **small, **look)
            axes.scatter(cost, fmean(accuracies), 80, label=label, **look)
            label = "_"  # matplotlib's way to leave it out of the legend
            of = {"variant": name, "gpu": gpu, "seconds": cost}
            for run, accuracy in zip(there, accuracies, strict=True):
                rows.append({**of, "seed": run["configuration"]["seed"], "accuracy": accuracy})
    x = "seconds of a run on a CPU, least of the seeds"
    x += "; hollow: on a GPU" * any(row["gpu"] is True for row in rows)
    style(axes, title=title, x=x, y="average accuracy, %")
    axes.set_xscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=SMALL)
    return Picture(figure, rows)


def _look(i: int, colour: NDArray[np.float64], *, hollow: bool) -> dict[str, Any]:
    """How the points of the variant of this number are drawn."""
    filled = "none" if hollow else [colour]
    return {"edgecolors": [colour], "marker": _MARKERS[i % len(_MARKERS)], "facecolors": filled}
