"""The report's part of the graph: numbers, then pictures, then the page that shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kedro.pipeline import Node, node

from gppdm_pipeline.evaluation.pictures import Picture
from gppdm_pipeline.methods import Method
from gppdm_pipeline.pipelines.compare.pipeline import FROM_FOLDER
from gppdm_pipeline.pipelines.continual import reporting
from gppdm_pipeline.pipelines.continual.assessment import (
    LAST_REPLAY,
    NAMESPACE,
    ORACLE,
    REFERENCE,
    STAGES,
    replay_after,
)
from gppdm_pipeline.spaces.space import SpaceConfig

TASK_STAGES = ("synthesise_replay", "train_classifier", "train_generator", "evaluate")
REPORT = "report.metrics"
AUTOENCODER = "autoencoder"
"""The run's own."""
_STREAM = "params:stream"
_SHOWING = ("params:space", "params:device", _STREAM)


@dataclass(frozen=True)
class Shown:
    """What a report shows besides accuracies.

    Attributes:
        assessed: whether the quality of replay was measured.
        embedded: whether a t-SNE is drawn, if it was.
        real: whether pictures may have real images in them.
        space: in which the stream is learnt; it says whether there are pictures.
        told: whether it was measured what states tell of training images.
    """

    assessed: bool
    embedded: bool
    real: bool
    space: SpaceConfig
    told: bool = False


def report_nodes(learner: Method, tasks: list[str], shown: Shown) -> list[Node]:
    """The template for all tasks.

    Args:
        learner: what its states carry is drawn.
        tasks: all of them.
        shown: what there is to show.
    """
    records, logs = _records(tasks, shown)
    drawings = [
        _drawing(reporting.draw_accuracy_over_tasks, [REPORT]),
        _drawing(reporting.draw_accuracy_matrix, [REPORT]),
        _drawing(reporting.draw_memory, [_STREAM, REPORT]),
        *(_of_replay(learner, tasks, shown) if shown.space.shows else []),
        _drawing(reporting.draw_confusion, [_STREAM, REPORT]),
        _drawing(reporting.draw_bounds, [REPORT, FROM_FOLDER]),
        *_of_learning(learner, tasks, logs, shown),
        _drawing(reporting.draw_seconds, [REPORT]),
    ]
    pictures = {
        drawing.outputs[0].removeprefix("report."): drawing.outputs[0] for drawing in drawings
    }
    return [
        node(
            reporting.summarise,
            {"configuration": "params:configuration", "stream": _STREAM, **records, **logs},
            ["report.results", REPORT],
            name="summarise",
        ),
        *drawings,
        node(
            reporting.write_page,
            {"stream": _STREAM, "report": REPORT, **pictures},
            "report.page",
            name="write_page",
        ),
    ]


def _records(tasks: list[str], shown: Shown) -> tuple[dict[str, str], dict[str, str]]:
    """What came out, and what the stages told, by `<task>.<stage>`: in the order of the tasks."""
    assessed = shown.assessed
    made = ["evaluation", *(["replay_quality"] if assessed else [])]
    made += ["reconstruction"] if shown.space.decodes else []
    made += ["privacy"] if shown.told else []
    stages = [*TASK_STAGES, *(["assess_replay"] if assessed else [])]
    records = {f"{task}.{name}": f"{task}.{name}" for task in tasks for name in made}
    logs = {f"{task}.{stage}": f"{task}.{stage}_log" for task in tasks for stage in stages}
    if shown.space.trains:
        logs[f"{tasks[0]}.train_autoencoder"] = f"{tasks[0]}.train_autoencoder_log"
    if assessed:
        records[REFERENCE] = REFERENCE
        logs |= {f"{NAMESPACE}.{stage}": f"{NAMESPACE}.{stage}_log" for stage in STAGES}
    return records, logs


def _of_replay(learner: Method, tasks: list[str], shown: Shown) -> list[Node]:
    if not learner.has_generator:
        return []
    tests = [f"{task}.test" for task in tasks]
    real = tests if shown.real else []
    alone = "" if shown.real else "_alone"
    drawings = []
    if shown.assessed:
        total = f"params:{tasks[-1]}.task"
        replays = [*replay_after(tasks).values()]
        drawings += [
            _drawing(reporting.draw_drift, [*_SHOWING, REPORT, total, *replays, *real], alone),
            _drawing(reporting.draw_replay_quality, [_STREAM, REPORT]),
        ]
    replay = [*_SHOWING, f"{tasks[-1]}.replay", *(real[:-1] or real)]
    if shown.real or len(tasks) > 1:  # the first task replays nothing
        drawings.append(_drawing(reporting.draw_replay, replay, alone))
    if shown.assessed and shown.told and shown.real:
        trains = [f"{task}.train" for task in tasks]
        drawings.append(_drawing(reporting.draw_nearest_pairs, [_STREAM, LAST_REPLAY, *trains]))
    if shown.assessed and shown.embedded:
        settings = ("evaluation", "space", "seed", "device", "stream")
        inputs = {name: f"params:{name}" for name in settings}
        inputs |= {"oracle": ORACLE, "replay": LAST_REPLAY, **{test: test for test in tests}}
        drawings.append(_drawing(reporting.draw_embedding, inputs))
    return drawings


def _of_learning(
    learner: Method, tasks: list[str], logs: dict[str, str], shown: Shown
) -> list[Node]:
    trained = {name: log for name, log in logs.items() if ".train_" in name}
    trained = {name: log for name, log in trained.items() if not name.startswith(NAMESPACE)}
    drawings = [_drawing(reporting.draw_losses, trained)]
    if learner.has_prototypes and shown.space.shows:
        state = f"{tasks[-1]}.state"
        drawings.append(_drawing(reporting.draw_prototypes, [*_SHOWING, state]))
    if learner.measures_keys_and_values:
        drawings.append(_drawing(reporting.draw_projection, trained))
    return drawings


def _drawing(
    function: Callable[..., Picture], inputs: list[str] | dict[str, str], variant: str = ""
) -> Node:
    name = function.__name__
    return node(function, inputs, f"report.{name.removeprefix('draw_')}{variant}", name=name)
