"""What a state tells of the images that its task was learnt from.

Measured of the state right after the task, which is the one on disk that has seen them last: later
ones have seen replay in their place. It needs the images, and so comes before they are released.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from kedro.pipeline import Node, node
from numpy.typing import NDArray

from gppdm_pipeline.algorithm.classifier.analytic import leverages
from gppdm_pipeline.algorithm.classifier.network import predict_logits
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.batches import to_unit_range
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.catalog.oracle import OracleFolder, trained_oracle
from gppdm_pipeline.catalog.scratch import Scratch
from gppdm_pipeline.evaluation.distances import pairwise_distances
from gppdm_pipeline.evaluation.membership import attacks_by_class, confidence, summed
from gppdm_pipeline.evaluation.memorisation import memorisation, nearest_pairs
from gppdm_pipeline.evaluation.replay_quality import EvaluationConfig, Extractor
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method
from gppdm_pipeline.methods.ranks import on_all_ranks
from gppdm_pipeline.pipelines.continual.nodes import Record, Task
from gppdm_pipeline.streams.scenario import StreamConfig

MOST = 500
"""Images of each class, on either side, that are attacked."""
PAIRS = 5
SPACES = ("pixels", "oracle")
"""Where drawn images are set beside real ones."""


def measure_privacy(**given: Any) -> Record:
    """The record of `looked_into`, whose arguments it takes."""
    return looked_into(**given)[0]


def looked_into(
    *,
    learner: Method,
    seed: int,
    device: str,
    task: Task,
    scratch: Scratch,
    evaluation: EvaluationConfig,
    stream: StreamConfig,
    oracles: OracleFolder,
    state: LearnerState,
    train: LabelledImages,
    test: LabelledImages,
    record: Record | None = None,
) -> tuple[Record, dict[int, LabelledImages]]:
    """What a state tells of its task's training images.

    Where a record is given and the images were released, it is the answer. Kedro makes of each
    setting what the hint of its argument says, so that there is one for each.

    Returns:
        Membership, memorisation and prototypes as plain JSON values; and of each class the pairs of
        `pairs_of`.
    """
    if record is not None and not (len(train) and len(test)):
        return record, {}
    context = task.context(seed, device, drawn=scratch.drawn)
    of_task = test.of_classes(train.classes)
    record = {
        "membership": membership_of(learner, state, train, of_task, context),
        "prototypes": prototypes_of(state, train, context),
    }
    if not (learner.has_generator and len(of_task)):  # none of classes that have come before
        return record, {}
    oracle = trained_oracle(stream.read("train"), learner.classifier, context.device, oracles.path)
    given = {"classes": train.classes, "per_class": evaluation.images_per_class}
    drawn = on_all_ranks(learner.draw, context, state=state, **given)
    record["memorisation"] = memorisation_of(drawn, train, of_task, oracle)
    return record, pairs_of(drawn, train)


def privacy_node(task: str) -> Node:
    """The template for one task."""
    inputs = given_to_privacy(task, state="state", train="train", test="test")
    return node(measure_privacy, inputs, f"{task}.privacy", name="measure_privacy")


def given_to_privacy(task: str, **of_task: str) -> dict[str, str]:
    """The data sets that are the arguments of `looked_into`, `of_task` those of one task."""
    settings = ("learner", "seed", "device", "evaluation", "stream")
    return {
        **{name: f"params:{name}" for name in settings},
        "task": f"params:{task}.task",
        **{name: name for name in ("oracles", "scratch")},
        **{name: f"{task}.{dataset}" for name, dataset in of_task.items()},
    }


def membership_of(
    learner: Method,
    state: LearnerState,
    train: LabelledImages,
    test: LabelledImages,
    context: Context,
) -> Record:
    """Each attack on a state, class by class; and its scores, for all classes and tasks together.

    Args:
        learner: made the state.
        state: after the task of the context.
        train: what the task was learnt from.
        test: of the same classes, held out.
        context: seed, task, device.

    Returns:
        By attack: `classes`, by label; `scores`.
    """
    train, test = (images.first_of_each(MOST) for images in (train, test))
    both = LabelledImages.concatenate([train, test])
    count, found = len(train), {}
    for name, scores in _scores(learner, state, both, context).items():
        by_class, pooled = attacks_by_class(
            scores[:count], train.labels, scores[count:], test.labels
        )
        found[name] = {"classes": {str(k): each for k, each in by_class.items()}, "scores": pooled}
    return found


def memorisation_of(
    drawn: LabelledImages, train: LabelledImages, test: LabelledImages, oracle: Extractor
) -> Record:
    """The copying tests, class by class: by space, then by label."""
    found: Record = {}
    for space, points in zip(SPACES, (_pixels, oracle), strict=True):
        sides = [(points(images.images), images.labels) for images in (drawn, train, test)]
        found[space] = {
            str(label): memorisation(*(x[labels == label] for x, labels in sides))
            for label in train.classes
        }
    return found


def prototypes_of(state: LearnerState, train: LabelledImages, context: Context) -> Record:
    """How near prototypes are to a training image, at their start and at their end, by label.

    In units of how near training images of the class are to each other (the median): a prototype
    that started from one image begins at 0.
    """
    found: Record = {}
    for label, two in _images_in(state, train, context).get("prototypes", {}).items():
        mine = train.of_classes([label])
        if len(mine) > 1:
            few = mine.first_of_each(MOST)
            real = to_unit_range(few.images, context.device).cpu().numpy().reshape(len(few), -1)
            among = pairwise_distances(real, real)
            np.fill_diagonal(among, np.inf)
            usual = max(float(np.median(among.min(1))), np.finfo(np.float64).tiny)
            near = pairwise_distances(two.reshape(2, -1), real).min(1) / usual
            found[str(label)] = {"start": round(near[0], 4), "end": round(near[1], 4)}
    return found


def pairs_of(drawn: LabelledImages, train: LabelledImages) -> dict[int, LabelledImages]:
    """Of each class the drawn images nearest to a training image, each followed by that one."""
    found = {}
    for label in train.classes:
        ours, theirs = (images.of_classes([label]).images for images in (drawn, train))
        near = nearest_pairs(_pixels(ours), _pixels(theirs), PAIRS) if len(ours) else []
        if not near:
            continue
        images = np.stack([image for i, j in near for image in (ours[i], theirs[j])])
        found[label] = LabelledImages(images, np.full(len(images), label))
    return found


def _scores(
    learner: Method, state: LearnerState, images: LabelledImages, context: Context
) -> dict[str, NDArray[np.float64]]:
    """What an attacker computes, by attack: high for what he takes to have been learnt."""
    scores = {}
    if len(state.classes) > 1:
        logits = on_all_ranks(predict_logits, context, state=state, images=images.images)
        columns = {label: column for column, label in enumerate(state.classes)}
        right = np.array([columns[label] for label in images.labels.tolist()])
        scores["confidence"] = confidence(logits, right)
    losses = on_all_ranks(learner.generator_losses, context, state=state, images=images)
    if losses is not None:
        scores["generator"] = summed(losses.cpu().numpy())
    out = on_all_ranks(leverages, context, state=state, images=images)
    if out is not None:
        scores["sums"] = -out.numpy()
    for name, near in _images_in(state, images, context).items():
        scores[name] = -_nearest(images, near, context)
    return scores


def _images_in(
    state: LearnerState, images: LabelledImages, context: Context
) -> dict[str, Mapping[int, Any]]:
    """What of a state looks like an image: by name, then by class, each [n, c, h, w]."""
    found: dict[str, Mapping[int, Any]] = {}
    condition, kept = state.condition, state.kept
    if condition is not None and all(condition.prototypes[k].numel() for k in images.classes):
        found["prototypes"] = {
            k: np.stack([part[k].numpy() for part in (condition.starts, condition.prototypes)])
            for k in images.classes
        }
    if kept is not None:
        of_class = {k: kept.of_classes([k]).images for k in images.classes}
        found["kept"] = {
            k: to_unit_range(x, context.device).cpu().numpy() for k, x in of_class.items() if len(x)
        }
    return found


def _nearest(
    images: LabelledImages, near: Mapping[int, Any], context: Context
) -> NDArray[np.float64]:
    """The distance of each image to the nearest of its class."""
    distances = np.zeros(len(images))
    for label, points in near.items():
        mine = images.labels == label
        x = to_unit_range(images.images[mine], context.device).cpu().numpy()
        flat = (part.reshape(len(part), -1) for part in (x, points))
        distances[mine] = pairwise_distances(*flat).min(1)
    return distances


def _pixels(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Each image as a point; a distance is the root of the mean square over pixels, in 0..255."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    points: NDArray[np.float64] = flat / np.sqrt(flat.shape[1])
    return points
