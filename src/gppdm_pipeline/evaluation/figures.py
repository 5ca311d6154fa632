"""Pictures of a run, 800 pixels wide or less at 100 dots an inch, in colour-blind safe colours.

Each function returns a figure of its own and leaves pyplot's global state alone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gppdm_pipeline.evaluation.metrics import Matrix
from gppdm_pipeline.images.labelled import LabelledImages

WIDTH = 8.0  # inches
_DPI = 100
TITLE, TEXT, SMALL = 12, 10, 9  # points
GREY = "#595959"
FAINT = "#E5E5E5"
VERMILION = "#D55E00"  # Okabe and Ito's
_GAP = 0.08  # between images, as a part of an image's height
_COLUMNS = 10  # prototypes side by side
_MOST_MARKED = 12  # tasks, beyond which marks and names would crowd


def accuracy_over_tasks_figure(matrix: Matrix, average_accuracy: Sequence[float]) -> Figure:
    """Accuracy on each task, and the average accuracy, as tasks are learnt.

    Args:
        matrix: [T, T] in 0..1, None above the diagonal and for tasks without new classes.
        average_accuracy: [T] in 0..1, after each task.
    """
    total = len(matrix)
    values = 100 * np.array(matrix, np.float64)
    tasks = np.arange(1, total + 1)
    tested = tasks[~np.isnan(values[-1])]
    figure = new_figure(WIDTH, 4.2)
    axes = figure.add_subplot()
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(tested)))
    crowded = len(tested) > _MOST_MARKED
    for task, colour in zip(tested, colours, strict=True):
        x, y = tasks[task - 1 :], values[task - 1 :, task - 1]
        axes.plot(x, y, "-o", ms=2 if crowded else 4, lw=1.3, color=colour, label=f"task {task}")
    average = 100 * np.array(average_accuracy)
    size = 3 if crowded else 6
    axes.plot(tasks, average, "-s", ms=size, lw=3, color=VERMILION, label="average accuracy")
    style(axes, title="Accuracy as tasks are learnt", x="after task", y="test accuracy, %")
    axes.set(ylim=(-2, 102), xlim=(0.7, total + 0.3))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    gridded(axes)
    handles, labels = axes.get_legend_handles_labels()
    if crowded:  # the colours run evenly from the first task to the last
        handles, labels = [[part[i] for i in (0, -2, -1)] for part in (handles, labels)]
    figure.legend(
        handles[::-1], labels[::-1], loc="outside right upper", frameon=False, fontsize=SMALL
    )
    return figure


def replay_grid_figure(
    replay: LabelledImages,
    real: LabelledImages | None,
    class_names: Sequence[str],
    per_class: int = 8,
) -> Figure:
    """The first replayed images of each class beside its first real ones.

    Args:
        replay: may lack classes, or be empty if there are real images.
        real: of at least one class; of the same image shape. None: replay alone is drawn.
        class_names: the name of each label.
        per_class: images a class on each side.
    """
    shown = {"replayed": replay, **({} if real is None else {"real": real})}
    classes = sorted({label for data in shown.values() for label in data.classes})
    shape = (replay if real is None else real).image_shape
    height, width, _ = shape
    cell = (WIDTH - 1.3) / (2 * per_class)
    pad = _padding(height)
    figure = new_figure(WIDTH, len(classes) * cell * (height + pad) / (width + pad) + 0.5)
    sides = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (title, data) in zip(sides, shown.items(), strict=True):
        rows = [data.of_classes([label]).images[:per_class] for label in classes]
        show(axes, montage(rows, per_class, shape))
        style(axes, title=title)
        middle = per_class * (width + pad) / 2
        for row, images in enumerate(rows):
            if not len(images):
                _centred_text(axes, middle, row * (height + pad) + height / 2, f"no {title} image")
    names = [wrapped(class_names[label]) for label in classes]
    places = np.arange(len(classes)) * (height + pad) + height / 2
    sides[0].set_yticks(places, names, fontsize=SMALL, parse_math=False)
    for axes in sides[1:]:
        axes.set_yticks([])
    return figure


def prototypes_figure(
    starts: Mapping[int, NDArray[np.floating[Any]]],
    ends: Mapping[int, NDArray[np.floating[Any]]],
    class_names: Sequence[str],
) -> Figure:
    """Each prototype as it started, and as it was frozen.

    Args:
        starts: by class, [c, h, w] in [-1, 1]; values outside are clipped.
        ends: the same of the same classes; columns come in its order.
        class_names: the name of each label.

    Raises:
        ValueError: if there is no prototype, or the two are not of the same classes.
    """
    if not ends or starts.keys() != ends.keys():
        raise ValueError(
            f"prototypes start for the classes {sorted(starts)} and end for {sorted(ends)}: "
            "expected the same, and at least one"
        )
    classes = list(ends)
    columns = min(len(classes), _COLUMNS)
    blocks = [classes[i : i + columns] for i in range(0, len(classes), columns)]
    channels, height, width = ends[classes[0]].shape
    cell = 0.72  # inches
    pad = _padding(height)
    figure = new_figure(
        max(columns * cell + 0.8, 2.4), len(blocks) * (2 * cell * height / width + 0.5) + 0.3
    )
    grid = figure.subplots(len(blocks), 1, squeeze=False)[:, 0]
    for axes, block in zip(grid, blocks, strict=True):
        rows = [np.stack([_to_uint8(side[label]) for label in block]) for side in (starts, ends)]
        show(axes, montage(rows, columns, (height, width, channels)))
        style(axes)
        axes.set_yticks([height / 2, height * 1.5 + pad], ["start", "end"])
        names = [wrapped(class_names[label]) for label in block]
        places = np.arange(len(block)) * (width + pad) + width / 2
        axes.set_xticks(places, names, fontsize=SMALL, parse_math=False)
    figure.suptitle("Class prototypes", fontsize=TITLE)
    return figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of its own, in inches."""
    engine = ConstrainedLayoutEngine(compress=True, w_pad=0.08, h_pad=0.08)
    return Figure(figsize=(width, height), dpi=_DPI, layout=engine, facecolor="white")


def style(axes: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Title and labels, all of one size in every figure."""
    axes.set_title(title, fontsize=TITLE)
    axes.set_xlabel(x, fontsize=TEXT)
    axes.set_ylabel(y, fontsize=TEXT)
    axes.tick_params(labelsize=SMALL, color=GREY)


def gridded(axes: Axes, lines: Literal["both", "x"] = "both") -> None:
    """Faint lines behind what is drawn, across both axes or x alone, and no frame around it."""
    axes.grid(color=FAINT, lw=0.8, axis=lines)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _centred_text(axes: Axes, x: float, y: float, text: str) -> None:
    axes.text(x, y, text, ha="center", va="center", fontsize=SMALL, color=GREY, style="italic")


def _padding(height: int) -> int:
    """The white between images, in image pixels."""
    return max(1, round(_GAP * height))


def montage(
    rows: Sequence[NDArray[np.uint8]], columns: int, image_shape: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Images [n <= columns, h, w, c] of each row side by side on white: uint8 [H, W, c]."""
    height, width, channels = image_shape
    pad = _padding(height)
    full = (len(rows) * (height + pad) - pad, columns * (width + pad) - pad, channels)
    canvas = np.full(full, 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + pad), j * (width + pad)
            canvas[top : top + height, left : left + width] = image
    return canvas


def show(axes: Axes, canvas: NDArray[np.uint8]) -> None:
    """A montage, uint8 [H, W, 1 or 3], without ticks."""
    # In RGB also where grey, so that white is white whatever the images' own range.
    axes.imshow(np.broadcast_to(canvas, (*canvas.shape[:2], 3)), extent=None)
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.tick_params(length=0)


def _to_uint8(prototype: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """From [c, h, w] in [-1, 1] to uint8 [h, w, c]."""
    scaled = np.rint((np.clip(prototype, -1, 1) + 1) * 127.5)
    return np.moveaxis(scaled.astype(np.uint8), 0, -1)


def wrapped(name: str, width: int = 11, lines: int = 2) -> str:
    """A class's name in so many lines of so many characters at most."""
    text = name.replace("_", " ")
    *above, last = textwrap.wrap(
        text, width, max_lines=lines, placeholder="…", break_on_hyphens=False
    ) or [""]
    if last == "…":  # a word that has to be cut is left out whole
        *above, last = textwrap.wrap(text, width, break_on_hyphens=False)[:lines]
        last = f"{last[: width - 1]}…"
    return "\n".join([*above, last])


def shortened(name: str, letters: int = 16) -> str:
    """A name as it is, or its beginning if it has more letters."""
    return name if len(name) <= letters else f"{name[: letters - 1].rstrip()}…"
