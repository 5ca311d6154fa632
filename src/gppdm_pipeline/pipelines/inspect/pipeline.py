"""The graph: look at the stream, try the method for a few steps, write a page."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from gppdm_pipeline.pipelines.inspect import nodes

RESULTS = ("inspection.images", "inspection.json", "inspection.markdown")


def create_pipeline() -> Pipeline:
    """The same for every stream and method."""
    stream = ["params:stream", "params:seed"]
    found, costs = "inspection.found", "inspection.costs"
    return Pipeline(
        [
            node(nodes.look, stream, found, name="look"),
            node(nodes.estimate, ["params:learner", "params:device", *stream], costs, name="try"),
            node(nodes.draw, found, RESULTS[0], name="draw_images"),
            node(
                nodes.describe,
                ["params:configuration", found, costs],
                list(RESULTS[1:]),
                name="describe",
            ),
        ]
    )
