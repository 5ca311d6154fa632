"""The graph: look through the project's files, look into each task's state, write a page."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from gppdm_pipeline.pipelines.audit import nodes
from gppdm_pipeline.pipelines.continual.privacy import given_to_privacy, looked_into

RESULTS = ("audit.json", "audit.page")


def create_pipeline(tasks: list[str]) -> Pipeline:
    """The same for every method.

    Args:
        tasks: the namespaces of all tasks.
    """
    there = {name: f"{name}_if_there" for name in ("train", "test")}
    looks = [
        node(
            looked_into,
            given_to_privacy(task, state="state", record="privacy_if_there", **there),
            [f"audit.{task}_record", f"audit.{task}_pairs"],
            name=f"look_into_{task}",
        )
        for task in tasks
    ]
    records = [f"audit.{task}_record" for task in tasks]
    pairs = [f"audit.{task}_pairs" for task in tasks]
    last = f"{tasks[-1]}.state"
    return Pipeline(
        [
            *looks,
            node(nodes.search, ["params:stream", "audit.project"], "audit.found", name="search"),
            node(
                nodes.summarise,
                ["params:configuration", "params:stream", "audit.found", last, *records],
                RESULTS[0],
                name="summarise_audit",
            ),
            node(
                nodes.write_page,
                ["params:stream", RESULTS[0], *pairs],
                RESULTS[1],
                name="write_audit_page",
            ),
        ]
    )
