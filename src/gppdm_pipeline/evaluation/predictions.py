"""Predictions of images without labels, as a summary and as a page."""

from __future__ import annotations

import base64
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.evaluation.figures import SMALL, WIDTH, new_figure, show, wrapped
from gppdm_pipeline.evaluation.page import Table, page_of
from gppdm_pipeline.evaluation.pictures import Picture

_ACROSS = 8
_MOST_NAMED = 1000  # damaged images and rows of a table


def summarise(rows: Iterable[Mapping[str, Any]], least_sure: int) -> dict[str, Any]:
    """What the rows come to; memory holds the least sure and the damaged ones.

    Args:
        rows: as `catalog.predictions` has them.
        least_sure: how many of those are listed.

    Returns:
        Plain JSON values: `images`, `labels` (count by class, the largest first), `unknown` (how
        many are like no class known), `mean_probability` (None without an image), `least_sure` and
        `damaged` (rows).
    """
    counts: Counter[str] = Counter()
    total, unknown, damaged, shares = 0, 0, list[dict[str, Any]](), 0.0
    unsure: list[tuple[float, int, dict[str, Any]]] = []
    for number, row in enumerate(rows):
        total += 1
        if row["problem"] is not None:
            damaged.append({"file": row["file"], "problem": row["problem"]})
            continue
        counts[row["label"]] += 1
        unknown += not row["known"]
        shares += row["probability"]
        heapq.heappush(unsure, (-row["probability"], -number, dict(row)))
        if len(unsure) > least_sure:
            heapq.heappop(unsure)  # the surest
    whole = total - len(damaged)
    return {
        "images": total,
        "labels": dict(counts.most_common()),
        "unknown": unknown,
        "mean_probability": shares / whole if whole else None,
        "least_sure": [row for *_, row in sorted(unsure, reverse=True)],
        "damaged": damaged,
    }


def predictions_page(
    run: str,
    images: str,
    summary: Mapping[str, Any],
    calibration: Mapping[str, Any],
    shown: Sequence[NDArray[np.uint8]],
) -> str:
    """The page of one prediction.

    Args:
        run: whose state has answered.
        images: where they were.
        summary: see `summarise`.
        calibration: see `TrainedRun.calibrate`.
        shown: pixels of the least sure ones, uint8 [h, w, c] each.
    """
    whole = summary["images"] - len(summary["damaged"])
    figures = []
    if shown:
        title = f"The {len(shown)} least sure images"
        picture = Picture(_figure(shown, summary["least_sure"]), summary["least_sure"])
        source = base64.b64encode(picture.rendered("png")).decode()
        caption = "As the classifier sees them; below, what it takes them for. The surest is last."
        figures.append(
            {"title": title, "source": f"data:image/png;base64,{source}", "caption": caption}
        )
    tiles = [("images", str(summary["images"])), ("damaged", str(len(summary["damaged"])))]
    if whole:
        tiles.append(("like no class known", str(summary["unknown"])))
        tiles.append(("mean probability, %", f"{100 * summary['mean_probability']:.1f}"))
    return page_of(
        title=f"Predictions of {run}",
        subtitle=images,
        tiles=tiles,
        warnings=_warnings(calibration),
        tables=_tables(summary, calibration),
        figures=figures,
        listings=[],
    )


def _warnings(calibration: Mapping[str, Any]) -> list[str]:
    if calibration["fitted_on"] == "validation":
        return []
    return [
        f"Probabilities and the flag of unknown images were fitted on {calibration['fitted_on']}, "
        "since the run has kept no validation images: they may be too sure of themselves."
    ]


def _tables(summary: Mapping[str, Any], calibration: Mapping[str, Any]) -> list[Table]:
    tables = [
        Table("Classes", ["class", "images"], [[k, str(n)] for k, n in summary["labels"].items()])
    ]
    if summary["least_sure"]:
        rows = [
            [row["file"], row["label"], _percent(row["probability"]), row["label_2"] or "",
             _percent(row["probability_2"]), "yes" if row["known"] else "no"]
            for row in summary["least_sure"]
        ]  # fmt: skip
        head = ["file", "class", "probability, %", "next", "its probability, %", "known"]
        tables.append(Table("Least sure", head, rows))
    if summary["damaged"]:
        damaged = summary["damaged"][:_MOST_NAMED]
        left = len(summary["damaged"]) - len(damaged)
        note = f"The first of them; {left} more are in predictions.csv." if left else ""
        rows = [[row["file"], row["problem"]] for row in damaged]
        tables.append(Table("Damaged", ["file", "what is wrong"], rows, note))
    note = (
        "Fitted on every second validation image and measured on the others. The AUROC is how "
        "often an image of a class known is more familiar than one of the last task's new classes, "
        "both as the state before that task sees them."
    )
    tables.append(Table("Calibration", ["", ""], _calibrated(calibration), note))
    return tables


def _calibrated(calibration: Mapping[str, Any]) -> list[list[str]]:
    return [
        ["temperature", f"{calibration['temperature']:.3f}"],
        ["expected calibration error before, %", _percent(calibration["calibration_error_before"])],
        ["expected calibration error after, %", _percent(calibration["calibration_error_after"])],
        ["known among images of known classes, %", _percent(calibration["known"])],
        ["classes that were unseen", ", ".join(calibration["unseen_classes"])],
        ["AUROC against these, %", _percent(calibration["unseen_auroc"])],
    ]


def _figure(shown: Sequence[NDArray[np.uint8]], rows: Sequence[Mapping[str, Any]]) -> Any:
    down = -(-len(shown) // _ACROSS)
    figure = new_figure(WIDTH, down * (WIDTH / _ACROSS + 0.35))
    grid = figure.subplots(down, _ACROSS, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for axes, image, row in zip(grid.flat, shown, rows, strict=False):
        axes.set_visible(True)
        show(axes, image)
        axes.set_yticks([])
        name = wrapped(row["label"], 12, 1)
        share = f"{100 * row['probability']:.0f} %"
        axes.set_xlabel(f"{name}\n{share}", fontsize=SMALL, parse_math=False)
    return figure


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
