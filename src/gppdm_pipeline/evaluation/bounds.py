"""Which finished runs bound a run: those of joint and finetune that learnt the same stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gppdm_pipeline.evaluation.comparison import SHARED

BOUNDS = ("joint", "finetune")


def bounds_of(
    report: Mapping[str, Any], others: Iterable[Mapping[str, Any]]
) -> dict[str, list[list[float]]]:
    """Average accuracy after each task of the comparable runs of each bound.

    Args:
        report: of the run.
        others: reports of finished runs of its benchmark.
    """
    mine = report["configuration"]
    found: dict[str, list[list[float]]] = {}
    for other in others:
        theirs = other["configuration"]
        same = all(mine.get(key) == theirs.get(key) for key in SHARED)
        if theirs["method"] in BOUNDS and same:
            found.setdefault(theirs["method"], []).append(other["average_accuracy_after_task"])
    return found
