import numpy as np
import pytest
import torch
from tests.reference.tiny import differences, images_of

from gppdm_pipeline.algorithm.classifier import network as classifier
from gppdm_pipeline.algorithm.classifier.network import (
    ClassifierConfig,
    accuracy,
    fit_classifier,
    predict_logits,
)
from gppdm_pipeline.algorithm.classifier.networks import SmallConvNet
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages

NONE = LabelledImages.empty((8, 8, 1))


def fit(state, task, classes, validation=NONE, train=None, **config):
    train = images_of(*classes) if train is None else train
    state = state.begin(task, classes, train.image_shape)
    settings = {"width": 8, "steps": 3, "batch_size": 8, **config}
    return fit_classifier(state, ClassifierConfig(**settings), train, validation, Context(0, task))


@pytest.fixture(scope="module")
def learnt():
    """After one task of three classes, in an order that is not ascending."""
    return fit(LearnerState.empty(), 1, (6, 2, 4), steps=60, batch_size=32)


def test_it_learns_and_names_classes_rightly(learnt):
    state, log = learnt
    test = images_of(2, 4, 6)
    logits = predict_logits(state, test.images, Context(0, 1))
    assert logits.shape == (18, 3)
    assert logits.dtype == np.float32
    predicted = np.array((6, 2, 4))[logits.argmax(1)]
    assert (predicted == test.labels).mean() > 0.9
    assert accuracy(state, test, Context(0, 1)) == (predicted == test.labels).mean()
    assert log.metrics == {}
    steps, losses = zip(*log.curves["classifier_loss"], strict=True)
    assert steps == (10, 20, 30, 40, 50, 60)
    assert losses[-1] < losses[0]


def test_validation_is_reported_and_decides_nothing(learnt):
    validation = images_of(4, 6)
    state, log = fit(LearnerState.empty(), 1, (6, 2, 4), validation, steps=60, batch_size=32)
    assert log.metrics == {"validation_accuracy": accuracy(state, validation, Context(0, 1))}
    assert differences(state, learnt[0]) == []


STILL = {"learning_rate": 1e-12, "weight_decay": 0, "steps": 1}


def test_head_grows_and_old_outputs_stay(learnt):
    test = images_of(2, 6, 9)
    before = predict_logits(learnt[0], test.images, Context(0, 1))
    grown, _ = fit(learnt[0], 2, (9, 0), **STILL)
    after = predict_logits(grown, test.images, Context(0, 2))
    assert grown.classes == (6, 2, 4, 9, 0)
    assert after.shape == (18, 5)
    np.testing.assert_allclose(after[:, :3], before, atol=1e-5)
    assert (after[:, 3] != after[:, 4]).all()


def test_start_anew(learnt):
    test = images_of(2, 6)
    before = predict_logits(learnt[0], test.images, Context(0, 1))
    grown, _ = fit(learnt[0], 2, (9, 0), **STILL, start="anew")
    after = predict_logits(grown, test.images, Context(0, 2))
    assert np.abs(after[:, :3] - before).max() > 0.1


def test_large_sets_are_predicted_in_parts(learnt, monkeypatch):
    images = images_of(2, 4).images
    whole = predict_logits(learnt[0], images, Context(0, 1))
    monkeypatch.setattr(classifier, "PREDICTION_BATCH", 5)
    np.testing.assert_allclose(
        predict_logits(learnt[0], images, Context(0, 1)), whole, rtol=1e-5, atol=1e-6
    )
    assert predict_logits(learnt[0], images[:0], Context(0, 1)).shape == (0, 3)


def test_rare_classes_count_as_much_as_frequent_ones():
    """Replay and real classes differ in number of images."""
    train = LabelledImages.concatenate([images_of(1, per_class=2), images_of(3, per_class=80)])
    state, _ = fit(LearnerState.empty(), 1, (1, 3), train=train, steps=60, batch_size=32)
    assert accuracy(state, images_of(1, per_class=20), Context(0, 1)) > 0.9


@pytest.mark.parametrize("steps", [1, 9, 10, 11])
def test_any_number_of_steps(steps):
    state, _ = fit(LearnerState.empty(), 1, (1, 3), steps=steps)
    assert all(tensor.isfinite().all() for tensor in state.classifier.tensors.values())


@pytest.mark.parametrize("shape", [(4, 4, 1), (12, 20, 3), (32, 32, 3)])
def test_images_of_any_size(shape):
    network = SmallConvNet(shape, 8, 5)
    height, width, channels = shape
    assert network(torch.zeros(2, channels, height, width)).shape == (2, 5)
