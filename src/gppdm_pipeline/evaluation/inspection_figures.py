"""What a stream will bring, as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gppdm_pipeline.evaluation.figures import (
    SMALL,
    WIDTH,
    _padding,
    montage,
    new_figure,
    show,
    style,
    wrapped,
)

MOST = 120  # rows, beyond which some are left out
_LETTERS, _LETTER = 16, 0.085  # of the names beside the images: how many, inches


def stream_figure(
    samples: Sequence[tuple[int, str, NDArray[np.uint8]]], per_row: int = 12
) -> Figure:
    """A row of images for every task and class, in up to three columns.

    Of more rows than there is room for, evenly spread ones are shown, which the title says.

    Args:
        samples: (task, name of the class, uint8 images [n >= 1, h, w, c]), in order.
        per_row: images of each, where there is one column; less in several.
    """
    total = len(samples)
    shown = [samples[i] for i in np.unique(np.linspace(0, total - 1, min(total, MOST)).astype(int))]
    columns = 1 if len(shown) <= 12 else 2 if len(shown) <= 60 else 3
    rows, wide = -(-len(shown) // columns), per_row // columns
    height, width, channels = shown[0][2].shape[1:]
    pad = _padding(height)
    names = [f"{task} · {wrapped(name, _LETTERS, 1)}" for task, name, _ in shown]
    label = 0.35 + _LETTER * max(map(len, names))
    cell = (WIDTH / columns - label) / wide * (height + pad) / (width + pad)
    figure = new_figure(WIDTH, rows * cell + 0.6)
    for k, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
        part = shown[k * rows : (k + 1) * rows]
        # As many rows in the last column as in the others, so that images are of one size.
        images = [sample[:wide] for _, _, sample in part]
        images += [np.empty((0, height, width, channels), np.uint8)] * (rows - len(part))
        show(axes, montage(images, wide, (height, width, channels)))
        style(axes)
        places = np.arange(len(part)) * (height + pad) + height / 2
        axes.set_yticks(places, names[k * rows : (k + 1) * rows], fontsize=SMALL, parse_math=False)
    some = f" ({len(shown)} of {total} shown)" if len(shown) < total else ""
    figure.suptitle(f"task · class{some}", fontsize=SMALL)
    return figure
