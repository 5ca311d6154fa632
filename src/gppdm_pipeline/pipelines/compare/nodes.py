"""From the reports of finished runs to a table, pictures and a page."""

from __future__ import annotations

from typing import Any

from gppdm_pipeline.evaluation import comparison, comparison_figures
from gppdm_pipeline.evaluation.comparison import Comparison
from gppdm_pipeline.evaluation.figure_data import class_rows, cost_rows, curve_rows
from gppdm_pipeline.evaluation.pictures import Picture
from gppdm_pipeline.evaluation.report_page import comparison_page

Reports = list[dict[str, Any]]


def sort_out(from_folder: Reports, from_mlflow: Reports) -> Comparison:
    """What can be compared; of a run that is in both places, the folder's report counts."""
    return comparison.compare([*from_folder, *from_mlflow])


def tabulate(compared: Comparison) -> tuple[str, str]:
    """The table as Markdown and as CSV."""
    return comparison.as_markdown(compared), comparison.as_csv(compared)


def draw(compared: Comparison) -> tuple[Picture, Picture, Picture]:
    """Accuracy over tasks, forgetting against cost, accuracy by class."""
    return (
        Picture(comparison_figures.accuracy_by_method_figure(compared), curve_rows(compared)),
        Picture(comparison_figures.forgetting_against_cost_figure(compared), cost_rows(compared)),
        Picture(comparison_figures.accuracy_by_class_figure(compared), class_rows(compared)),
    )


def write_page(compared: Comparison, **pictures: str) -> str:
    """The comparison as one page.

    Args:
        compared: what can be compared.
        pictures: by name, as data URIs.
    """
    return comparison_page(compared, pictures)
