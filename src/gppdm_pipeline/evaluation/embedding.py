"""Replay and real images in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from numpy.typing import NDArray

from gppdm_pipeline.evaluation.distances import Features
from gppdm_pipeline.evaluation.figures import GREY, SMALL, TITLE, WIDTH, new_figure, shortened
from gppdm_pipeline.evaluation.pictures import Picture, Row

_LEAST = 5  # points, fewer of which have no neighbours to keep


def embedding_picture(
    replayed: tuple[Features, Sequence[int]],
    real: tuple[Features, Sequence[int]],
    extractor: str,
    class_names: Sequence[str],
    seed: int,
) -> Picture:
    """A t-SNE (van der Maaten and Hinton 2008) of the features of replayed and real images.

    Args:
        replayed: features [n, d] and labels.
        real: the same of real images.
        extractor: the name of what gave the features.
        class_names: the name of each label.
        seed: of t-SNE's start.

    Raises:
        ValueError: if there are fewer than five images in all.
    """
    places = _in_two_dimensions(np.concatenate([replayed[0], real[0]]), seed)
    labels = np.array([*replayed[1], *real[1]])
    is_real = np.arange(len(labels)) >= len(replayed[1])
    classes = list(dict.fromkeys(int(label) for label in labels))
    figure = new_figure(WIDTH, 6.2)
    axes = figure.add_subplot()
    for i, label in enumerate(classes):
        colour = colormaps["turbo"](np.linspace(0.05, 0.95, len(classes))[i])
        of_class = labels == label
        there, drawn = places[of_class & is_real], places[of_class & ~is_real]
        axes.scatter(there[:, 0], there[:, 1], s=22, facecolors="none", edgecolors=[colour], lw=0.9)
        axes.scatter(drawn[:, 0], drawn[:, 1], s=22, marker="x", color=[colour], lw=0.9)
        middle = np.median(there if len(there) else drawn, axis=0)
        _name(axes, shortened(class_names[label]), middle)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(
        f"Replayed (crosses) and real test images (circles), {extractor}", fontsize=TITLE
    )
    names = [class_names[int(label)] for label in labels]
    return Picture(figure, _rows(names, is_real, places))


def _rows(names: Sequence[str], is_real: NDArray[np.bool_], places: Features) -> list[Row]:
    """Where each image is, with its class's name and where it comes from."""
    return [
        {
            "class": name,
            "origin": "real" if of_real else "replayed",
            "x": f"{x:.4g}",
            "y": f"{y:.4g}",
        }
        for name, of_real, (x, y) in zip(names, is_real, places, strict=True)
    ]


def _in_two_dimensions(points: Features, seed: int) -> Features:
    """Where t-SNE puts them: [n, 2]."""
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]  # noqa: PLC0415 (slow)

    if len(points) < _LEAST:
        raise ValueError(f"{len(points)} images are too few for a t-SNE: at least {_LEAST}")
    perplexity = min(30.0, (len(points) - 1) / 4)
    model = TSNE(perplexity=perplexity, random_state=seed, init="pca")
    places: Features = model.fit_transform(points.astype(np.float32))
    return places


def _name(axes: Axes, name: str, middle: Features) -> None:
    axes.annotate(
        name,
        (middle[0], middle[1]),
        ha="center",
        va="center",
        fontsize=SMALL,
        parse_math=False,
        bbox={"boxstyle": "round,pad=0.2", "fc": "white", "ec": GREY, "lw": 0.6, "alpha": 0.85},
    )
