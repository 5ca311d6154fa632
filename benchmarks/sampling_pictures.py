"""The picture of the sampling curve: quality against model evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from gppdm_pipeline.evaluation.figures import FAINT, GREY, SMALL, WIDTH, new_figure, style
from gppdm_pipeline.evaluation.pictures import Picture

COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#009E73")  # Okabe and Ito's, one for each family
MARKERS = "o^sD"
PANELS = {"Frechet distance": "Fréchet distance (oracle)", "oracle agreement": "oracle agreement"}


def curve(benchmark: str, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write sampling_<benchmark>.png, .svg and .csv of what `sampling_curve.summary` gives."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = Picture(_figure(benchmark, rows), rows)
    for kind in ("png", "svg"):
        (folder / f"sampling_{benchmark}.{kind}").write_bytes(picture.rendered(kind))
    (folder / f"sampling_{benchmark}.csv").write_text(picture.csv())


def _figure(benchmark: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    figure = new_figure(WIDTH, 3.8)
    panels: Sequence[Axes] = figure.subplots(1, 2)
    families: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        name = row[""]
        family = name.split(", ", 1)[1] if name.startswith("ours") else name
        families.setdefault(family, []).append(row)
    for axes, (key, label) in zip(panels, PANELS.items(), strict=True):
        number = 0
        for family, points in families.items():
            x, y = [p["evaluations"] for p in points], [p[key] for p in points]
            if len(points) == 1 and not points[0][""].startswith("ours"):
                marker = "*" if family.startswith("reference") else "P"
                axes.plot(x, y, marker, ms=13, color=GREY, label=family)
                continue
            axes.plot(x, y, marker=MARKERS[number], ms=5, color=COLOURS[number], label=family)
            number += 1
        style(axes, x="model evaluations an image", y=label)
        axes.set_xscale("log")
        axes.set_xticks([5, 10, 20, 50, 100, 200])
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(color=FAINT, lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    title = benchmark.replace("_", " ")
    figure.suptitle(f"{title}: the same generator, sampled in several ways")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=SMALL
    )
    return figure
