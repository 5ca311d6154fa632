"""Between what is stored and what a generator is given: nothing is lost, nothing is clipped."""

import numpy as np
import pytest
import torch
from tests.reference.tiny import images_of, vectors_of

from gppdm_pipeline.algorithm.context import CPU
from gppdm_pipeline.algorithm.fitting import scale as module
from gppdm_pipeline.algorithm.fitting.batches import PIXELS, to_unit_range
from gppdm_pipeline.algorithm.fitting.scale import scale_of, whitening_of, with_scale
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages


def maps_of(*classes):
    """Vectors, four of them as a map of 2 x 2."""
    vectors = vectors_of(*classes, per_class=400)
    images = vectors.images.reshape(-1, 2, 2, 12)
    return LabelledImages(images, vectors.labels[::4].copy())


SPACES = {"vectors": vectors_of(3, 8, per_class=400), "maps": maps_of(3, 8)}


@pytest.fixture(params=sorted(SPACES))
def images(request, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 7)  # of which 800 is no multiple
    return SPACES[request.param]


def scale(images):
    return scale_of(with_scale(LearnerState.empty(), images), CPU)


def test_what_is_given_has_unit_covariance_within_classes(images):
    given = scale(images).given(to_unit_range(images.images, CPU)).movedim(1, -1)
    assert given.mean((0, 1, 2)).abs().max() < 1e-3
    within = []
    for label in images.classes:
        of_class = given[torch.from_numpy(images.labels == label)].reshape(-1, 12)
        within.append(of_class - of_class.mean(0))
    covariance = torch.cat(within).T.cov(correction=0)
    # One direction of twelve may have less than the variance that it is taken to have.
    assert (covariance.diag() < 1.001).all()
    assert (covariance.diag() > 0.999).sum() >= 11
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-3


def test_few_images_do_not_blow_up_what_they_do_not_show():
    few, many = vectors_of(3, per_class=4), vectors_of(3, 8, per_class=100)
    given = scale(few).given(to_unit_range(many.images, CPU))
    assert given.std() < 5


def test_what_is_stored_comes_back(images):
    found = scale(images)
    x = to_unit_range(images.images, CPU)
    stored = found.stored(found.given(x)).permute(0, 2, 3, 1).numpy()
    assert stored.dtype == found.dtype == np.float16
    # One rounding to float16 of numbers below 64, and float32's of two products.
    np.testing.assert_allclose(stored, images.images, atol=0.04, rtol=0)


def test_nothing_but_pixels_has_a_bound(images):
    x = torch.tensor([-3.0, 0.5, 3.0]).expand(1, 1, 1, 3)
    assert torch.equal(scale(images).bounded(x), x)
    assert PIXELS.bounded(x).flatten().tolist() == [-1, 0.5, 1]
    far = scale(images).stored(torch.full((1, 12, 1, 1), 1e9))
    assert far.isfinite().all()
    assert far.abs().max() > 6e4


def test_pixels_are_as_they_were():
    images, state = images_of(1, 2), LearnerState.empty()
    assert with_scale(state, images) is state
    x = to_unit_range(images.images, CPU)
    found = scale_of(state, CPU)
    assert found.given(x) is x
    assert found.numbers(x) is x
    assert torch.equal(found.stored(x).permute(0, 2, 3, 1), torch.from_numpy(images.images))


def test_the_first_task_decides():
    first = with_scale(LearnerState.empty(), vectors_of(1))
    assert with_scale(first, vectors_of(2)) is first


def test_one_image_has_a_scale():
    one = vectors_of(3, per_class=1)
    assert whitening_of(one).matrix.isfinite().all()


def test_numbers_that_do_not_vary_are_no_fault():
    images = vectors_of(1, per_class=20)
    images.images[..., 3] = 7
    found = whitening_of(images)
    x = scale(images).given(to_unit_range(images.images, CPU))
    assert found.matrix.isfinite().all()
    assert x.abs().max() < 10
