"""The graph: reports from two places, sorted out, then a table and pictures."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from gppdm_pipeline.pipelines.compare import nodes

FROM_FOLDER = "comparison.from_folder"
FROM_MLFLOW = "comparison.from_mlflow"
RESULTS = (
    "comparison.markdown",
    "comparison.csv",
    "comparison.average_accuracy",
    "comparison.forgetting_against_cost",
    "comparison.accuracy_by_class",
    "comparison.page",
)


def create_pipeline() -> Pipeline:
    """The same for every benchmark."""
    pictures = {name.removeprefix("comparison."): name for name in RESULTS[2:-1]}
    sources = [FROM_FOLDER, FROM_MLFLOW]
    return Pipeline(
        [
            node(nodes.sort_out, sources, "comparison.compared", name="sort_out"),
            node(nodes.tabulate, "comparison.compared", list(RESULTS[:2]), name="tabulate"),
            node(nodes.draw, "comparison.compared", list(pictures.values()), name="draw"),
            node(
                nodes.write_page,
                {"compared": "comparison.compared", **pictures},
                RESULTS[-1],
                name="write_page",
            ),
        ]
    )
