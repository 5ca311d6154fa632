"""The graph: calibrate the newest state, publish it."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from gppdm_pipeline.pipelines.predict.pipeline import TRAINED, calibrate_node
from gppdm_pipeline.pipelines.publish import nodes

REGISTRY = "publish.registry"
RESULT = "publish.version"


def create_pipeline() -> Pipeline:
    """The same for every benchmark and method."""
    given = [TRAINED, "calibration", REGISTRY, "params:configuration", "params:publish"]
    return Pipeline(
        [
            calibrate_node(),
            node(nodes.publish, [*given, "params:device"], RESULT, name="publish"),
        ]
    )
