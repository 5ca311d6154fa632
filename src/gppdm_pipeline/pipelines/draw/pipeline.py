"""The graph: draw, and arrange what was drawn."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from gppdm_pipeline.pipelines.draw import nodes
from gppdm_pipeline.pipelines.predict.pipeline import TRAINED

RESULTS = ("drawn", "drawn.grid")


def create_pipeline() -> Pipeline:
    """The same for every benchmark and method."""
    given = [TRAINED, "params:draw", "params:seed", "params:device"]
    return Pipeline(
        [
            node(nodes.draw, given, RESULTS[0], name="draw_classes"),
            node(nodes.arrange, RESULTS[0], RESULTS[1], name="arrange"),
        ]
    )
