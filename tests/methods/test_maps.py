"""Methods on maps of an autoencoder: float16, of no bound, with as few places as 4x4."""

import copy

import numpy as np
import pytest
import torch
from tests.methods.test_contract import SETTINGS, VARIANTS
from tests.reference.tiny import differences, learn, maps_of

from gppdm_pipeline.algorithm.classifier.network import predict_logits
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.methods import Method, learn_task

GENERATORS = ("cpdm", "ddgr", "diffusion_replay", "gppdm", "vae_replay")
TASKS = ((9, 2), (5,))


@pytest.fixture(scope="module", params=[*SETTINGS, "gppdm, adapters"])
def method(request):
    return Method.model_validate(copy.deepcopy((SETTINGS | VARIANTS)[request.param]))


@pytest.fixture(scope="module")
def states(method):
    return learn(method, TASKS, images_of=maps_of)


def test_maps_are_learnt_and_replayed(method, states):
    method.check((4, 4, 4), 10)
    assert states[2].image_shape == (4, 4, 4)
    if method.name not in (*GENERATORS, "gaussian_replay"):
        return
    replay, _ = method.synthesise_replay(states[2], Context(0, 3), [])
    assert replay.images.dtype == np.float16
    assert replay.image_shape == (4, 4, 4)
    assert set(replay.classes) == {2, 5, 9}
    assert np.isfinite(replay.images).all()
    assert np.abs(replay.images).max() > 2  # nothing keeps them in [-1, 1]
    if method.name == "vae_replay":
        assert np.abs(replay.images).max() < 40  # and they are no bytes


def test_the_same_maps_and_seed_give_the_same_bits(method, states):
    if method.reads_earlier_images:
        return
    train = maps_of(*TASKS[1])
    again = learn_task(method, states[1], train, train, Context(0, 2))
    assert differences(again, states[2]) == []


def test_each_channel_has_unit_spread_in_the_first_task(method, states):
    if method.name not in GENERATORS:
        return
    scale = states[1].extras["scale"].tensors
    assert scale["matrix"].shape == (4, 4)
    assert all(torch.equal(scale[k], states[2].extras["scale"].tensors[k]) for k in scale)


def decode(maps):
    """Pictures of twice the side, of the mean channel."""
    grey = np.clip(maps.astype(np.float32).mean(3, keepdims=True) * 20 + 60, 0, 255)
    return np.repeat(np.repeat(grey, 2, 1), 2, 2).astype(np.uint8)


SEEING = (
    *("cpdm, sums", "ewc", "exemplar", "gaussian_replay", "gppdm, adapters", "joint", "lwf"),
    "vae_replay",
)


@pytest.mark.parametrize("name", SEEING)
def test_a_classifier_of_images_sees_what_maps_are_decoded_to(name):
    settings = copy.deepcopy((SETTINGS | VARIANTS)[name])
    settings["classifier"] = {**settings["classifier"], "sees": "images"}
    if name == "vae_replay":
        settings["order"] = "classifier_first"
    method = Method.model_validate(settings)
    assert not method.classifies_what_is_drawn
    state = learn(method, TASKS, images_of=maps_of, decode=decode)[2]
    assert state.image_shape == (4, 4, 4)
    assert state.classifier.config["image_shape"] == [8, 8, 1]
    maps = maps_of(*TASKS[0]).images
    found = predict_logits(state, maps, Context(0, 2, decode=decode))
    np.testing.assert_array_equal(found, predict_logits(state, decode(maps), Context(0, 2)))
    assert found.std() > 0
