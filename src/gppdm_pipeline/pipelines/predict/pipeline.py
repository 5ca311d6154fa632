"""The graph: calibrate the newest state, classify, write a page."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline, node

from gppdm_pipeline.pipelines.predict import nodes

TRAINED = "trained"
RESULTS = ("predictions", "predictions.summary", "predictions.page")


def calibrate_node() -> Node:
    """Shared by all that answers with probabilities."""
    return node(nodes.calibrate, [TRAINED, "params:device"], "calibration", name="calibrate")


def create_pipeline() -> Pipeline:
    """The same for every benchmark and method."""
    return Pipeline(
        [
            calibrate_node(),
            node(
                nodes.classify,
                [TRAINED, "calibration", "params:predict", "params:device"],
                RESULTS[0],
                name="classify",
            ),
            node(
                nodes.describe,
                [RESULTS[0], TRAINED, "calibration", "params:predict"],
                list(RESULTS[1:]),
                name="describe_predictions",
            ),
        ]
    )
