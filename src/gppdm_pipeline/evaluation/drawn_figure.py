"""Drawn images side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

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
    rows, names = rows[:_DOWN], names[:_DOWN]
    canvas = montage(rows, across, images.image_shape)
    height = (WIDTH - 1.2) * canvas.shape[0] / canvas.shape[1]
    figure = new_figure(WIDTH, min(height, 40.0) + 0.3)
    axes = figure.add_subplot()
    show(axes, canvas)
    places = (np.arange(len(rows)) + 0.5) * canvas.shape[0] / len(rows)
    axes.set_yticks(places, names, fontsize=SMALL, parse_math=False)
    return figure
