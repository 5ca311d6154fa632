"""What the nodes do. Each is short and typed, reads its arguments only, and does no I/O.

Images are `LabelledImages`, states `LearnerState`, records plain JSON values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict

from gppdm_pipeline.algorithm.checkpoints import Checkpoints, no_checkpoints
from gppdm_pipeline.algorithm.classifier import predict_logits
from gppdm_pipeline.algorithm.device import Context, Precision, resolve_device
from gppdm_pipeline.algorithm.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.evaluation import figures, metrics
from gppdm_pipeline.images import LabelledImages
from gppdm_pipeline.methods import Method
from gppdm_pipeline.pipelines.measure import measured
from gppdm_pipeline.pipelines.progress import bars_of
from gppdm_pipeline.pipelines.scratch import Scratch
from gppdm_pipeline.streams.scenario import StreamConfig, read_task
from gppdm_pipeline.streams.sources import fingerprint

Record = dict[str, Any]


class Task(BaseModel):
    """Which task a node belongs to.

    Attributes:
        number: from 1.
        total: T.
        precision: that its stages compute in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    total: int
    precision: Precision = "float32"

    def context(self, seed: int, device: str, checkpoints: Checkpoints = no_checkpoints) -> Context:
        """What the stages of this task are given besides data."""
        progress = bars_of(self.number, self.total)
        where = resolve_device(device)
        return Context(seed, self.number, where, progress, checkpoints, self.precision)


def split(
    stream: StreamConfig, seed: int, task: Task
) -> tuple[LabelledImages, LabelledImages, LabelledImages]:
    """The task's images for training, validation and test."""
    images = read_task(stream, seed, task.number)
    return images.train, images.validation, images.test


def synthesise_replay(
    learner: Method,
    seed: int,
    device: str,
    task: Task,
    scratch: Scratch,
    previous_state: LearnerState,
    *earlier: LabelledImages,
) -> tuple[LabelledImages, Record]:
    """Images that stand in for those of earlier tasks, which only some methods may read."""
    checkpoints = scratch.checkpoints(
        task.number,
        "synthesise_replay",
        *(learner, seed, device, task.precision, previous_state, earlier),
    )
    context = task.context(seed, device, checkpoints)
    return measured(lambda: learner.synthesise_replay(previous_state, context, earlier))


def train_classifier(
    learner: Method,
    seed: int,
    device: str,
    task: Task,
    scratch: Scratch,
    state: LearnerState,
    train: LabelledImages,
    validation: LabelledImages,
    replay: LabelledImages,
) -> tuple[LearnerState, Record]:
    """The state with a classifier over all classes so far."""
    checkpoints = scratch.checkpoints(
        task.number,
        "train_classifier",
        *(learner, seed, device, task.precision, state, train, replay),
    )
    context = task.context(seed, device, checkpoints)
    after, log = measured(
        lambda: learner.train_classifier(state, train, validation, replay, context)
    )
    return _learnt(after, task, train), log


def train_generator(
    learner: Method,
    seed: int,
    device: str,
    task: Task,
    scratch: Scratch,
    state: LearnerState,
    train: LabelledImages,
    replay: LabelledImages,
) -> tuple[LearnerState, Record]:
    """The state with a generator of all classes so far."""
    checkpoints = scratch.checkpoints(
        task.number,
        "train_generator",
        *(learner, seed, device, task.precision, state, train, replay),
    )
    context = task.context(seed, device, checkpoints)
    after, log = measured(lambda: learner.train_generator(state, train, replay, context))
    return _learnt(after, task, train), log


def _learnt(state: LearnerState, task: Task, train: LabelledImages) -> LearnerState:
    """The state with the hash of what it has learnt."""
    return replace(state, data=(*state.data[: task.number - 1], fingerprint(train)))


def evaluate(
    seed: int, device: str, task: Task, state: LearnerState, *tests: LabelledImages
) -> tuple[Record, Record]:
    """The state on the test images of every task so far, with no task label given."""
    context = task.context(seed, device)
    test = LabelledImages.concatenate(tests)
    logits, cost = measured(lambda: (predict_logits(state, test.images, context), StageLog()))
    counts = metrics.evaluate_predictions(logits, test.labels, state.classes, state.tasks)
    return {**counts, "test_data": fingerprint(test), "state_bytes": state.bytes()}, cost


def summarise(
    configuration: Record, stream: StreamConfig, **records: Record
) -> tuple[Record, Record]:
    """Everything that is reported of a run: what came out, and the same with what it cost.

    Args:
        configuration: every setting that was used.
        stream: names the classes.
        records: by `<task>.<stage>` what each stage cost, and by `<task>.evaluation` what came out;
            in the order of the tasks.
    """
    evaluations: list[metrics.TaskEvaluation] = []
    seconds: dict[str, dict[str, float]] = {}
    state_bytes: list[int] = []
    peaks: list[int] = []
    for name, record in records.items():
        task, stage = name.split(".")
        if stage == "evaluation":
            evaluations.append(cast(metrics.TaskEvaluation, record))
            state_bytes.append(record["state_bytes"])
        elif record:  # of a task that was learnt elsewhere, costs are not known here
            seconds.setdefault(task, {})[stage] = record["seconds"]
            peaks.append(record["peak_memory_bytes"])
    summary, names = metrics.summarise(evaluations), stream.class_names
    accuracies = {names[int(k)]: a for k, a in summary["per_class_accuracy"].items()}
    results = {
        **summary,
        "per_class_accuracy": accuracies,
        "classes_by_task": [[names[k] for k in task] for task in evaluations[-1]["tasks"]],
        "state_bytes": state_bytes,
        "configuration": configuration,
    }
    costs = {"seconds": seconds, "peak_memory_bytes": max(peaks, default=None)}
    return results, {**results, **costs}


def draw_accuracy_matrix(report: Record) -> Figure:
    """Accuracy by task after each task."""
    return figures.accuracy_matrix_figure(report["accuracy_matrix"])


def draw_accuracy_over_tasks(report: Record) -> Figure:
    """Accuracy of each task, and on average, as tasks are learnt."""
    return figures.accuracy_over_tasks_figure(
        report["accuracy_matrix"], report["average_accuracy_after_task"]
    )


def draw_replay(stream: StreamConfig, replay: LabelledImages, *tests: LabelledImages) -> Figure:
    """The last task's replay beside real test images of the same classes."""
    real = LabelledImages.concatenate(tests)
    return figures.replay_grid_figure(replay, real, stream.class_names)


def draw_prototypes(stream: StreamConfig, state: LearnerState) -> Figure:
    """Every prototype as it started and as it was frozen."""
    assert state.condition is not None
    starts, ends = (
        {label: tensor.numpy() for label, tensor in tensors.items()}
        for tensors in (state.condition.starts, state.condition.prototypes)
    )
    return figures.prototypes_figure(starts, ends, stream.class_names)
