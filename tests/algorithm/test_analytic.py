"""Sums of random maps: what they are, what is computed of them, and what stands beside it."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from tests.reference.tiny import GPPDM, SHAPE, differences, gppdm, images_of, learn

from gppdm_pipeline.algorithm.classifier.analytic import (
    AnalyticConfig,
    leverages,
    weight_of,
    with_analytic,
)
from gppdm_pipeline.algorithm.classifier.moments import Moments, moments_of, ridge_by_gcv
from gppdm_pipeline.algorithm.classifier.network import (
    ClassifierConfig,
    _described,
    accuracy,
    build_classifier,
    predict_logits,
)
from gppdm_pipeline.algorithm.classifier.networks import trained_part
from gppdm_pipeline.algorithm.classifier.random_maps import RandomMaps, random_filters
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.disk.states import load_state, save_state
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method, learn_task

NONE = LabelledImages.empty(SHAPE)
TASKS = ((0, 1), (2, 3), (1, 4))  # class 1 comes back


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def analytic(filters=3):
    return Method.model_validate({"name": "analytic", "filters": filters})


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 13, 3), (2, 3, 2)])
def test_maps_are_rooted_averages_of_what_filters_answer(shape):
    height, width, channels = shape
    maps = RandomMaps(shape, 18)  # more than are taken at once
    maps.filters.copy_(random_filters(18, channels, noise()))
    x = torch.rand(2, channels, height, width, generator=noise(1)) * 2 - 1
    edges = [(0, 0), (0, 0), (2, 2), (2, 2)]
    padded = np.pad(x.double().numpy(), edges, mode="edge")
    filters = maps.filters.double().numpy()
    answers = [
        [sum(correlate2d(i[c], f[c], "valid") for c in range(channels)) for f in filters]
        for i in padded
    ]
    answers = torch.tensor(np.array(answers))  # [n, f, h, w]
    grid = (min(4, height), min(4, width))
    expected = [
        torch.nn.functional.adaptive_avg_pool2d((sign * answers).relu(), grid) for sign in (1, -1)
    ]
    expected = torch.stack(expected, 2).clamp_min(1e-6).sqrt()  # [n, f, sign, g, g]
    found = maps(x).double()
    assert found.shape == (2, maps.numbers) == (2, 18 * 2 * grid[0] * grid[1])
    some, rest = found.split([16 * 2 * grid[0] * grid[1], 2 * 2 * grid[0] * grid[1]], 1)
    for part, there in ((some, expected[:, :16]), (rest, expected[:, 16:])):
        signs = part.unflatten(1, (2, there.shape[1], grid[1], grid[0]))  # a column after another
        torch.testing.assert_close(signs.permute(0, 2, 1, 4, 3), there, rtol=1e-3, atol=1e-4)


def test_brightness_says_nothing_and_large_images_are_made_smaller():
    maps = RandomMaps((66, 70, 1), 3)
    maps.filters.copy_(random_filters(3, 1, noise()))
    x = torch.rand(2, 1, 66, 70, generator=noise(1))
    torch.testing.assert_close(maps(x), maps(x - 0.5), rtol=1e-3, atol=2e-3)
    smaller = RandomMaps((33, 35, 1), 3)
    smaller.load_state_dict(maps.state_dict())
    halved = torch.nn.functional.avg_pool2d(x, 2)
    torch.testing.assert_close(maps(x), smaller(halved), rtol=0, atol=0)


def moments(n, d, rounded=0.0):
    """Sums of n images of d numbers, of three classes that are nearly linear."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d))
    y = (x[:, :3] + 0.5 * rng.normal(size=(n, 3))).argmax(1)
    hot = np.eye(3)[y]
    products = x.T @ x + rounded * rng.normal(size=(d, d))
    products = torch.tensor((products + products.T) / 2)
    sums, counts = torch.tensor(hot.T @ x), torch.tensor(hot.sum(0))
    return x, hot, Moments(counts, sums, torch.zeros(3).double(), products)


@pytest.mark.parametrize(("n", "d"), [(200, 20), (60, 50), (40, 90)])
def test_lambda_is_that_of_generalised_cross_validation(n, d):
    x, hot, sums = moments(n, d, rounded=1e-9)
    weight, bias = ridge_by_gcv(sums)
    unit = np.trace(x.T @ x) / d / n
    costs = {}
    for strength in unit * np.logspace(0, 3, 13):
        hat = x @ np.linalg.solve(x.T @ x + strength * np.eye(d), x.T)
        missed = ((hot - hat @ hot) ** 2).sum()
        costs[strength] = n * missed / (n - np.trace(hat)) ** 2
    best = min(costs, key=costs.get)
    assert best < unit * 1e3  # not the end of what is tried
    expected = Ridge(alpha=best, fit_intercept=False).fit(x, hot).coef_
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-5, atol=1e-7)
    assert not bias.any()


def test_a_lambda_that_rounding_decides_on_is_not_taken():
    exact, found = (ridge_by_gcv(moments(40, 300, rounded)[2])[0] for rounded in (0, 2e-4))
    torch.testing.assert_close(found, exact, rtol=0.05, atol=1e-3)


def test_images_that_come_again_do_no_harm():
    """Copies are told right by the least lambda best, and others are not."""
    digits = load_digits()
    every = LabelledImages((digits.images * 15).astype(np.uint8)[..., None], digits.target)
    some, others = every.select(np.arange(500)), every.select(np.arange(500, 1500))
    right = []
    for copies in (1, 8):
        train = LabelledImages.concatenate([some] * copies)
        state = learn_task(analytic(15), LearnerState.empty(), train, NONE, Context(0, 1))
        right.append(accuracy(state, others, Context(0, 1)))
    assert right[0] > 0.9
    assert right[1] > right[0] - 0.06


def test_what_was_not_summed_from_the_first_task_on_is_refused():
    before, train = learn(analytic(2), TASKS[:1])[1], images_of(*TASKS[1])
    without = replace(before, extras={})
    with pytest.raises(ValueError, match="before task 2 kept no sums"):
        learn_task(analytic(2), without, train, NONE, Context(0, 2))
    with pytest.raises(ValueError, match="sums of 2 filters of 1 channels, not of 3"):
        learn_task(analytic(3), before, train, NONE, Context(0, 2))


def test_auto_is_as_many_filters_as_the_first_task_has_images_for():
    auto = AnalyticConfig(filters="auto")
    assert [auto.count(n) for n in (159, 160, 900, 10_800, 10**6)] == [0, 1, 5, 60, 60]
    weights = [AnalyticConfig(filters=f).weight for f in (1, 5, 60)]
    assert weights == [weight_of(f) for f in (1, 5, 60)] == [3, 15, 32]
    assert AnalyticConfig(filters=7, weight=2).weight == 2
    assert auto.weight is None  # until the number is known
    method = gppdm(analytic={"filters": "auto"})
    few = learn(method, TASKS[:2])
    assert differences(few[2], learn(gppdm(), TASKS[:2])[2]) == []  # 12 images: none
    state = LearnerState.empty()
    for number, per_class in ((1, 160), (2, 6)):
        train = images_of(*TASKS[number - 1], per_class=per_class)
        state = learn_task(method, state, train, NONE, Context(0, number))
        assert len(state.extras["analytic"].tensors["filters"]) == 2  # for 320 images


def test_filters_are_those_of_the_first_task():
    before, train = learn(analytic(2), TASKS[:1])[1], images_of(*TASKS[1])
    states = [learn_task(analytic(2), before, train, NONE, Context(seed, 2)) for seed in (0, 7)]
    assert differences(*states) == []


def test_few_images_in_many_sums_are_told_from_others(caplog):
    shape, rng = (12, 12, 1), np.random.default_rng(0)

    def some(n):
        images = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        return LabelledImages(images, np.arange(n) % 2)

    def summed(images, filters):
        return learn_task(
            analytic(filters),
            LearnerState.empty(),
            images,
            LabelledImages.empty(shape),
            Context(0, 1),
        )

    mine, others, many = some(40), some(40), some(4000)
    few = summed(mine, 2)
    assert "fewer than 5 times as many" in caplog.text
    inside, outside = (leverages(few, images, Context(0, 1)) for images in (mine, others))
    assert inside.max() < outside.min()  # each is found
    caplog.clear()
    hidden = summed(LabelledImages.concatenate([mine, many]), 2)
    assert not caplog.text
    inside, outside = (leverages(hidden, images, Context(0, 1)) for images in (mine, others))
    share = (inside[:, None] < outside[None]).double().mean()  # the AUC
    assert 0.35 < share < 0.65
    assert leverages(learn(gppdm(), TASKS[:1])[1], images_of(0), Context(0, 1)) is None


def test_what_builds_a_network_of_timm_is_taken_from_what_is_trained():
    body = {"architecture": "resnet18", "arguments": {}, "scale": None}
    trained = {"image_shape": [*SHAPE], "classes": 2, "network": body}
    both = {"image_shape": [*SHAPE], "classes": 2, "weight": 1.0, "trained": trained}
    state = LearnerState(tasks=((0, 1),), image_shape=SHAPE, classifier=Weights(both, {}))
    described = _described(state, ClassifierConfig(network="timm:other"), SHAPE)
    assert described["network"] == body


def test_task_by_task_is_all_at_once():
    parts = [images_of(*classes) for classes in TASKS]
    by_task, at_once = LearnerState.empty(), LearnerState.empty()
    for number, part in enumerate(parts, start=1):
        by_task = learn_task(analytic(), by_task, part, NONE, Context(0, number))
    at_once = learn_task(
        analytic(), at_once, LabelledImages.concatenate(parts), NONE, Context(0, 1)
    )
    for name, tensor in vars(moments_of(at_once)).items():
        torch.testing.assert_close(
            getattr(moments_of(by_task), name), tensor, rtol=1e-5, atol=1e-4, msg=name
        )
    logits = [predict_logits(s, parts[0].images, Context(0, 3)) for s in (by_task, at_once)]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-3)
    assert (logits[0].argmax(1) == parts[0].labels).all()


@pytest.fixture(scope="module")
def both():
    """States of the tiny GPPDM with sums, and without."""
    return [learn(gppdm(soft_labels=0.5, analytic={"filters": f}), TASKS) for f in (2, 0)]


def test_what_is_trained_is_the_same_beside_sums(both):
    for state, without in zip(*both, strict=True):
        if state.classifier is not None:
            bare = replace(state, classifier=trained_part(state.classifier))
            extras = {k: v for k, v in bare.extras.items() if k not in ("moments", "analytic")}
            assert differences(replace(bare, extras=extras), without) == []
            assert trained_part(without.classifier) is without.classifier


def test_what_is_computed_is_what_the_method_analytic_computes(both):
    alone = learn(analytic(2), TASKS)
    images = images_of(*TASKS[2]).images
    logits = [
        predict_logits(states[3], images, Context(0, 3)) for states in (both[0], both[1], alone)
    ]
    np.testing.assert_allclose(logits[0], logits[1] + 6 * logits[2], rtol=1e-5, atol=1e-4)


def test_a_state_with_both_is_read_as_it_was_written(both, tmp_path):
    save_state(both[0][3], tmp_path / "state")
    assert differences(load_state(tmp_path / "state"), both[0][3]) == []


def test_the_classifier_of_the_task_before_is_gone_on_with(both):
    before = build_classifier(both[0][1].classifier)
    assert before.head.out_features == 2
    assert before.features(torch.zeros(1, 1, 8, 8)).shape[1] == before.head.in_features


def test_what_a_classifier_sees_decoded_is_summed_decoded(both):
    train, settings = images_of(0, 1), gppdm(analytic={"filters": 2}).analytic
    stored = replace(train, images=np.zeros((len(train), 4, 4, 2), np.float16))
    decode = Context(0, 1, decode=lambda images: train.images)
    found, _ = with_analytic(both[1][1], stored, NONE, settings, decode)
    expected, _ = with_analytic(both[1][1], train, NONE, settings, Context(0, 1))
    assert torch.equal(moments_of(found).sums, moments_of(expected).sums)


def test_vectors_and_private_generators_are_refused():
    with pytest.raises(ValueError, match=r"analytic\.filters = 2 is of images.*12 numbers"):
        gppdm(analytic={"filters": 2}).check((1, 1, 12), 2)
    with pytest.raises(ValueError, match=r"^filters is of images, .* method=ranpac"):
        analytic().check((1, 1, 12), 2)
    private = {"noise_multiplier": 1.0}
    text = re.escape("analytic.filters is 2, which keeps sums over real images; use 0")
    with pytest.raises(ValueError, match=text):
        gppdm(
            memory="adapters",
            prototypes={"start": "noise"},
            private=private,
            analytic={"filters": 2},
        )


def test_off_leaves_settings_as_they_were():
    assert "analytic" not in Method.model_validate(GPPDM).model_dump()
    assert gppdm(analytic={"filters": 2}).model_dump()["analytic"]["filters"] == 2
