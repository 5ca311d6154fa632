"""What the nodes do. Each is short and typed, reads its arguments only, and does no I/O.

Images are `LabelledImages`, states `LearnerState`, records plain JSON values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from gppdm_pipeline.algorithm.classifier.network import predict_logits
from gppdm_pipeline.algorithm.context import Context, Precision, resolve_device
from gppdm_pipeline.algorithm.disk.checkpoints import (
    Checkpoints,
    DrawnOnce,
    no_checkpoints,
    not_kept,
)
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.catalog.scratch import Scratch
from gppdm_pipeline.evaluation import metrics
from gppdm_pipeline.evaluation.accuracies import correct_when_masked
from gppdm_pipeline.evaluation.calibration import expected_calibration_error
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method
from gppdm_pipeline.methods.ranks import on_all_ranks
from gppdm_pipeline.pipelines.measure import measured
from gppdm_pipeline.pipelines.progress import bars_of
from gppdm_pipeline.spaces.space import SpaceConfig
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

    def context(
        self,
        seed: int,
        device: str,
        checkpoints: Checkpoints = no_checkpoints,
        drawn: DrawnOnce = not_kept,
    ) -> Context:
        """What the stages of this task are given besides data."""
        progress = bars_of(self.number, self.total)
        where = resolve_device(device)
        return Context(seed, self.number, where, progress, checkpoints, self.precision, drawn)


def given_to_stages(task: str) -> dict[str, str]:
    """The data sets that every stage of a method reads besides data, by argument."""
    named = {name: f"params:{name}" for name in ("learner", "seed", "device")}
    return {**named, "task": f"params:{task}.task", "scratch": "scratch"}


def resolve_settings(learner: Method) -> Record:
    """The method with all its settings, those that nobody wrote among them."""
    return learner.model_dump(mode="json")


def split(
    stream: StreamConfig, seed: int, task: Task
) -> tuple[LabelledImages, LabelledImages, LabelledImages]:
    """The task's images for training, validation and test."""
    images = read_task(stream, seed, task.number)
    return images.train, images.validation, images.test


def encode(
    space: SpaceConfig,
    device: str,
    train: LabelledImages,
    validation: LabelledImages,
    test: LabelledImages,
) -> tuple[LabelledImages, ...]:
    """The same images as they are learnt: what the encoder of the space makes of them."""
    return tuple(space.encoded([train, validation, test], resolve_device(device)))


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
        *(learner, seed, resolve_device(device).type, task.precision, previous_state, earlier),
    )
    context = task.context(seed, device, checkpoints, scratch.drawn)
    given = {"state": previous_state, "earlier": earlier}
    return measured(lambda: on_all_ranks(learner, "synthesise_replay", context, **given))


def train_classifier(
    *,
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
        *(learner, seed, resolve_device(device).type, task.precision, state, train, replay),
    )
    context = task.context(seed, device, checkpoints, scratch.drawn)
    given = {"state": state, "train": train, "validation": validation, "replay": replay}
    after, log = measured(lambda: on_all_ranks(learner, "train_classifier", context, **given))
    return _learnt(after, task, train), log


def train_generator(
    *,
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
        *(learner, seed, resolve_device(device).type, task.precision, state, train, replay),
    )
    context = task.context(seed, device, checkpoints, scratch.drawn)
    given = {"state": state, "train": train, "replay": replay}
    after, log = measured(lambda: on_all_ranks(learner, "train_generator", context, **given))
    return _learnt(after, task, train), log


def _learnt(state: LearnerState, task: Task, train: LabelledImages) -> LearnerState:
    """The state with the hash of what it has learnt, and the shape of what that was made of."""
    data = (*state.data[: task.number - 1], fingerprint(train))
    return replace(state, data=data, picture_shape=train.picture_shape or state.picture_shape)


def evaluate(
    seed: int, device: str, task: Task, state: LearnerState, *tests: LabelledImages
) -> tuple[Record, Record]:
    """The state on the test images of every task so far, with no task label given."""
    context = task.context(seed, device)
    test = LabelledImages.concatenate(tests)
    logits, cost = measured(lambda: (predict_logits(state, test.images, context), StageLog()))
    counts = metrics.evaluate_predictions(logits, test.labels, state.classes, state.tasks)
    calibration_error = expected_calibration_error(logits, test.labels, state.classes)
    more = {
        "per_class_task_masked": correct_when_masked(
            logits, test.labels, state.classes, state.tasks
        ),
        "calibration_error": round(calibration_error, 6),
        "test_data": fingerprint(test),
        "state_bytes": state.bytes(),
    }
    return {**counts, **more}, cost
