"""Drawn images side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gppdm_pipeline.evaluation.figures import SMALL, WIDTH, montage, new_figure, show, wrapped
from gppdm_pipeline.images.labelled import LabelledImages

_ACROSS, _DOWN = 16, 60  # images in a row, rows


def drawn_figure(images: LabelledImages, class_names: Sequence[str]) -> Figure:
    """Rows of images, class after class; the first of them where there are more than fit.

    Args:
        images: at least one.
        class_names: the name of each label.
    """
    rows, names = [], []
    across = min(_ACROSS, max(np.bincount(images.labels)))
    for label in dict.fromkeys(images.labels.tolist()):
        of_class = images.of_classes([label]).images
        parts = [of_class[i : i + across] for i in range(0, len(of_class), across)]
        rows += parts
        names += [wrapped(class_names[label]), *[""] * (len(parts) - 1)]
    return _sheet(rows[:_DOWN], names[:_DOWN], across, images.image_shape)


def interpolation_figure(drawn: Mapping[str, NDArray[np.uint8]], towards: str) -> Figure:
    """For each class a row of prototypes, and below it what is drawn with them.

    Args:
        drawn: by class, uint8 [1 + images, steps, h, w, c], prototypes first; at least one class.
        towards: the class of the last column's prototypes.
    """
    rows, names = [], []
    for name, block in drawn.items():
        rows += [*block]
        names += [wrapped(f"{name} to {towards}"), "drawn", *[""] * (len(block) - 2)]
    first = next(iter(drawn.values()))
    across, height, width, channels = first.shape[1:]
    return _sheet(rows[:_DOWN], names[:_DOWN], across, (height, width, channels))


def _sheet(
    rows: Sequence[NDArray[np.uint8]],
    names: Sequence[str],
    across: int,
    image_shape: tuple[int, int, int],
) -> Figure:
    canvas = montage(rows, across, image_shape)
    height = (WIDTH - 1.2) * canvas.shape[0] / canvas.shape[1]
    figure = new_figure(WIDTH, min(height, 40.0) + 0.3)
    axes = figure.add_subplot()
    show(axes, canvas)
    places = (np.arange(len(rows)) + 0.5) * canvas.shape[0] / len(rows)
    axes.set_yticks(places, names, fontsize=SMALL, parse_math=False)
    return figure
