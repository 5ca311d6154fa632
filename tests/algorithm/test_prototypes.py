import numpy as np
import pytest
import torch
from tests.reference.tiny import images_of

from gppdm_pipeline.algorithm.classifier.network import (
    ClassifierConfig,
    fit_classifier,
    predict_logits,
)
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.batches import to_unit_range
from gppdm_pipeline.algorithm.generator import prototypes as module
from gppdm_pipeline.algorithm.generator.prototypes import PrototypeConfig, prototype_starts
from gppdm_pipeline.algorithm.state import LearnerState

TRAIN = images_of(6, 2, 4, per_class=9)
CONTEXT = Context(0, 1)


def as_tensors(images):
    return torch.tensor(images.transpose(0, 3, 1, 2) / 127.5 - 1, dtype=torch.float32)


@pytest.fixture(scope="module")
def classified():
    state = LearnerState.empty().begin(1, (6, 2, 4), TRAIN.image_shape)
    config = ClassifierConfig(width=8, steps=8, batch_size=12)
    return fit_classifier(state, config, TRAIN, TRAIN, CONTEXT)[0]


def test_a_mean_of_many_images_is_taken_a_few_rows_at_a_time(monkeypatch):
    expected = prototype_starts("class_mean", TRAIN, LearnerState.empty(), CONTEXT)
    seen = []
    monkeypatch.setattr(module, "IN_MEMORY", 9 * 8 * 4 * 3)  # three of eight rows
    monkeypatch.setattr(
        module, "to_unit_range", lambda *a: seen.append(a[0].shape) or to_unit_range(*a)
    )
    starts = prototype_starts("class_mean", TRAIN, LearnerState.empty(), CONTEXT)
    assert seen == [(9, 3, 8, 1), (9, 3, 8, 1), (9, 2, 8, 1)] * 3
    for label, start in starts.items():
        torch.testing.assert_close(start, expected[label], atol=1e-6, rtol=0)


def test_class_mean(classified):
    starts = prototype_starts("class_mean", TRAIN, LearnerState.empty(), CONTEXT)
    assert starts.keys() == {2, 4, 6}
    for label, start in starts.items():
        mean = TRAIN.images[TRAIN.labels == label].mean(0) / 127.5 - 1
        np.testing.assert_allclose(start[0], mean[..., 0], atol=1e-6)


@pytest.mark.parametrize(("start", "best"), [("most_confident", max), ("least_confident", min)])
def test_the_image_that_the_classifier_is_most_or_least_sure_of(classified, start, best):
    logits = predict_logits(classified, TRAIN.images, CONTEXT).astype(float)
    starts = prototype_starts(start, TRAIN, classified, CONTEXT)
    assert starts.keys() == {2, 4, 6}
    for label in starts:
        column = classified.classes.index(label)
        sure = {
            i: np.exp(logits[i, column]) / np.exp(logits[i]).sum()
            for i in np.flatnonzero(TRAIN.labels == label)
        }
        chosen = best(sure, key=sure.get)
        torch.testing.assert_close(starts[label], as_tensors(TRAIN.images[[chosen]])[0])


def test_noise_depends_on_seed_and_class_alone():
    starts = prototype_starts("noise", TRAIN, LearnerState.empty(), CONTEXT)
    later = prototype_starts("noise", images_of(4, 9), LearnerState.empty(), Context(0, 3))
    other = prototype_starts("noise", TRAIN, LearnerState.empty(), Context(1, 1))
    assert torch.equal(starts[4], later[4])
    assert len({start.numpy().tobytes() for start in (*starts.values(), other[4], later[9])}) == 5
    assert torch.stack(list(starts.values())).std() == pytest.approx(1, abs=0.2)


def test_starts_are_not_views_of_each_other(classified):
    for start in ("class_mean", "most_confident", "noise"):
        starts = prototype_starts(start, TRAIN, classified, CONTEXT)
        assert len({tensor.untyped_storage().data_ptr() for tensor in starts.values()}) == 3
        assert all(tensor.untyped_storage().nbytes() == 8 * 8 * 4 for tensor in starts.values())


@pytest.mark.parametrize(
    ("route", "concatenated", "tokens"),
    [
        ("concat", True, False),
        ("tokens", False, True),
        ("both", True, True),
        ("none", False, False),
    ],
)
def test_routes(route, concatenated, tokens):
    config = PrototypeConfig(route=route)
    assert (config.concatenated, config.shown_as_tokens) == (concatenated, tokens)
