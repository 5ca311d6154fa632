"""The drift of replay, as it is seen and as it is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gppdm_pipeline.evaluation.figures import (
    GREY,
    SMALL,
    TEXT,
    TITLE,
    VERMILION,
    WIDTH,
    gridded,
    montage,
    new_figure,
    show,
    style,
    wrapped,
)
from gppdm_pipeline.evaluation.pictures import Picture, Row
from gppdm_pipeline.images.labelled import LabelledImages

_ACROSS, _DOWN = 3, 2  # images in a cell
_CLASSES = 4  # shown
_MOST_CELLS = 6  # tasks shown beside the real thing
_PANELS = {
    "frechet_distance": "Frechet distance",
    "oracle_agreement": "oracle agrees, %",
    "precision": "precision, %",
    "coverage": "coverage, %",
}
_SHARES = ("oracle_agreement", "precision", "coverage")


def drift_strip_picture(
    replays: Sequence[LabelledImages],
    real: LabelledImages | None,
    report: Mapping[str, Any],
    classes: Sequence[int],
    class_names: Sequence[str],
) -> Picture:
    """The first classes as they are, and as they are replayed after each task.

    The Frechet distance to the real test images is below; below the real images, what as many
    real training images reach, which is about as near as can be expected.

    Args:
        replays: after each task.
        real: test images of all classes; None: replay alone is drawn.
        report: the run's, with `replay_quality`.
        classes: in order of arrival.
        class_names: the name of each label.
    """
    quality = report["replay_quality"]
    extractor = quality["settings"]["extractors"][0]
    total = len(replays)
    shown = np.unique(np.linspace(0, total - 1, min(total, _MOST_CELLS)).round().astype(int))
    labels = classes[:_CLASSES]
    beside = [*([] if real is None else [real]), *(replays[t] for t in shown)]
    numbers = [quality["reference"], *(quality["after_task"][t] for t in shown)][-len(beside) :]
    titles = ["real", *(f"after task {t + 1}" for t in shown)][-len(beside) :]
    shape = beside[0].image_shape
    figure, grid = _grid_of_cells(len(labels), len(beside), shape)
    for row, label in zip(grid, labels, strict=True):
        for axes, images, measured in zip(row, beside, numbers, strict=True):
            distance = measured.get(str(label), {}).get("frechet_distance", {}).get(extractor)
            _cell(axes, images.of_classes([label]), shape, distance)
        _name_row(row[0], wrapped(class_names[label], 11, 2))
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=TEXT, color=GREY)
    title = f"What is replayed of the first classes; below, the Frechet distance ({extractor})"
    figure.suptitle(title, fontsize=TITLE)
    return Picture(figure, quality_rows(report, class_names))


def replay_quality_picture(
    report: Mapping[str, Any], classes: Sequence[int], class_names: Sequence[str]
) -> Picture:
    """Four measures of replay over the tasks: each class, their mean, and real training images.

    Args:
        report: the run's, with `replay_quality`.
        classes: in order of arrival.
        class_names: the name of each label.
    """
    quality = report["replay_quality"]
    extractor = quality["settings"]["extractors"][0]
    figure = new_figure(WIDTH, 5.2)
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(classes)))
    for axes, (measure, title) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
        factor = 100 if measure in _SHARES else 1
        tasks = [
            {label: _number(after[label], measure, extractor, factor) for label in after}
            for after in quality["after_task"]
        ]
        for label, colour in zip(classes, colours, strict=True):
            points = [(t, a[str(label)]) for t, a in enumerate(tasks, 1) if str(label) in a]
            if points:
                axes.plot(*zip(*points, strict=True), "-o", ms=3, lw=1, color=colour)
        means = [_mean(after.values()) for after in tasks]
        axes.plot(range(1, len(tasks) + 1), means, "-s", ms=5, lw=2.5, color=VERMILION)
        reference = [_number(c, measure, extractor, factor) for c in quality["reference"].values()]
        axes.axhline(_mean(reference), color=GREY, lw=1.2, ls="--")
        style(axes, title=title, x="after task")
        axes.set_ylim((-3, 103) if measure in _SHARES else (0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        gridded(axes)
    figure.suptitle(
        f"Replay beside real test images ({extractor}): "
        "thin, each class, the first ones dark; thick, their mean;\n"
        "dashed, real training images",
        fontsize=TEXT,
    )
    return Picture(figure, quality_rows(report, class_names))


def quality_rows(report: Mapping[str, Any], class_names: Sequence[str]) -> list[Row]:
    """Every number of replay's quality, one a row; task 0 are real training images."""
    quality = report["replay_quality"]
    rows: list[Row] = []
    for task, classes in enumerate([quality["reference"], *quality["after_task"]]):
        for label, measured in classes.items():
            for measure, value in measured.items():
                by_extractor = value if isinstance(value, Mapping) else {"": value}
                rows += [
                    {
                        "after_task": task,
                        "class": class_names[int(label)],
                        "measure": measure,
                        "extractor": "oracle" if measure == "oracle_agreement" else extractor,
                        "value": number,
                    }
                    for extractor, number in by_extractor.items()
                ]
    return rows


def _mean(values: Iterable[float]) -> float:
    """Of those that are defined; NaN, which is not drawn, if none is."""
    defined = [value for value in values if not np.isnan(value)]
    return sum(defined) / len(defined) if defined else float("nan")


def _number(measured: Mapping[str, Any], measure: str, extractor: str, factor: float) -> float:
    value = measured[measure]
    value = value[extractor] if isinstance(value, Mapping) else value
    return float("nan") if value is None else factor * float(value)


def _grid_of_cells(
    rows: int, columns: int, image_shape: tuple[int, int, int]
) -> tuple[Figure, NDArray[np.object_]]:
    """A figure of the full width, with axes [rows, columns], each for the images of a cell."""
    height, width, _ = image_shape
    cell = (WIDTH - 1.0) / columns
    tall = cell * (_DOWN * height) / (_ACROSS * width) + 0.32
    figure = new_figure(WIDTH, rows * tall + 0.75)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _name_row(first: Axes, name: str) -> None:
    first.set_ylabel(name, fontsize=TEXT, rotation=0, ha="right", va="center", parse_math=False)


def _cell(
    axes: Axes, images: LabelledImages, image_shape: tuple[int, int, int], distance: float | None
) -> None:
    """Some images of one class, and their distance; nothing, where there is none."""
    if not len(images):
        axes.set_visible(False)
        return
    few = images.images[: _ACROSS * _DOWN]
    rows = [few[i : i + _ACROSS] for i in range(0, _ACROSS * _DOWN, _ACROSS)]
    show(axes, montage(rows, _ACROSS, image_shape))
    axes.set_yticks([])
    style(axes)
    axes.set_xlabel("" if distance is None else _short(distance), fontsize=SMALL)


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.3g}"
