"""From the stream and the method to a picture and a page."""

from __future__ import annotations

from typing import Any

from gppdm_pipeline.algorithm.context import resolve_device
from gppdm_pipeline.evaluation.inspection_figures import stream_figure
from gppdm_pipeline.evaluation.pictures import Picture
from gppdm_pipeline.methods import Method
from gppdm_pipeline.pipelines.inspect.estimate import estimate_costs
from gppdm_pipeline.pipelines.inspect.looking import Inspection, inspect_stream
from gppdm_pipeline.pipelines.inspect.page import as_markdown
from gppdm_pipeline.spaces.space import SpaceConfig
from gppdm_pipeline.streams.scenario import StreamConfig

Record = dict[str, Any]


def look(stream: StreamConfig, seed: int) -> Inspection:
    """What the stream brings."""
    return inspect_stream(stream, seed)


def estimate(
    learner: Method, device: str, space: SpaceConfig, stream: StreamConfig, seed: int
) -> Record:
    """What learning it will take."""
    return estimate_costs(learner, stream, seed, resolve_device(device), space)


def draw(found: Inspection) -> Picture:
    """Images of every task and class; its data are how many there are of each."""
    tasks = found.record["tasks"]
    rows = [{"task": task["task"], **each} for task in tasks for each in task["classes"]]
    return Picture(stream_figure(found.samples), rows)


def describe(
    configuration: Record, budget: Record, space_choice: str, found: Inspection, costs: Record
) -> tuple[Record, str]:
    """All of it as JSON, and as a page in Markdown beside the picture."""
    record = _record(configuration, budget, space_choice, found, costs)
    return record, as_markdown(record, picture="images.png")


def describe_alone(
    configuration: Record, budget: Record, space_choice: str, found: Inspection, costs: Record
) -> tuple[Record, str]:
    """As `describe`, where no picture is made."""
    record = _record(configuration, budget, space_choice, found, costs)
    return record, as_markdown(record)


def _record(
    configuration: Record, budget: Record, space_choice: str, found: Inspection, costs: Record
) -> Record:
    names = {key: configuration[key] for key in ("benchmark", "method", "seed")}
    space = {key: configuration[key] for key in ("space",) if key in configuration}
    told = {"space_choice": space_choice} if space_choice else {}
    return {**names, **space, **told, **found.record, "budget": budget, "estimate": costs}
