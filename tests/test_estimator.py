"""The learner as a scikit-learn classifier."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks
from tests.reference.tiny import CLASSIFIER, GPPDM, SHAPE, differences, images_of

from gppdm_pipeline.algorithm.disk.states import save_state
from gppdm_pipeline.estimator import ContinualClassifier
from gppdm_pipeline.serving.predictor import Calibration
from gppdm_pipeline.serving.trained import Learned

FINETUNE = {"classifier": CLASSIFIER}
TINY_GPPDM = {key: value for key, value in GPPDM.items() if key != "name"}


def names_of(labels):
    return np.array(["ant", "bee", "cow", "dog"])[labels]


@pytest.fixture(scope="module")
def learned():
    """After two tasks, the alphabetically later classes first."""
    first, second = images_of(2, 3), images_of(0)
    estimator = ContinualClassifier("gppdm", TINY_GPPDM)
    estimator.partial_fit(first.images, names_of(first.labels))
    return estimator.partial_fit(second.images, names_of(second.labels))


def test_each_call_is_a_task(learned):
    assert learned.state_.tasks == ((0, 1), (2,))
    assert learned.classes_.tolist() == ["ant", "cow", "dog"]
    images = images_of(0, 2, 3).images
    shares = learned.predict_proba(images)
    assert shares.shape == (18, 3)
    assert shares.sum(1) == pytest.approx(1)
    assert (learned.classes_[shares.argmax(1)] == learned.predict(images)).all()
    truth = names_of(images_of(0, 2, 3).labels)
    assert learned.score(images, truth) == (learned.predict(images) == truth).mean()


def test_it_learns():
    data = images_of(0, 1, 2, per_class=20)
    settings = {"classifier": {"width": 8, "steps": 60, "learning_rate": 0.01}}
    estimator = ContinualClassifier("finetune", settings).fit(data.images, names_of(data.labels))
    assert estimator.score(data.images, names_of(data.labels)) > 0.9  # by chance: a third


def test_fit_begins_anew(learned):
    data = images_of(1)
    again = clone(learned).fit(data.images, data.labels)
    again.fit(data.images, data.labels)
    assert again.state_.tasks == ((0,),)
    assert again.classes_.tolist() == [1]


def test_rows_are_images(learned):
    data = images_of(2, 3)
    flat = ContinualClassifier("finetune", FINETUNE).fit(data.images.reshape(12, 64), data.labels)
    shaped = ContinualClassifier("finetune", FINETUNE).fit(data.images, data.labels)
    assert not differences(flat.state_, shaped.state_)
    given = ContinualClassifier("finetune", FINETUNE, image_shape=(4, 16, 1))
    assert given.fit(data.images.reshape(12, 64), data.labels).state_.image_shape == (4, 16, 1)
    halves = make_pipeline(FunctionTransformer(lambda x: x / 255), clone(flat))
    halves.fit(data.images.reshape(12, 64), data.labels)
    assert halves[-1].range_ == (data.images.min() / 255, data.images.max() / 255)


@pytest.mark.parametrize(
    ("params", "shape", "message"),
    [
        ({"method": "finetun"}, (6, 8, 8), "did you mean 'finetune'"),
        ({"settings": {"classifier": {"step": 1}}}, (6, 8, 8), "Extra inputs"),
        ({"image_shape": (2, 2, 1)}, (6, 64), "but X has 64 features"),
        ({}, (6, 8, 8, 2), "not images"),
    ],
)
def test_what_cannot_be_learnt_is_told(params, shape, message):
    estimator = ContinualClassifier("finetune", FINETUNE).set_params(**params)
    with pytest.raises(ValueError, match=message):
        estimator.fit(np.zeros(shape, np.uint8), [0, 1] * 3)


def test_samples_are_of_a_class_and_of_a_seed(learned):
    bees = learned.sample("cow", 4)
    assert (bees.shape, bees.dtype) == ((4, *SHAPE), np.uint8)
    assert np.array_equal(bees, learned.sample("cow", 4))
    assert not np.array_equal(bees, learned.sample("cow", 4, random_state=1))
    assert not np.array_equal(bees, learned.sample("dog", 4))
    with pytest.raises(ValueError, match="class 'eel' is unknown; known are"):
        learned.sample("eel")
    with pytest.raises(ValueError, match="finetune has no generator"):
        ContinualClassifier("finetune", FINETUNE).fit([[0] * 4, [1] * 4], [0, 1]).sample(0)


def test_saved_it_goes_on_as_if_nothing_had_been(learned, tmp_path):
    learned.save(tmp_path / "saved")
    loaded = ContinualClassifier.load(tmp_path / "saved")
    assert loaded.get_params() == json.loads(json.dumps(learned.get_params()))
    images = images_of(0, 2).images
    assert np.array_equal(loaded.predict_proba(images), learned.predict_proba(images))
    assert np.array_equal(loaded.sample("ant", 2), learned.sample("ant", 2))
    more = images_of(1)
    loaded.partial_fit(more.images, names_of(more.labels))
    assert loaded.classes_.tolist() == ["ant", "bee", "cow", "dog"]
    joint = ContinualClassifier("joint", FINETUNE).fit(images, [0, 1] * 6)
    with pytest.raises(ValueError, match="needs the images of earlier tasks"):
        joint.save(tmp_path / "joint")


def test_a_state_of_the_pipeline_is_loaded_and_answers_the_same(learned, tmp_path):
    record = {
        "method": "gppdm",
        "classifier": CLASSIFIER,
        "gppdm": {key: value for key, value in TINY_GPPDM.items() if key != "classifier"},
        "seed": 3,
        "classes": ["cow", "dog", "ant"],
        "stream": {"source": {}},
    }
    save_state(learned.state_, tmp_path / "state", record)
    (tmp_path / "calibration.json").write_text('{"temperature": 2.0, "threshold": 1.0}')
    loaded = ContinualClassifier.load(tmp_path / "state", tmp_path / "calibration.json")
    assert (loaded.method, loaded.random_state) == ("gppdm", 3)
    assert loaded.classes_.tolist() == ["ant", "cow", "dog"]
    images = images_of(0, 2).images
    predictor = Learned.read(tmp_path / "state").predictor(Calibration(2.0, 1.0))
    expected = predictor.answers(images)
    assert np.array_equal(loaded.predict_proba(images), expected.probabilities[:, [2, 0, 1]])


# scikit-learn's own, on images of a few pixels that are one pixel high.
EXPECTED_TO_FAIL = {
    "check_classifiers_train": "20 steps, which keep these checks quick, do not reach the accuracy "
    "that it asks for; test_it_learns has steps enough"
}


@parametrize_with_checks(
    [
        ContinualClassifier(
            "finetune", {"classifier": {"width": 8, "steps": 20, "learning_rate": 0.02}}
        )
    ],
    expected_failed_checks=lambda _: EXPECTED_TO_FAIL,
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)
