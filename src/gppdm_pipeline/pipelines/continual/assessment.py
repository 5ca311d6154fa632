"""How good replay is, in nodes of their own: they read states and replay, no learner reads them.

What is replayed after task t is what task t + 1 has learnt from. After the last task nothing
follows, and a few images are drawn for the purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from kedro.pipeline import Node, node
from numpy.typing import NDArray

from gppdm_pipeline.algorithm.classifier.network import ClassifierConfig
from gppdm_pipeline.algorithm.context import Context, resolve_device
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.catalog.oracle import OracleFolder, TrainedOracle, trained_oracle
from gppdm_pipeline.catalog.scratch import Scratch
from gppdm_pipeline.evaluation.distances import Features
from gppdm_pipeline.evaluation.extractors import build_extractors
from gppdm_pipeline.evaluation.replay_quality import (
    EvaluationConfig,
    Extractor,
    Quality,
    measure,
)
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method
from gppdm_pipeline.methods.ranks import on_all_ranks
from gppdm_pipeline.pipelines.continual.nodes import Record, Task, given_to_stages
from gppdm_pipeline.pipelines.continual.showing import pictures_of, real_pictures
from gppdm_pipeline.pipelines.measure import measured
from gppdm_pipeline.spaces.space import SpaceConfig
from gppdm_pipeline.streams.scenario import StreamConfig

NAMESPACE = "assessment"
LAST_REPLAY = f"{NAMESPACE}.replay"
REFERENCE = f"{NAMESPACE}.reference"
ORACLE = f"{NAMESPACE}.oracle"
STAGES = ("train_oracle", "measure_reference", "draw_last_replay")
"""Those that come once; their logs are `assessment.<stage>_log`."""


def train_oracle(
    learner: Method, space: SpaceConfig, device: str, stream: StreamConfig, oracles: OracleFolder
) -> tuple[TrainedOracle, Record]:
    """The oracle classifier of the benchmark, from the cache if it is there.

    The run's own classifier; where that is of latents, the small network for as many steps.
    """
    config = learner.classifier
    if space.decodes:
        config = ClassifierConfig(steps=config.steps, batch_size=config.batch_size)

    def stage() -> tuple[TrainedOracle, StageLog]:
        train = stream.read("train")
        where = resolve_device(device)
        return trained_oracle(train, config, where, oracles.path), StageLog()

    return measured(stage)


def measure_reference(
    evaluation: EvaluationConfig,
    space: SpaceConfig,
    device: str,
    stream: StreamConfig,
    oracle: TrainedOracle,
    *made: Path,
) -> tuple[Record, Record]:
    """What real training images reach: nothing generated can be expected to be nearer.

    Of an autoencoder, they are what it shows of them.

    Args:
        evaluation: what is measured.
        space: in which images are learnt.
        device: where it is computed.
        stream: of the images.
        oracle: judges them.
        made: where the run's own autoencoder lies, if it has one: that it is there.
    """

    def stage() -> tuple[Record, StageLog]:
        train = stream.read("train").first_of_each(evaluation.images_per_class)
        train = space.reconstructed(train, resolve_device(device))
        test = stream.read("test")
        quality = _quality(evaluation, device, oracle, train, test)
        accuracy = float((oracle.predict(test.images) == test.labels).mean())
        return {**quality, "oracle_test_accuracy": accuracy}, StageLog()

    return measured(stage)


def draw_last_replay(
    *,
    learner: Method,
    space: SpaceConfig,
    seed: int,
    device: str,
    task: Task,
    scratch: Scratch,
    evaluation: EvaluationConfig,
    state: LearnerState,
) -> tuple[LabelledImages, Record]:
    """A few images of every class, as a task after the last one would replay them."""
    few = learner.replaying(evaluation.images_per_class)
    decode = space.decoding(state.picture_shape, resolve_device(device))
    context = task.context(seed, device, drawn=scratch.drawn, decode=decode)
    context = replace(context, task=task.number + 1)
    return measured(lambda: on_all_ranks(few.synthesise_replay, context, state=state))


def assess_replay(
    evaluation: EvaluationConfig,
    space: SpaceConfig,
    device: str,
    stream: StreamConfig,
    oracle: TrainedOracle,
    replay: LabelledImages,
    *tests: LabelledImages,
) -> tuple[Record, Record]:
    """The quality of what is replayed after a task, class by class."""

    def stage() -> tuple[Record, StageLog]:
        images = replay.first_of_each(evaluation.images_per_class)
        images = pictures_of(space, stream, device, images, evaluation.images_per_class)
        real = real_pictures(space, stream, tests)
        assert real is not None
        return cast(Record, _quality(evaluation, device, oracle, images, real)), StageLog()

    return measured(stage)


def _quality(
    evaluation: EvaluationConfig,
    device: str,
    oracle: TrainedOracle,
    images: LabelledImages,
    real: LabelledImages,
) -> Quality:
    context = Context(0, 1, resolve_device(device))  # nothing in it is random

    def other(name: str) -> Extractor:
        given = {"evaluation": evaluation, "name": name}
        return lambda images: on_all_ranks(points_of, context, images=images, **given)

    extractors: dict[str, Extractor] = {
        name: oracle if name == "oracle" else other(name) for name in evaluation.extractors
    }
    return measure(images, real, extractors, oracle, evaluation)


def points_of(
    images: NDArray[np.uint8], evaluation: EvaluationConfig, name: str, context: Context
) -> Features:
    """What an extractor other than the oracle makes of images, of which each rank gives it a part.

    Args:
        images: uint8 [n, h, w, c].
        evaluation: asks for it.
        name: its own.
        context: its device and its team are used.

    Returns:
        [n, d].
    """
    extract = build_extractors(evaluation, context.device)[name]
    return context.team.in_parts(lambda part: torch.from_numpy(extract(part)), images).numpy()


def replay_after(tasks: list[str]) -> dict[str, str]:
    """The dataset of what is replayed after each of `tasks`, which are all of them."""
    following = [f"{task}.replay" for task in tasks[1:]]
    return dict(zip(tasks, [*following, LAST_REPLAY], strict=True))


def assessment_nodes(tasks: list[str], own: list[str]) -> list[Node]:
    """The template for all tasks of a method with a generator.

    Args:
        tasks: all of them.
        own: the run's own autoencoder, if it has one.
    """
    device, space = "params:device", "params:space"
    inputs: dict[Callable[..., object], list[str] | dict[str, str]] = {
        train_oracle: ["params:learner", space, device, "params:stream", "oracles"],
        measure_reference: ["params:evaluation", space, device, "params:stream", ORACLE, *own],
        draw_last_replay: {
            **given_to_stages(tasks[-1]),
            "evaluation": "params:evaluation",
            "state": f"{tasks[-1]}.state",
        },
    }
    outputs = (ORACLE, REFERENCE, LAST_REPLAY)
    once = [
        node(function, given, [output, f"{NAMESPACE}.{stage}_log"], name=stage)
        for stage, output, (function, given) in zip(STAGES, outputs, inputs.items(), strict=True)
    ]
    each = [
        node(
            assess_replay,
            [
                *("params:evaluation", space, device, "params:stream"),
                ORACLE,
                replay,
                *(f"{earlier}.test" for earlier in tasks[: i + 1]),
            ],
            [f"{task}.replay_quality", f"{task}.assess_replay_log"],
            name=f"after_{task}",
        )
        for i, (task, replay) in enumerate(replay_after(tasks).items())
    ]
    return [*once, *each]
