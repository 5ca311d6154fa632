"""How long a stream will take to learn, and how much it will leave on disk.

The method itself learns the first two tasks, with its own networks, batches and image shape but a
few steps and images; a stopwatch in place of the progress bars sees every loop. What a unit of a
loop took is multiplied by the units that the whole stream has. Outside pixels a few images are
encoded, and numbers that are spread as theirs stand for the rest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from gppdm_pipeline.algorithm.classifier.network import predict_logits
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method
from gppdm_pipeline.pipelines.inspect.stopwatch import Loop, Stopwatch
from gppdm_pipeline.spaces.encoders import BATCH
from gppdm_pipeline.spaces.space import SpaceConfig
from gppdm_pipeline.streams.repetition import first_seen
from gppdm_pipeline.streams.scenario import StreamConfig, TaskSplit, read_tasks

STEPS = 12
IMAGES = 128  # drawn, all classes together
SAMPLER_STEPS = 2
PER_CLASS = 64  # real images that are learnt from


@dataclass(frozen=True)
class _Trial:
    """What one task took, by stage: its loops, and seconds besides them."""

    loops: dict[str, dict[str, Loop]]
    besides: dict[str, float]
    state_bytes: int
    replayed: int


def estimate_costs(
    learner: Method,
    stream: StreamConfig,
    seed: int,
    device: torch.device,
    space: SpaceConfig = SpaceConfig(),  # noqa: B008 (frozen)
) -> dict[str, Any]:
    """Seconds by stage and bytes by kind, for the whole stream.

    Args:
        learner: with its settings.
        stream: what it will learn.
        seed: the run's.
        device: where it will compute.
        space: in which it is learnt; an autoencoder of the run's own has to be there.

    Returns:
        Plain JSON values: `device`, `seconds` (by stage, and `total`; outside pixels `encode`,
        which is of images that have not been encoded yet), `training_seconds` (those of them that
        steps of trainings take), `bytes` (by kind, and `total`).

    Raises:
        EncoderError: if the encoder cannot be had.
    """
    counts, tried = _read(stream, seed)
    decode, encoding = space.decoding(tried[0].train.image_shape, device), 0.0
    if space.encodes:
        tried, encoding = _encoded(tried, space, device)
    new = [len(classes) for classes in first_seen(stream.classes_by_task(seed))]
    images = max(1, IMAGES // len(tried[0].train.classes))
    small = _reduced(learner, images)
    trials, test_seconds = _try(small, tried, Context(seed, 0, device, decode=decode))
    classes = [len(task) for task in stream.classes_by_task(seed)]
    seen = [*accumulate(new)]
    seconds: dict[str, float] = {}
    training = 0.0
    for task, now in enumerate(classes):
        old = (classes if learner.draws_once else seen)[task - 1] if task else 0
        trial, train = trials[min(task, len(trials) - 1)], counts[task]["train"]
        took, trained = _seconds_of_task(learner, trial, old, now, train, first=not task)
        training += trained
        for stage, spent in took.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    seconds["evaluate"] = test_seconds * sum(accumulate(each["test"] for each in counts))
    if space.encodes:
        seconds["encode"] = encoding * sum(sum(each.values()) for each in counts)
    image = math.prod(tried[0].train.images.shape[1:]) * tried[0].train.images.itemsize + 8
    size = _bytes(learner, image, trials, counts, seen, images)
    return {
        "device": str(device),
        "seconds": {**seconds, "total": sum(seconds.values())},
        "training_seconds": training,
        "bytes": {**size, "total": sum(size.values())},
    }


def _seconds_of_task(
    learner: Method, trial: _Trial, old: int, now: int, train: int, *, first: bool
) -> tuple[dict[str, float], float]:
    """Seconds of each stage of a task, and how many of all are steps of trainings.

    Args:
        learner: with its settings.
        trial: what the loops took there.
        old: how many classes are replayed.
        now: how many classes the task has.
        train: how many real images of them.
        first: whether it is the first task.
    """
    seconds, training = dict(trial.besides), 0.0
    for stage, loops in trial.loops.items():
        for title, loop in loops.items():
            drawn = old if title == "synthesise_replay" else now
            took = loop.per_unit * _units(learner, title, drawn, train, first=first)
            seconds[stage] += took
            training += took if title.startswith("train_") else 0.0
    return seconds, training


def _read(stream: StreamConfig, seed: int) -> tuple[list[dict[str, int]], list[TaskSplit]]:
    """How many images each task has; and of the first two, some of every class."""
    counts, tried = [], []
    for number, split in enumerate(read_tasks(stream, seed)):
        parts = {"train": split.train, "validation": split.validation, "test": split.test}
        counts.append({name: len(data) for name, data in parts.items()})
        if number < 2:
            tried.append(TaskSplit(*map(_some, parts.values())))
    return counts, tried


def _some(data: LabelledImages) -> LabelledImages:
    places = [np.flatnonzero(data.labels == label)[:PER_CLASS] for label in data.classes]
    return data.select(np.concatenate([np.empty(0, np.int64), *places]))


def _encoded(
    splits: Sequence[TaskSplit], space: SpaceConfig, device: torch.device
) -> tuple[list[TaskSplit], float]:
    """Numbers that are spread as those of a few encoded images; and seconds to encode an image."""
    coder, images = space.coder(device), splits[0].train.images
    few = np.resize(images, (BATCH, *images.shape[1:]))
    coder.codes(few)
    start = time.perf_counter()
    codes = coder.codes(few).astype(np.float32)
    seconds = (time.perf_counter() - start) / len(few)
    mean, spread, rng = codes.mean(0), codes.std(0), np.random.default_rng(0)

    def like(data: LabelledImages) -> LabelledImages:
        drawn = mean + spread * rng.standard_normal((len(data), *mean.shape), np.float32)
        return LabelledImages(drawn.astype(np.float16), data.labels, data.image_shape)

    parts = [[like(data) for data in (s.train, s.validation, s.test)] for s in splits]
    return [TaskSplit(*each) for each in parts], seconds


def _reduced(model: Any, images: int) -> Any:
    """The same settings with a few steps and images."""
    least = {"steps": STEPS, "images_per_class": images, "sampler_steps": SAMPLER_STEPS}
    changes: dict[str, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            changes[name] = _reduced(value, images)
        elif name in least and isinstance(value, int):
            changes[name] = min(value, least[name])
    return model.model_copy(update=changes)


def _try(
    learner: Method, splits: Sequence[TaskSplit], context: Context
) -> tuple[list[_Trial], float]:
    """A trial of each task, and seconds to classify an image; of the context, the task is not."""
    state, trials, earlier = LearnerState.empty(), [], list[LabelledImages]()
    for number, split in enumerate(splits, start=1):
        given = earlier if learner.reads_earlier_images else []
        state, trial = _try_task(learner, state, split, replace(context, task=number), given)
        trials.append(trial)
        earlier.append(split.train)
    context, images = replace(context, task=len(splits)), splits[0].train.images
    predict_logits(state, images, context)
    start = time.perf_counter()
    predict_logits(state, images, context)
    return trials, (time.perf_counter() - start) / len(images)


def _try_task(
    learner: Method,
    state: LearnerState,
    split: TaskSplit,
    context: Context,
    earlier: Sequence[LabelledImages],
) -> tuple[LearnerState, _Trial]:
    loops: dict[str, dict[str, Loop]] = {}
    besides: dict[str, float] = {}

    @contextmanager
    def timed(stage: str) -> Iterator[Context]:
        watch = Stopwatch(loops.setdefault(stage, {}))
        start = time.perf_counter()
        yield replace(context, progress=watch)
        inside = sum(loop.seconds for loop in watch.loops.values())
        besides[stage] = time.perf_counter() - start - inside

    with timed("synthesise_replay") as watched:
        replay, _ = learner.synthesise_replay(state, watched, earlier)
    if learner.draws_once and len(replay):  # class by class: a few images would be all beginnings
        watch, few = Stopwatch(), replay.classes[:2]
        learner.draw(state, few, IMAGES // len(few), replace(context, progress=watch))
        loops["synthesise_replay"] = {"synthesise_replay": watch.loops["draw"]}
    order = ["train_classifier", "train_generator"]
    for stage in reversed(order) if learner.generator_first else order:
        with timed(stage) as watched:
            if stage == "train_generator":
                state, _ = learner.train_generator(state, split.train, replay, watched)
            else:
                state, _ = learner.train_classifier(
                    state, split.train, split.validation, replay, watched
                )
    return state, _Trial(loops, besides, state.bytes(), len(replay))


def _units(
    learner: Method, title: str, classes: int, there: float = math.inf, *, first: bool = False
) -> float:
    """How many units a loop will have: steps of a training; or images, of so many classes.

    Args:
        learner: with its settings.
        title: of the loop.
        classes: of which images are drawn.
        there: real images of the task, each of which is drawn anew once at most.
        first: whether it is the first task's.
    """
    if title == "sums":
        return there
    if title.startswith("train_"):
        trained: Any = learner.classifier
        if title == "train_generator":
            parts = [getattr(learner, k) for k in type(learner).model_fields if k != "classifier"]
            trained = next(part for part in parts if hasattr(part, "steps"))
            if hasattr(trained, "steps_of"):
                return float(trained.steps_of(first=first))
        return float(trained.steps)
    replay: Any = getattr(learner, "replay", None)
    drawn: Any = getattr(learner, "projection", None) if title == "bases" else replay
    sampler = getattr(replay, "sampler_steps", None)
    slower = sampler / SAMPLER_STEPS if sampler else 1.0
    if title == "draw_new_classes" and getattr(learner, "redraw", None):
        each: Any = getattr(learner, "redraw_images", None)
        return float(min(classes * each, there)) * slower
    most = _most(learner) if title == "synthesise_replay" else math.inf
    return float(min(classes * getattr(drawn, "images_per_class", 0), most)) * slower


def _most(learner: Method) -> float:
    """How many images are replayed at most, if that is limited (though one of each class is)."""
    most = getattr(getattr(learner, "replay", None), "images", None)
    return math.inf if most is None else float(most)


def _bytes(
    learner: Method,
    image: int,
    trials: Sequence[_Trial],
    counts: Sequence[dict[str, int]],
    seen: Sequence[int],
    images: int,
) -> dict[str, int]:
    """What stays on disk at most, of `image` bytes each: images are packed there."""
    first, last = trials[0].state_bytes, trials[-1].state_bytes
    more = seen[min(1, len(seen) - 1)] - seen[0]
    slope = max(0.0, (last - first) / more) if more else 0.0
    states = [first + slope * (known - seen[0]) for known in seen]
    old = [0, *seen[:-1]]
    if learner.reads_earlier_images:
        replayed = sum(accumulate(each["train"] for each in counts[:-1]))
    else:
        each = getattr(getattr(learner, "replay", None), "images_per_class", None)
        if each is None:  # what is kept of every class
            each = trials[-1].replayed / max(1, seen[0]) if len(trials) > 1 else 0
        replayed = round(sum(min(each * known, _most(learner)) for known in old))
    return {
        "task images": image * sum(sum(each.values()) for each in counts),
        "replay": image * replayed,
        "states": 2 * round(sum(states)),  # after each of a task's two trainings
    }
