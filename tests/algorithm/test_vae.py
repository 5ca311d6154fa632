import math

import numpy as np
import pytest
import torch
from tests.reference.tiny import CLASSIFIER, images_of, learn, tensors_of

from gppdm_pipeline.algorithm import vae as module
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.algorithm.vae import (
    VaeConfig,
    build_vae,
    draw_from_vae,
    fit_vae,
    negative_elbo,
    reconstruction_residuals,
)
from gppdm_pipeline.algorithm.vae_networks import ConvVae, check_image_shape
from gppdm_pipeline.methods import Method

TINY = {"width": 8, "latent_dim": 4}


def begun(*tasks, shape=(8, 8, 1)):
    state = LearnerState.empty()
    for number, classes in enumerate(tasks, start=1):
        state = state.begin(number, classes, shape)
    return state


def test_the_bound_equals_its_definition():
    torch.manual_seed(0)
    vae = ConvVae((8, 8, 1), 8, 3, 4)
    x, rows = torch.rand(5, 1, 8, 8), torch.tensor([0, 3, 1, 1, 2])
    noise = torch.randn(5, 3)
    found = negative_elbo(vae, x, rows, noise)
    mean, log_variance = vae.encode(x, rows)
    logits = vae.decode(mean + (log_variance / 2).exp() * noise, rows).sigmoid()
    reconstruction = -(x * logits.log() + (1 - x) * (1 - logits).log()).flatten(1).sum(1)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
    divergence = torch.distributions.kl_divergence(posterior, prior).sum(1)
    torch.testing.assert_close(found[0], reconstruction.mean(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], divergence.mean(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (12, 8, 3)])
def test_shapes(shape):
    height, width, channels = shape
    vae = ConvVae(shape, 8, 3, 2)
    rows = torch.tensor([0, 1])
    mean, log_variance = vae.encode(torch.rand(2, channels, height, width), rows)
    assert mean.shape == log_variance.shape == (2, 3)
    assert vae.decode(mean, rows).shape == (2, channels, height, width)


def test_images_that_cannot_be_halved_twice():
    with pytest.raises(ValueError, match=r"images of 10x8 cannot be halved twice.*multiples of 4"):
        check_image_shape((10, 8, 1))


def test_it_learns_what_a_class_looks_like():
    train = images_of(5, 2, 0, per_class=20)
    config = VaeConfig(**TINY, steps=200, batch_size=30, learning_rate=1e-2)
    state, log = fit_vae(begun((5, 2, 0)), config, train, Context(0, 1))
    losses = [value for _, value in log.curves["reconstruction_loss"]]
    assert losses[-1] < losses[0] - 1
    drawn = draw_from_vae(state, (0, 2, 5), 10, Context(0, 1), "draw")
    assert drawn.images.dtype == np.uint8
    assert drawn.labels.tolist() == [0] * 10 + [2] * 10 + [5] * 10
    means = {label: images_of(label).images.mean(0) for label in (0, 2, 5)}
    for label in (0, 2, 5):
        mean = drawn.of_classes([label]).images.mean(0)
        distances = {other: np.abs(mean - there).mean() for other, there in means.items()}
        assert min(distances, key=distances.get) == label
    assert len({image.tobytes() for image in drawn.images}) == 30


def test_it_grows_from_the_one_before():
    config = VaeConfig(**TINY, steps=2, batch_size=4, learning_rate=1e-9)
    first, _ = fit_vae(begun((5, 2)), config, images_of(5, 2), Context(0, 1))
    state = first.begin(2, (0,), (8, 8, 1))
    second, _ = fit_vae(state, config, images_of(5, 2, 0), Context(0, 2))
    old, new = first.extras["vae"].tensors, second.extras["vae"].tensors
    assert len(new["decoder_labels.weight"]) == len(old["decoder_labels.weight"]) + 1
    for name, tensor in old.items():
        torch.testing.assert_close(new[name][: len(tensor)], tensor, atol=1e-6, rtol=0)
    assert second.extras["vae"].config["classes"] == 3
    assert math.isclose(second.bytes(), sum(t.nbytes for t in new.values()))


def test_distillation_keeps_a_decoder_without_images_of_its_classes():
    config = VaeConfig(**TINY, steps=200, batch_size=30, learning_rate=1e-2)
    first, _ = fit_vae(begun((5, 2)), config, images_of(5, 2), Context(0, 1))
    state = first.begin(2, (0,), (8, 8, 1))
    kept, log = fit_vae(state, config, images_of(0), Context(0, 2))
    assert log.curves["distillation_loss"]
    before, after = (
        draw_from_vae(each, (5, 2), 20, Context(0, 3), "draw").images.astype(float)
        for each in (first, kept)
    )
    assert np.abs(after - before).mean() < 4  # the same latents, so the same images


def test_residuals_are_what_the_reconstruction_lacks():
    train = images_of(5, 2)
    state, _ = fit_vae(begun((5, 2)), VaeConfig(**TINY, steps=20), train, Context(0, 1))
    residuals = reconstruction_residuals(state, train, Context(0, 1))
    vae = build_vae(state)
    for i in (0, 11):
        x = torch.from_numpy(train.images[i]).permute(2, 0, 1)[None] / 255
        row = torch.tensor([state.classes.index(int(train.labels[i]))])
        mean, _ = vae.encode(x, row)
        torch.testing.assert_close(
            2 * vae.decode(mean, row).sigmoid() - 1 + residuals[i], 2 * x - 1, atol=1e-5, rtol=0
        )


def test_residuals_are_of_as_many_images_as_memory_may_hold(monkeypatch):
    train = images_of(5, 2)
    state, _ = fit_vae(begun((5, 2)), VaeConfig(**TINY, steps=3), train, Context(0, 1))
    whole = reconstruction_residuals(state, train, Context(0, 1))
    monkeypatch.setattr(module, "IN_MEMORY", 5 * 4 * 8 * 8)
    few = reconstruction_residuals(state, train, Context(0, 1))
    distances = (whole[None] - few[:, None]).abs().amax((2, 3, 4))
    assert len(few) == 5
    assert (distances.min(1).values < 1e-5).all()
    assert len(set(distances.argmin(1).tolist())) == 5


def test_few_held_classes_are_distilled_all_the_same():
    method = Method.model_validate(
        {
            "name": "vae_replay",
            "classifier": CLASSIFIER,
            "vae": {"width": 8, "latent_dim": 2, "steps": 3, "batch_size": 2},
            "replay": {"images_per_class": 3},
        }
    )
    state = learn(method, ((0, 1, 2), (0, 1)))[-1]
    assert all(tensor.isfinite().all() for tensor in tensors_of(state).values())
