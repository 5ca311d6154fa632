"""Replay that the classifier agrees with, and weights of classes by it."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.reference.tiny import gppdm, images_of, learn

from gppdm_pipeline.algorithm.classifier import agreement
from gppdm_pipeline.algorithm.classifier.agreement import agreed_replay, agreement_by_class
from gppdm_pipeline.algorithm.classifier.network import predict_logits
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.generator import learn as generator_training
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages

STATE = LearnerState(tasks=((4,), (7, 2)))
CONTEXT = Context(0, 3)
SHARES = {4: 0.5, 7: 0.9, 2: 0.0}


@pytest.fixture
def judged(monkeypatch):
    """In place of a classifier: it sees class k where the first pixel is k."""

    def logits(state, images, context):
        assert state is STATE
        return (images[:, 0, 0, :1] == np.array(state.classes)).astype(np.float32)

    monkeypatch.setattr(agreement, "predict_logits", logits)


def drawer(asked):
    """Draws images of which a share is right; each is numbered in its last pixel."""

    def draw(counts, stage):
        asked.append((dict(counts), stage))
        labels = np.repeat(list(counts), list(counts.values()))
        rng = np.random.default_rng(len(asked))
        right = rng.random(len(labels)) < np.array([SHARES[k] for k in labels])
        images = np.zeros((len(labels), 2, 2, 1), np.uint8)
        images[:, 0, 0, 0] = np.where(right, labels, np.where(labels == 7, 2, 7))
        images[:, 1, 1, 0] = np.arange(len(labels)) + 100 * (len(asked) - 1)
        return LabelledImages(images, labels)

    return draw


@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_what_is_turned_down_is_drawn_again(judged, rounds):
    asked = []
    replay, log = agreed_replay(
        drawer(asked), STATE, dict.fromkeys((2, 4, 7), 20), rounds, "stage", CONTEXT
    )
    assert replay.labels.tolist() == [2] * 20 + [4] * 20 + [7] * 20
    assert [stage for _, stage in asked] == ["stage", "stage_2", "stage_3", "stage_4"][:rounds]
    right = replay.images[:, 0, 0, 0] == replay.labels
    missing, first = {2: 20, 4: 20, 7: 20}, {}
    for number, (counts, _) in enumerate(asked):
        assert counts == missing
        again = drawer([None] * number)(counts, "")
        hits = again.images[:, 0, 0, 0] == again.labels
        if number == 0:
            first = {k: hits[again.labels == k].mean() for k in (2, 4, 7)}
        left = {k: n - int(hits[again.labels == k].sum()) for k, n in missing.items()}
        missing = {k: n for k, n in left.items() if n > 0}
    assert {k: int((~right[replay.labels == k]).sum()) for k in (2, 4, 7)} == {
        2: 20,
        4: missing.get(4, 0),
        7: missing.get(7, 0),
    }
    assert log.metrics == {
        **{f"replay_agreement/{k}": share for k, share in first.items()},
        "replay_turned_down": sum(missing.values()),
    }
    made_up = replay.of_classes([2]).images[:, 1, 1, 0]
    assert made_up.tolist() == list(range(20))  # what was drawn first


def test_no_more_rounds_than_needed(judged):
    asked = []
    agreed_replay(drawer(asked), STATE, {7: 3}, 20, "stage", CONTEXT)
    assert len(asked) < 5


def test_a_filter_takes_what_the_classifier_of_the_task_before_agrees_with():
    method = gppdm(replay={"images_per_class": 12, "filter_rounds": 6, "batch_size": 5})
    state = learn(gppdm(classifier={"steps": 30}), [(5, 2)])[-1]
    replay, log = method.synthesise_replay(state, Context(0, 2))
    assert replay.labels.tolist() == [2] * 12 + [5] * 12
    seen = np.asarray(state.classes)[predict_logits(state, replay.images, CONTEXT).argmax(1)]
    assert (seen != replay.labels).sum() == log.metrics["replay_turned_down"]
    plain = gppdm(replay={"images_per_class": 12, "batch_size": 5})
    unfiltered, nothing = plain.synthesise_replay(state, Context(0, 2))
    assert nothing.metrics == {}
    first = agreement_by_class(state, unfiltered, CONTEXT)
    assert log.metrics["replay_agreement/2"] == first[2]
    assert log.metrics["replay_agreement/5"] == first[5]
    drawn = {image.tobytes() for image in replay.images}
    assert drawn & {image.tobytes() for image in unfiltered.images}


def test_classes_that_have_decayed_are_drawn_more_often(monkeypatch):
    fit, seen = generator_training.fit_denoiser, []
    monkeypatch.setattr(
        generator_training, "agreement_by_class", lambda state, replay, context: {2: 0.25, 5: 1.0}
    )

    def spy(*given):
        seen.append(given[-1])
        return fit(*given)

    monkeypatch.setattr(generator_training, "fit_denoiser", spy)
    before, train = learn(gppdm(), [(5, 2)])[-1], images_of(0)
    logs = {}
    for weights in ("uniform", "decayed"):
        method = gppdm(denoiser={"class_weights": weights})
        replay, _ = method.synthesise_replay(before, Context(0, 2))
        _, logs[weights] = method.train_generator(before, train, replay, Context(0, 2))
    assert seen[:2] == [None, None]
    torch.testing.assert_close(seen[2], torch.tensor([1.75, 1.0, 1.0]))  # classes 2, 5, 0
    agreed = {k: v for k, v in logs["decayed"].metrics.items() if k.startswith("replay_agreement")}
    assert agreed == {"replay_agreement/2": 0.25, "replay_agreement/5": 1.0}
    assert not any(name.startswith("replay_agreement") for name in logs["uniform"].metrics)


def test_there_is_a_classifier_to_object():
    both = {"keep": True, "filter_rounds": 2}
    gppdm(order="classifier_first", replay=both)
    text = r"replay.filter_rounds is 2, but with order: generator_first replay is kept before"
    with pytest.raises(ValidationError, match=text):
        gppdm(replay=both)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"order": "classifier_first"}, "by order it has learnt"),
        ({"replay": {"keep": True}}, "by replay.keep it has learnt"),
        ({"replay": {"filter_rounds": 2}}, "by replay.filter_rounds it has"),
    ],
)
def test_decay_is_not_asked_of_a_classifier_that_agrees_anyway(changes, text):
    with pytest.raises(ValidationError, match=text):
        gppdm(denoiser={"class_weights": "decayed"}, **changes)
