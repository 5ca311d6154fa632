"""Drawing that begins at a Gaussian of each class's images."""

import numpy as np
import pytest
import torch
from tests.algorithm.test_replay import MEANS, SHAPE, BestDenoiser, draw
from tests.reference.tiny import gppdm, images_of, learn

from gppdm_pipeline.algorithm.classifier.gaussians import A_DIRECTION
from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.diffusion.network import DenoiserConfig
from gppdm_pipeline.algorithm.fitting.batches import to_unit_range
from gppdm_pipeline.algorithm.fitting.scale import scale_of
from gppdm_pipeline.algorithm.generator.gaussians import (
    DIRECTIONS,
    OfGaussians,
    gaussian_of,
    with_gaussians,
)
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages

FROM_GAUSSIANS = {"replay": {"images_per_class": 8, "gaussians": 0.2}}


def state_of(images, replay=None, seed=0, before=None):
    state = (before or LearnerState()).begin(1, images.classes, images.image_shape)
    replay = replay or LabelledImages.empty(images.image_shape)
    return with_gaussians(state, images, replay, Context(seed, 1))


def labelled(x, label=3):
    """Numbers in [-1, 1], [n, d], as images of `SHAPE`'s kind."""
    stored = ((x + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    return LabelledImages(stored.reshape(len(x), *SHAPE), np.full(len(x), label))


def drawn(state, label, count, seed=0):
    numbers = np.arange(count)
    images = OfGaussians(state, np.full(count, label), numbers, Context(seed, 1))
    assert len(images) == count
    return images[torch.arange(count)]


def test_images_have_the_mean_and_the_spread_of_their_class():
    """A Gaussian that is wide in two directions and the same in all others, within [-1, 1]."""
    rng, d = np.random.default_rng(0), 16
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    mean, spreads = rng.uniform(-0.2, 0.2, d), np.array([0.15, 0.1, *[0.03] * (d - 2)])
    x = mean + rng.normal(size=(1000, d)) * spreads @ basis.T
    found = drawn(state_of(labelled(x)), 3, 4000).flatten(1).double().numpy()
    # Standard errors: of a mean 0.15 / sqrt(1000), of a spread 1 / sqrt(2 * 1000) of it.
    np.testing.assert_allclose(found.mean(0), mean, atol=4 * 0.15 / 1000**0.5)
    along = ((found - found.mean(0)) @ basis).std(0)
    np.testing.assert_allclose(along[:2], spreads[:2], rtol=0.1)
    np.testing.assert_allclose(along[2:], spreads[2:], rtol=0.2)


def test_no_direction_is_of_few_images():
    """A direction of its own would show what one image alone has."""
    rng = np.random.default_rng(0)
    for count in (1, A_DIRECTION - 1, A_DIRECTION, 5 * A_DIRECTION, 200 * A_DIRECTION):
        state = state_of(labelled(rng.uniform(-1, 1, (count, 16))))
        directions = gaussian_of(state, 3)["directions"]
        assert len(directions) == min(count // A_DIRECTION, 16, DIRECTIONS)
        assert torch.isfinite(drawn(state, 3, 2)).all()


def test_an_image_is_a_function_of_its_seed_class_and_number():
    state = state_of(images_of(5, 2, per_class=40))
    labels, numbers = np.array([5, 2, 5, 5]), np.array([0, 0, 1, 7])
    images = OfGaussians(state, labels, numbers, Context(0, 4))[torch.tensor([3, 1])]
    assert torch.equal(images[0], drawn(state, 5, 8)[7])
    assert torch.equal(images[1], drawn(state, 2, 1)[0])
    assert not torch.equal(images[1], drawn(state, 2, 1, seed=1)[0])
    assert images.abs().max() <= 1


def test_classes_that_come_back_are_of_their_replay_too():
    first = state_of(images_of(5, 2, per_class=20))
    again = images_of(2, 0, per_class=10)
    replay = LabelledImages.concatenate([images_of(5, per_class=4), images_of(2, per_class=20)])
    after = with_gaussians(first.begin(2, again.classes, (8, 8, 1)), again, replay, Context(0, 2))
    for name, tensor in gaussian_of(first, 5).items():
        assert torch.equal(gaussian_of(after, 5)[name], tensor)
    both = LabelledImages.concatenate([again, replay]).of_classes([2])
    mean = to_unit_range(both.images, CPU).flatten(1).mean(0)
    torch.testing.assert_close(gaussian_of(after, 2)["mean"].float(), mean, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("signal", [0.1, 0.5])
def test_the_distribution_is_that_of_the_denoiser(signal):
    """Where the Gaussian is the data's, as the best denoiser's is, nothing changes."""
    rng = np.random.default_rng(0)
    state = state_of(labelled(rng.normal(MEANS[8], 0.25, (2000, 16)), label=8))
    begun = OfGaussians(state, np.full(500, 8), np.arange(500), Context(0, 1))
    denoiser = BestDenoiser(DenoiserConfig(), spread=0.25)
    images = draw(denoiser, [1] * 500, DenoiserConfig(), begun=(begun, signal)) / 127.5 - 1
    assert denoiser.share(denoiser.calls[0][0][0]) >= signal
    assert images.mean() == pytest.approx(MEANS[8], abs=0.02)
    assert images.std() == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize("memory", ["shared", "adapters"])
def test_replay_begins_there(memory):
    """Next to all of the signal is left: it is those images, but for what the last step does."""
    nearly = {"replay": {"images_per_class": 8, "gaussians": 1 - 1e-9}}
    method = gppdm(memory=memory, **nearly)
    state = learn(method, [(5, 2), (0,)])[-1]
    context = Context(0, 3)
    replay, _ = method.synthesise_replay(state, context)
    for label in (5, 2, 0):
        begun = scale_of(state, CPU).stored(drawn(state, label, 8)).permute(0, 2, 3, 1).numpy()
        images = replay.of_classes([label]).images
        assert np.abs(images.astype(int) - begun).max() <= 5


def test_without_it_a_state_keeps_no_gaussian():
    assert "gaussians" not in learn(gppdm(), [(5, 2)])[-1].extras
    assert "gaussians" in learn(gppdm(**FROM_GAUSSIANS), [(5, 2)])[-1].extras
