"""The data of pictures, as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.evaluation.comparison import Comparison
from gppdm_pipeline.evaluation.metrics import Matrix
from gppdm_pipeline.evaluation.pictures import Row
from gppdm_pipeline.images.labelled import LabelledImages


def matrix_rows(matrix: Matrix, average: Sequence[float] = ()) -> list[Row]:
    """Accuracies by task after each task; then the averages, whose task is `all`."""
    rows: list[Row] = [
        {"after_task": t, "tested_on_task": i, "accuracy": value}
        for t, row in enumerate(matrix, start=1)
        for i, value in enumerate(row, start=1)
        if value is not None
    ]
    rows += [
        {"after_task": t, "tested_on_task": "all", "accuracy": value}
        for t, value in enumerate(average, start=1)
    ]
    return rows


def brightness_rows(
    replay: LabelledImages, real: LabelledImages, class_names: Sequence[str]
) -> list[Row]:
    """How many images of each class there are, and the mean and spread of their pixels, 0..255."""
    rows: list[Row] = []
    for label in sorted({*replay.classes, *real.classes}):
        for origin, data in (("replayed", replay), ("real", real)):
            pixels = data.of_classes([label]).images.astype(np.float64)
            rows.append(
                {
                    "class": class_names[label],
                    "origin": origin,
                    "images": len(pixels),
                    "mean": round(pixels.mean(), 3) if len(pixels) else None,
                    "spread": round(pixels.std(), 3) if len(pixels) else None,
                }
            )
    return rows


def prototype_rows(
    starts: Mapping[int, NDArray[np.floating[Any]]],
    ends: Mapping[int, NDArray[np.floating[Any]]],
    class_names: Sequence[str],
) -> list[Row]:
    """How far each prototype moved: the root of the mean square over its pixels, in [-1, 1]."""
    return [
        {
            "class": class_names[label],
            "moved": f"{np.sqrt(np.mean((end - starts[label]) ** 2)):.4g}",
            "least": f"{end.min():.4g}",
            "most": f"{end.max():.4g}",
        }
        for label, end in ends.items()
    ]


def curve_rows(comparison: Comparison) -> list[Row]:
    """Average accuracy of every run after each task."""
    return [
        {"method": group.name, "seed": seed, "after_task": t, "average_accuracy": value}
        for group in comparison.groups
        for seed, report in zip(group.seeds, group.reports, strict=True)
        for t, value in enumerate(report["average_accuracy_after_task"], start=1)
    ]


def cost_rows(comparison: Comparison) -> list[Row]:
    """Seconds and forgetting of every run."""
    return [
        {
            "method": group.name,
            "seed": seed,
            "seconds": sum(sum(stages.values()) for stages in report["seconds"].values()),
            "forgetting": report["forgetting"],
        }
        for group in comparison.groups
        for seed, report in zip(group.seeds, group.reports, strict=True)
    ]


def class_rows(comparison: Comparison) -> list[Row]:
    """Final accuracy of every run by class."""
    return [
        {"method": group.name, "seed": seed, "class": label, "accuracy": value}
        for group in comparison.groups
        for seed, report in zip(group.seeds, group.reports, strict=True)
        for label, value in report["per_class_accuracy"].items()
    ]
