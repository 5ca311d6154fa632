"""What the nodes do. Each is short and typed, reads its arguments only, and does no I/O.

Images are `LabelledImages`, states `LearnerState`, records plain JSON values.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.algorithm.autoencoder import OwnAutoencoder, fit_autoencoder
from gppdm_pipeline.algorithm.classifier.network import predict_logits
from gppdm_pipeline.algorithm.context import Context, Decode, Precision, resolve_device
from gppdm_pipeline.algorithm.disk.checkpoints import (
    Checkpoints,
    DrawnOnce,
    no_checkpoints,
    not_kept,
)
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.catalog.scratch import Scratch
from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.evaluation import metrics
from gppdm_pipeline.evaluation.accuracies import correct_when_masked
from gppdm_pipeline.evaluation.calibration import expected_calibration_error
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method
from gppdm_pipeline.methods.ranks import on_all_ranks
from gppdm_pipeline.pipelines.measure import measured
from gppdm_pipeline.pipelines.progress import bars_of
from gppdm_pipeline.spaces.own import images_like
from gppdm_pipeline.spaces.space import SpaceConfig
from gppdm_pipeline.streams.conversion import Conversion
from gppdm_pipeline.streams.scenario import StreamConfig, read_task
from gppdm_pipeline.streams.sources import fingerprint

Record = dict[str, Any]


class Task(Config):
    """Which task a node belongs to.

    Attributes:
        number: from 1.
        total: T.
        precision: that its stages compute in.
    """

    number: int
    total: int
    precision: Precision = "float32"

    def context(
        self,
        seed: int,
        device: str,
        checkpoints: Checkpoints = no_checkpoints,
        drawn: DrawnOnce = not_kept,
        decode: Decode | None = None,
    ) -> Context:
        """What the stages of this task are given besides data."""
        progress = bars_of(self.number, self.total)
        where = resolve_device(device)
        context = Context(seed, self.number, where, progress, checkpoints, self.precision, drawn)
        return replace(context, decode=decode)


def given_to_stages(task: str) -> dict[str, str]:
    """The data sets that every stage of a method reads besides data, by argument."""
    named = {name: f"params:{name}" for name in ("learner", "space", "seed", "device")}
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
    *made: Path,
) -> tuple[LabelledImages, ...]:
    """The same images as they are learnt: what the encoder of the space makes of them.

    Args:
        space: in which they are learnt.
        device: where the encoder computes.
        train: uint8.
        validation: likewise.
        test: likewise.
        made: where the run's own autoencoder lies, if it has one: that it is there.
    """
    return tuple(space.encoded([train, validation, test], resolve_device(device)))


def train_autoencoder(
    *,
    space: SpaceConfig,
    seed: int,
    device: str,
    task: Task,
    scratch: Scratch,
    stream: StreamConfig,
    train: LabelledImages,
) -> tuple[Any, Record]:
    """The run's own autoencoder, of the first task's images, or of others without labels."""
    settings, images = OwnAutoencoder(**space.own.model_dump()), train.images
    if space.images is not None:
        source = stream.source.model_dump()
        rule = Conversion(**{key: source[key] for key in Conversion.model_fields if key in source})
        images = images_like(space.images, train.image_shape, rule)
    checkpoints = scratch.checkpoints(
        task.number, "train_autoencoder", settings, seed, resolve_device(device).type, images
    )
    context = task.context(seed, device, checkpoints)
    given = {"images": images, "settings": settings}
    return measured(lambda: on_all_ranks(fit_autoencoder, context, **given))


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
    return measured(lambda: on_all_ranks(learner.synthesise_replay, context, **given))


def train_classifier(
    *,
    learner: Method,
    space: SpaceConfig,
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
    decode = space.decoding(train.picture_shape, resolve_device(device))
    context = task.context(seed, device, checkpoints, scratch.drawn, decode)
    given = {"state": state, "train": train, "validation": validation, "replay": replay}
    after, log = measured(lambda: on_all_ranks(learner.train_classifier, context, **given))
    return _learnt(after, task, space, train), log


def train_generator(
    *,
    learner: Method,
    space: SpaceConfig,
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
    decode = space.decoding(train.picture_shape, resolve_device(device))
    context = task.context(seed, device, checkpoints, scratch.drawn, decode)
    given = {"state": state, "train": train, "replay": replay}
    after, log = measured(lambda: on_all_ranks(learner.train_generator, context, **given))
    return _learnt(after, task, space, train), log


def _learnt(
    state: LearnerState, task: Task, space: SpaceConfig, train: LabelledImages
) -> LearnerState:
    """The state with the hash of what it has learnt, and what it tells of what encoded that."""
    data = (*state.data[: task.number - 1], fingerprint(train))
    encoder = space.resolved().sha256 if space.trains else None
    shape = train.picture_shape or state.picture_shape
    return replace(state, data=data, picture_shape=shape, encoder=encoder)


def evaluate(
    space: SpaceConfig,
    seed: int,
    device: str,
    task: Task,
    state: LearnerState,
    *tests: LabelledImages,
) -> tuple[Record, Record]:
    """The state on the test images of every task so far, with no task label given."""
    decode = space.decoding(state.picture_shape, resolve_device(device))
    context = task.context(seed, device, decode=decode)
    test = LabelledImages.concatenate(tests)

    def stage() -> tuple[NDArray[np.float32], StageLog]:
        return on_all_ranks(predict_logits, context, state=state, images=test.images), StageLog()

    logits, cost = measured(stage)
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
