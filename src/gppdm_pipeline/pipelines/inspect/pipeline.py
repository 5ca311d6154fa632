"""The graph: look at the stream, try the method for a few steps, write a page."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from gppdm_pipeline.pipelines.inspect import nodes

RESULTS = ("inspection.images", "inspection.json", "inspection.markdown")


def create_pipeline(shows_real: bool = True) -> Pipeline:
    """The same for every stream and method.

    Args:
        shows_real: whether a picture of real images is made.
    """
    stream = ["params:stream", "params:seed"]
    found, costs = "inspection.found", "inspection.costs"
    draw = node(nodes.draw, found, RESULTS[0], name="draw_images")
    describe = nodes.describe if shows_real else nodes.describe_alone
    return Pipeline(
        [
            *([draw] if shows_real else []),
            node(nodes.look, stream, found, name="look"),
            node(
                nodes.estimate,
                ["params:learner", "params:device", "params:space", *stream],
                costs,
                name="try",
            ),
            node(
                describe,
                ["params:configuration", "params:budget", "params:space_choice", found, costs],
                list(RESULTS[1:]),
                name="describe",
            ),
        ]
    )
