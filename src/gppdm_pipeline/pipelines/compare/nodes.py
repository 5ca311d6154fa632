"""From the reports of finished runs to a table and pictures."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from gppdm_pipeline.evaluation import comparison, comparison_figures
from gppdm_pipeline.evaluation.comparison import Comparison

Reports = list[dict[str, Any]]


def sort_out(from_folder: Reports, from_mlflow: Reports) -> Comparison:
    """What can be compared; of a run that is in both places, the folder's report counts."""
    return comparison.compare([*from_folder, *from_mlflow])


def tabulate(compared: Comparison) -> tuple[str, str]:
    """The table as Markdown and as CSV."""
    return comparison.as_markdown(compared), comparison.as_csv(compared)


def draw(compared: Comparison) -> tuple[Figure, Figure, Figure]:
    """Accuracy over tasks, forgetting against cost, accuracy by class."""
    return (
        comparison_figures.accuracy_by_method_figure(compared),
        comparison_figures.forgetting_against_cost_figure(compared),
        comparison_figures.accuracy_by_class_figure(compared),
    )
