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


def learnt(name, tasks, **settings):
    """The state after these tasks' images."""
    method = Method.model_validate({"name": name, **(settings or SETTINGS[name])})
    state = LearnerState.empty()
    for number, images in enumerate(tasks, start=1):
        state = learn_task(method, state, images, NONE, Context(0, number))
    return state


def learn_with(directions, tasks):
    """The state of `gaussian_replay` after these tasks' images."""
    settings = {"directions": directions, **SETTINGS["gaussian_replay"]}
    return learnt("gaussian_replay", tasks, **settings)


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
        # Products of random features are float32: sums of 130 numbers, each rounded to 6e-8.
        rough = (name, key) == ("ranpac", "products")
        assert found.dtype == (torch.float32 if rough else torch.float64)
        bounds = {"rtol": 1e-5, "atol": 1e-4} if rough else {"rtol": 1e-12, "atol": 1e-9}
        torch.testing.assert_close(found, tensor, **bounds)
    bound = 1e-3 if name == "ranpac" else 1e-5  # of what float32 sums were solved with
    if name != "gaussian_replay":  # whose classifier is trained
        for key, tensor in at_once.classifier.tensors.items():
            torch.testing.assert_close(by_task.classifier.tensors[key], tensor, rtol=0, atol=bound)


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


def of_covariances(*covariances, per_class=4000, first=0):
    """Float16 [n, 1, 1, 6]: a class with exactly each covariance, around its number."""
    parts = []
    for label, covariance in enumerate(covariances, start=first):
        noise = np.random.default_rng(label).normal(size=(per_class, 6))
        noise -= noise.mean(0)
        white = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise.T, bias=True))).T
        parts.append(label + white @ np.linalg.cholesky(covariance).T)
    labels = np.repeat(np.arange(first, first + len(covariances)), per_class)
    return LabelledImages(np.concatenate(parts).astype(np.float16)[:, None, None], labels)


def drawn_covariance(state, label):
    drawn = Method.model_validate({"name": "gaussian_replay"}).draw(
        state, [label], 8000, Context(0, 2)
    )
    return np.cov(points(drawn).T)


def test_a_class_has_its_own_spread_in_its_own_directions_alone():
    first, second = np.diag([4, 0.5, 0.1, 0.1, 0.1, 0.1]), np.diag([0.1, 0.1, 0.1, 0.1, 0.5, 4])
    images = of_covariances(first, second)
    own = learn_with(directions=2, tasks=[images])
    np.testing.assert_allclose(drawn_covariance(own, 0)[:2, :2], first[:2, :2], atol=0.25)
    np.testing.assert_allclose(drawn_covariance(own, 1)[4:, 4:], second[4:, 4:], atol=0.25)
    # Beside them it is as all classes are, of which either is half.
    np.testing.assert_allclose(
        drawn_covariance(own, 0)[2:, 2:], (first + second)[2:, 2:] / 2, atol=0.25
    )
    shared = learn_with(directions=0, tasks=[images])
    np.testing.assert_allclose(drawn_covariance(shared, 0), (first + second) / 2, atol=0.25)


def test_directions_of_a_class_that_comes_back_are_of_all_its_images():
    covariance = np.diag([4, 2, 1, 0.5, 0.3, 0.1])
    images = of_covariances(covariance, np.eye(6), per_class=100)
    moved = LabelledImages(images.images + np.float16(1), images.labels)
    together = LabelledImages.concatenate([images, moved])
    by_task = learn_with(directions=6, tasks=[images, moved])
    at_once = learn_with(directions=6, tasks=[together])
    for label in ("0", "1"):
        found, expected = (
            state.extras["directions"].tensors[label].float() for state in (by_task, at_once)
        )
        torch.testing.assert_close(found.T @ found, expected.T @ expected, rtol=0, atol=0.02)


def test_few_images_leave_few_directions():
    state = learn_with(directions=6, tasks=[vectors(0, per_class=7), vectors(1, per_class=25)])
    shapes = {k: t.shape for k, t in state.extras["directions"].tensors.items()}
    assert shapes == {"1": (3, 6)}
    assert np.isfinite(drawn_covariance(state, 0)).all()


@pytest.mark.parametrize("name", ["slda", "gaussian_replay"])
def test_a_covariance_that_is_too_large_is_refused(name):
    method = Method.model_validate({"name": name})
    method.check((32, 32, 3), 10)
    with pytest.raises(ValueError, match=r"12288 numbers of an image.*space\.name=features"):
        method.check((64, 64, 3), 10)
