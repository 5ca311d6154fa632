"""Methods that keep sums: what comes task by task is what all images at once give."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid

from gppdm_pipeline.algorithm.classifier.network import predict_logits
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method, learn_task

SETTINGS = {
    "nearest_mean": {},
    "slda": {"shrinkage": 0.1},
    "ranpac": {"features": 30, "strength": 0.5},
    "gaussian_replay": {"classifier": {"steps": 2}},
}
NONE = LabelledImages.empty((1, 1, 6))


def vectors(*classes, per_class=40):
    """Float16 [n, 1, 1, 6], around a mean of each class, correlated."""
    parts = []
    for label in classes:
        rng = np.random.default_rng(label)
        mixing = np.random.default_rng(99).normal(size=(6, 6))
        parts.append(rng.normal(size=6) + 0.5 * rng.normal(size=(per_class, 6)) @ mixing)
    labels = np.repeat(np.array(classes, np.int64), per_class)
    return LabelledImages(np.concatenate(parts).astype(np.float16)[:, None, None], labels)


def learnt(name, tasks):
    """The state after these tasks' images."""
    method, state = Method.model_validate({"name": name, **SETTINGS[name]}), LearnerState.empty()
    for number, images in enumerate(tasks, start=1):
        state = learn_task(method, state, images, NONE, Context(0, number))
    return state


def points(images):
    return images.images.reshape(len(images), -1).astype(np.float64)


@pytest.mark.parametrize("name", SETTINGS)
def test_task_by_task_is_all_at_once_in_any_order(name):
    parts = [vectors(0, 1), vectors(2), vectors(1, 3, per_class=7)]  # class 1 comes back
    together = LabelledImages.concatenate(parts)
    shuffled = together.select(np.random.default_rng(0).permutation(len(together)))
    by_task, at_once = learnt(name, parts), learnt(name, [shuffled])
    for key, tensor in at_once.extras["moments"].tensors.items():
        found = by_task.extras["moments"].tensors[key]
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, tensor, rtol=1e-12, atol=1e-9)
    if name != "gaussian_replay":  # whose classifier is trained
        for key, tensor in at_once.classifier.tensors.items():
            torch.testing.assert_close(
                by_task.classifier.tensors[key], tensor, rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("name", ["nearest_mean", "slda", "ranpac"])
def test_the_classifier_is_the_reference_one(name):
    train, test = vectors(0, 1, 2), vectors(0, 1, 2, per_class=60)
    state = learnt(name, [train])
    logits = predict_logits(state, test.images, Context(0, 1)).astype(np.float64)
    x, y, z = points(train), train.labels, points(test)
    if name == "nearest_mean":
        expected = NearestCentroid().fit(x, y).predict(z)
        np.testing.assert_array_equal(logits.argmax(1), expected)
    elif name == "slda":
        reference = LinearDiscriminantAnalysis(
            solver="lsqr", shrinkage=0.1, priors=np.full(3, 1 / 3)
        )
        expected = reference.fit(x, y).decision_function(z)
        # Shrunk towards the variance of standardised numbers there, of the numbers here.
        agreement = (logits.argmax(1) == expected.argmax(1)).mean()
        # What all classes share would swallow their differences in float32.
        assert np.abs(state.classifier.tensors["head.weight"].numpy().mean(0)).max() < 1e-5
        assert agreement > 0.97
    else:
        layer = state.classifier.tensors["features.2.weight"][:, :, 0, 0].double().numpy()
        lifted = [np.maximum(points(part) @ layer.T, 0) for part in (train, test)]
        reference = Ridge(alpha=0.5, fit_intercept=False).fit(lifted[0], np.eye(3)[y])
        np.testing.assert_allclose(logits, reference.predict(lifted[1]), atol=1e-4)


def test_what_is_drawn_has_the_mean_and_the_spread_of_its_class():
    wide = vectors(0, per_class=4000)
    narrow = vectors(1, per_class=4000)
    narrow = LabelledImages((narrow.images * 0.25).astype(np.float16), narrow.labels)
    state = learnt("gaussian_replay", [LabelledImages.concatenate([wide, narrow])])
    drawn = Method.model_validate({"name": "gaussian_replay"}).draw(
        state, [1, 0], 4000, Context(0, 2)
    )
    assert drawn.images.dtype == np.float16
    for real in (wide, narrow):
        mine = drawn.of_classes(real.classes)
        a, b = points(real), points(mine)
        np.testing.assert_allclose(b.mean(0), a.mean(0), atol=0.15)  # four standard errors
        np.testing.assert_allclose(b.var(0).sum(), a.var(0).sum(), rtol=0.05)
        np.testing.assert_allclose(
            np.corrcoef(b.T),
            np.corrcoef(a.T),
            atol=0.1,  # one covariance for both, and alike
        )


@pytest.mark.parametrize("name", ["slda", "gaussian_replay"])
def test_a_covariance_that_is_too_large_is_refused(name):
    method = Method.model_validate({"name": name})
    method.check((32, 32, 3), 10)
    with pytest.raises(ValueError, match=r"12288 numbers of an image.*space\.name=features"):
        method.check((64, 64, 3), 10)
