"""Methods with a generator on vectors: the contract that depends on what is learnt."""

import copy

import numpy as np
import pytest
import torch
from tests.methods.test_contract import SETTINGS, VARIANTS
from tests.reference.tiny import PARTS, differences, learn, stopping, vectors_of

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.disk.checkpoint_files import CheckpointFolder
from gppdm_pipeline.algorithm.disk.states import load_state, save_state
from gppdm_pipeline.methods import Method, learn_task

NAMES = ("cpdm", "ddgr", "diffusion_replay", "gppdm", "vae_replay")
VARIED = ("gppdm, distilled and guided", "gppdm, adapters", "ddgr, adapters")
MUON = "gppdm, moved by Muon"
TASKS = ((9, 2), (5,), (2, 0))  # class 2 comes back


@pytest.fixture(scope="module", params=[*NAMES, *VARIED, MUON])
def method(request):
    settings = copy.deepcopy((SETTINGS | VARIANTS)[request.param])
    if "denoiser" in settings:
        settings["denoiser"] |= {"width": 16, "blocks": 1}
    return Method.model_validate(settings)


@pytest.fixture(scope="module")
def states(method):
    return learn(method, TASKS, images_of=vectors_of)


def test_replay_is_vectors_of_every_old_class(method, states):
    for task in (2, 3):
        replay, _ = method.synthesise_replay(states[task - 1], Context(0, task))
        assert replay.images.dtype == np.float16
        assert replay.image_shape == (1, 1, 12)
        assert set(replay.classes) == set(states[task - 1].classes)
        assert np.isfinite(replay.images).all()
        assert np.abs(replay.images).max() > 2  # nothing keeps them in [-1, 1]


def test_the_scale_stays_that_of_the_first_task(states):
    first = states[1].extras["scale"].tensors
    assert all(torch.equal(first[k], states[3].extras["scale"].tensors[k]) for k in first)


def test_same_seed_same_bits_and_states_come_back_from_disk(method, states, tmp_path):
    save_state(states[1], tmp_path / "state")
    loaded = load_state(tmp_path / "state")
    assert differences(loaded, states[1]) == []
    train = vectors_of(*TASKS[1])
    again = learn_task(method, loaded, train, train, Context(0, 2))
    assert differences(again, states[2]) == []


def test_a_stopped_task_goes_on_to_the_same_bits(method, states, tmp_path):
    train, folder = vectors_of(*TASKS[1]), CheckpointFolder(tmp_path, "key", every=0)
    place, stopped = stopping(folder, after=5)
    with pytest.raises(KeyboardInterrupt):
        learn_task(method, states[1], train, train, Context(0, 2, checkpoints=place))
    assert stopped
    again = learn_task(method, states[1], train, train, Context(0, 2, checkpoints=folder))
    assert differences(again, states[2]) == []


def test_projected_keys_and_values_of_old_classes_stay():
    denoiser = {**PARTS["denoiser"], "width": 16, "blocks": 2}
    settings = {**PARTS, "denoiser": denoiser, "projection": {"images_per_class": 2}}
    method = Method.model_validate({"name": "gppdm", **settings})
    first = learn(method, TASKS[:1], images_of=vectors_of)[1]
    assert {name.rsplit(".", 1)[1] for name in first.bases} >= {"to_q", "to_k", "to_v"}
    train = vectors_of(*TASKS[1])
    replay, _ = method.synthesise_replay(first, Context(0, 2))
    after, log = method.train_generator(first, train, replay, Context(0, 2))
    drifts = {k: v for k, v in log.metrics.items() if "_drift/" in k}
    assert drifts
    assert max(drifts.values()) < 1e-5  # float32 rounding, of tokens that the bases span
    moved = [k for k in first.denoiser.tensors if "attn2.to_v" in k]
    assert any(not torch.equal(first.denoiser.tensors[k], after.denoiser.tensors[k]) for k in moved)
