"""The attacks are sound: they find what was learnt by heart, and nothing where nothing was seen."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from tests.reference.tiny import gppdm, images_of

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.evaluation.membership import pooled_attack
from gppdm_pipeline.evaluation.memorisation import in_all
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method
from gppdm_pipeline.pipelines.continual import privacy

pytestmark = pytest.mark.slow

CONTEXT = Context(0, 1)
NONE = LabelledImages.empty((8, 8, 1))


def split(*counts):
    """Images of two classes, so many of each in each part."""
    images = images_of(0, 1, per_class=sum(counts))
    starts = np.cumsum([0, *counts])
    places = [np.flatnonzero(images.labels == label) for label in (0, 1)]
    return [
        images.select(np.sort(np.concatenate([mine[a:b] for mine in places])))
        for a, b in pairwise(starts)
    ]


def learnt(method, train):
    state = LearnerState.empty()
    state, _ = method.train_generator(state, train, NONE, CONTEXT)
    state, _ = method.train_classifier(state, train, NONE, NONE, CONTEXT)
    return state


def told(method, state, train, test):
    found = privacy.membership_of(method, state, train, test, CONTEXT)
    return {name: pooled_attack([each["scores"]]) for name, each in found.items()}


@pytest.fixture(scope="module")
def by_heart():
    """A model that has learnt 50 images by heart; those, and images that it has never seen."""
    train, test, more = split(25, 1500, 1500)
    method = gppdm(
        classifier={"steps": 300, "width": 16},
        denoiser={"steps": 2000, "batch_size": 50, "channels": (16, 32), "ema_decay": 0.9},
        replay={"images_per_class": 30, "sampler_steps": 10},
    )
    return method, learnt(method, train), train, test, more


def test_what_was_learnt_by_heart_is_found(by_heart):
    method, state, train, test, _ = by_heart
    found = told(method, state, train, test)
    assert set(found) == {"confidence", "generator", "prototypes"}
    assert found["generator"]["auc"] >= 0.9
    assert found["generator"]["tpr_at_1_percent"] > 0.3
    assert found["prototypes"]["auc"] > 0.6  # of a mean over 25 images each has a share


def test_of_images_that_were_never_seen_nothing_is_told(by_heart):
    method, state, _, test, more = by_heart
    for found in told(method, state, more, test).values():
        assert found["auc"] == pytest.approx(0.5, abs=0.03)
        assert found["auc_low"] < 0.5 < found["auc_high"]


def test_copies_are_found_among_drawn_images(by_heart):
    method, state, train, test, _ = by_heart
    drawn = method.draw(state, train.classes, 30, CONTEXT)
    assert drawn.classes == (0, 1)
    found = privacy.memorisation_of(drawn, train, test, privacy._pixels)
    assert in_all(found["pixels"])["copying"] < -3


def test_a_prototype_that_started_from_one_image_is_told(by_heart):
    _, _, train, _, _ = by_heart
    method = gppdm(order="classifier_first", prototypes={"start": "most_confident"})
    state, _ = method.train_classifier(LearnerState.empty(), train, NONE, NONE, CONTEXT)
    state, _ = method.train_generator(state, train, NONE, CONTEXT)
    for found in privacy.prototypes_of(state, train, CONTEXT).values():
        assert found["start"] == pytest.approx(0, abs=1e-6)
    mean, _ = gppdm().train_generator(LearnerState.empty(), train, NONE, CONTEXT)
    assert privacy.prototypes_of(mean, train, CONTEXT)["0"]["start"] > 0.3


def test_kept_images_betray_themselves(by_heart):
    _, _, train, test, _ = by_heart
    method = Method.model_validate({"name": "exemplar", "classifier": {"steps": 3}, "images": 10})
    state, _ = method.train_classifier(LearnerState.empty(), train, NONE, NONE, CONTEXT)
    state, _ = method.train_generator(state, train, NONE, CONTEXT)
    found = told(method, state, train, test)["kept"]
    assert found["tpr_at_1_percent"] == pytest.approx(10 / 25, abs=0.05)


@pytest.mark.parametrize("name", ["vae_replay", "finetune"])
def test_every_method_can_be_asked(name):
    train, test = split(10, 10)
    parts = {"vae": {"steps": 5, "width": 8}} if name == "vae_replay" else {}
    method = Method.model_validate({"name": name, "classifier": {"steps": 5, "width": 8}, **parts})
    found = told(method, learnt(method, train), train, test)
    assert set(found) == {"confidence", *(["generator"] if parts else [])}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("analytic", {"filters": 4}), ("ranpac", {"features": 200}), ("slda", {})],
)
def test_sums_over_fewer_images_than_numbers_tell_each(name, settings):
    train, test = split(25, 500)
    method = Method.model_validate({"name": name, **settings})
    found = told(method, learnt(method, train), train, test)
    assert set(found) == {"confidence", "sums"}
    assert found["sums"]["auc"] > 0.99
