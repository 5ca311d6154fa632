"""The graph: draw, and arrange what was drawn."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from gppdm_pipeline.pipelines.draw import nodes
from gppdm_pipeline.pipelines.predict.pipeline import TRAINED

RESULTS = ("drawn", "drawn.grid")
INTERPOLATION = "drawn.interpolation"


def create_pipeline(interpolates: bool = False) -> Pipeline:
    """The same for every benchmark and method.

    Args:
        interpolates: whether prototypes are moved, too.
    """
    given = [TRAINED, "params:draw", "params:seed", "params:device"]
    nodes_ = [
        node(nodes.draw, given, RESULTS[0], name="draw_classes"),
        node(nodes.arrange, RESULTS[0], RESULTS[1], name="arrange"),
    ]
    if interpolates:
        nodes_.append(node(nodes.interpolate, given, INTERPOLATION, name="interpolate"))
    return Pipeline(nodes_)
