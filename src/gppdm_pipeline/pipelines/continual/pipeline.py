"""The graph: a copy of one template per task, each in a namespace of its own, then the report.

Every node names what it reads. Earlier tasks' training images go to `synthesise_replay` alone, and
only for a method that says that it reads them; earlier test images go to evaluation and report.
"""

from __future__ import annotations

from collections.abc import Callable

from kedro.pipeline import Node, Pipeline, node

from gppdm_pipeline.evaluation.replay_quality import EvaluationConfig
from gppdm_pipeline.methods import Method
from gppdm_pipeline.pipelines.continual import nodes
from gppdm_pipeline.pipelines.continual.assessment import assessment_nodes
from gppdm_pipeline.pipelines.continual.privacy import privacy_node
from gppdm_pipeline.pipelines.continual.report_graph import AUTOENCODER, Shown, report_nodes
from gppdm_pipeline.pipelines.continual.showing import measure_reconstruction
from gppdm_pipeline.spaces.space import SpaceConfig


def task_name(number: int) -> str:
    """The namespace of a task, counted from 1; task_00 is before the first."""
    return f"task_{number:02d}"


def create_pipeline(
    learner: Method,
    number_of_tasks: int,
    evaluation: EvaluationConfig | None = None,
    *,
    releases: bool = False,
    shows_real: bool = True,
    space: SpaceConfig = SpaceConfig(),  # noqa: B008 (immutable)
) -> Pipeline:
    """The whole graph for one method and stream.

    Args:
        learner: decides the order of the trainings, and who reads what.
        number_of_tasks: T, at least 1.
        evaluation: what is measured and drawn; by default what is by default.
        releases: whether training images go after their task, so that what a state tells of them
            has to be measured before.
        shows_real: whether pictures may have real images in them.
        space: in which the stream is learnt; it may have no pictures.
    """
    evaluation = evaluation or EvaluationConfig()
    tasks = [task_name(number) for number in range(number_of_tasks + 1)]
    copies = [_settings()]
    ends = range(2, number_of_tasks + 2)
    copies += [_task(learner, tasks[:end], space) for end in ends]
    told = releases or evaluation.privacy
    if told:  # before images go, if they do
        tags = {task: task if releases else "report" for task in tasks[1:]}
        copies += [_named([privacy_node(task).tag(tag)], task) for task, tag in tags.items()]
    assessed = learner.has_generator and evaluation.replay and space.shows
    if assessed:
        copies.append(_tagged(assessment_nodes(tasks[1:], _own(space)), "assessment"))
    shown = Shown(assessed, evaluation.embedding, shows_real, space, told)
    report = report_nodes(learner, tasks[1:], shown)
    return Pipeline([*copies, _tagged(report, "report")])


def _settings() -> Pipeline:
    """A file of what learning depends on, so that DVC sees what changes it."""
    resolved = node(nodes.resolve_settings, "params:learner", "settings", name="resolve_settings")
    return _named([resolved.tag("settings")], "settings")


def _tagged(template: list[Node], namespace: str) -> Pipeline:
    """In the stage of the report, whose pictures need all of it."""
    return _named([each.tag("report") for each in template], namespace)


def _task(learner: Method, tasks: list[str], space: SpaceConfig) -> Pipeline:
    """The template for the last of `tasks`, after the others."""
    *_, before, task = tasks
    earlier = tasks[1:-1]
    trains = _each(earlier, "train") if learner.reads_earlier_images else []
    context = ["params:seed", "params:device", f"params:{task}.task"]
    template = [
        *_data(task, space),
        node(
            nodes.synthesise_replay,
            ["params:learner", *context, "scratch", f"{before}.state", *trains],
            [f"{task}.replay", f"{task}.synthesise_replay_log"],
            name="synthesise_replay",
        ),
        *_trainings(learner, before, task),
        node(
            nodes.evaluate,
            ["params:space", *context, f"{task}.state", *_each([*earlier, task], "test")],
            [f"{task}.evaluation", f"{task}.evaluate_log"],
            name="evaluate",
        ),
    ]
    return _named([each if "data" in each.tags else each.tag(task) for each in template], task)


def _data(task: str, space: SpaceConfig) -> list[Node]:
    """The task's images, as they are learnt."""
    learnt = [f"{task}.{name}" for name in ("train", "validation", "test")]
    pixels = [f"{name}_pixels" for name in learnt] if space.encodes else learnt
    split = ["params:stream", "params:seed", f"params:{task}.task"]
    found = [node(nodes.split, split, pixels, name="split", tags="data")]
    given = ["params:space", "params:device"]
    if space.trains and task == task_name(1):
        found.append(_training_of_autoencoder(task, pixels[0]))
    if space.encodes:
        inputs = [*given, *pixels, *_own(space)]
        found.append(node(nodes.encode, inputs, learnt, name="encode", tags="data"))
    if space.decodes:
        tests, told = [*given, pixels[-1], learnt[-1]], f"{task}.reconstruction"
        found.append(node(measure_reconstruction, tests, told, name="decode", tags="data"))
    return found


def _own(space: SpaceConfig) -> list[str]:
    """The run's own autoencoder, if it trains one."""
    return [AUTOENCODER] if space.trains else []


def _training_of_autoencoder(task: str, train: str) -> Node:
    """Of the run's own one, on the first task's images."""
    named = {name: f"params:{name}" for name in ("space", "seed", "device", "stream")}
    return node(
        nodes.train_autoencoder,
        {**named, "task": f"params:{task}.task", "scratch": "scratch", "train": train},
        [AUTOENCODER, f"{task}.train_autoencoder_log"],
        name="train_autoencoder",
        tags="data",
    )


def _trainings(learner: Method, before: str, task: str) -> list[Node]:
    """Classifier and generator in the method's order, a state between the two."""
    states = [f"{before}.state", f"{task}.midway_state", f"{task}.state"]
    stages: list[tuple[Callable[..., object], list[str]]] = [
        (nodes.train_classifier, ["train", "validation", "replay"]),
        (nodes.train_generator, ["train", "replay"]),
    ]
    if learner.generator_first:
        stages.reverse()
    return [
        node(
            stage,
            {
                **nodes.given_to_stages(task),
                "state": states[i],
                **{name: f"{task}.{name}" for name in data},
            },
            [states[i + 1], f"{task}.{stage.__name__}_log"],
            name=stage.__name__,
        )
        for i, (stage, data) in enumerate(stages)
    ]


def _each(tasks: list[str], dataset: str) -> list[str]:
    return [f"{task}.{dataset}" for task in tasks]


def _named(template: list[Node], namespace: str) -> Pipeline:
    return Pipeline(template, namespace=namespace, prefix_datasets_with_namespace=False)
