"""Steps that are recorded on a CUDA device; these tests need one, but for the first."""

import pytest
import torch
from tests.methods.test_contract import SETTINGS, TASKS, VARIANTS
from tests.reference.tiny import Stopped, images_of, learn, stopping, tensors_of

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.disk.checkpoint_files import CheckpointFolder
from gppdm_pipeline.algorithm.fitting import loop
from gppdm_pipeline.algorithm.fitting.graphs import recorded, rows_where
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.methods import Method, learn_task

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
ON_CUDA = {"device": torch.device("cuda")}
STEPS = 12  # some of which are replayed


def longer(name):
    settings = dict((SETTINGS | VARIANTS)[name])
    for part in settings.keys() & {"classifier", "denoiser", "vae"}:
        settings[part] = {**settings[part], "steps": STEPS}
    return Method.model_validate(settings)


def farthest(state, other):
    """The largest difference of a tensor, relative to its size, and its name."""
    theirs = tensors_of(other)
    return max(
        (
            float(
                (tensor.double() - theirs[name].double()).norm() / (tensor.double().norm() + 1e-3)
            ),
            name,
        )
        for name, tensor in tensors_of(state).items()
        if name.startswith(("classifier/", "denoiser/", "vae/", "prototypes/"))
    )


def test_elsewhere_a_step_is_taken_as_it_comes():
    def step(batch):
        return {}

    assert recorded(step, torch.Generator()) is step
    assert rows_where(torch.tensor([False, True, True])).tolist() == [1, 2]


@cuda
@pytest.mark.parametrize("name", [*SETTINGS, *VARIANTS])
def test_a_replayed_step_does_what_the_step_does(name, monkeypatch):
    method, replays = longer(name), []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "replay", lambda graph: replays.append(1) or replay(graph)
    )
    states = learn(method, TASKS, **ON_CUDA)
    assert replays
    monkeypatch.setattr(loop, "recorded", lambda step, generator: step)
    plain = learn(method, TASKS, **ON_CUDA)
    far, name = farthest(states[1], plain[1])
    assert far < 1e-3, name
    assert all(tensor.isfinite().all() for tensor in tensors_of(states[-1]).values())


@cuda
@pytest.mark.parametrize("name", ["gppdm, distilled and guided", "vae_replay", "ewc"])
def test_the_same_seed_learns_the_same(name):
    first, second = (learn(longer(name), TASKS, **ON_CUDA)[-1] for _ in range(2))
    far, name = farthest(first, second)
    assert far < 1e-3, name


@cuda
@pytest.mark.parametrize("name", ["gppdm", "gppdm, distilled and guided"])
def test_what_was_stopped_goes_on(name, tmp_path):
    method = longer(name)
    whole = learn(method, TASKS[:1], **ON_CUDA)[1]
    train = images_of(*TASKS[0])
    folder = CheckpointFolder(tmp_path, "key", every=0)
    for after in (2, 7, STEPS + 5):
        checkpoints, _ = stopping(folder, after)
        with pytest.raises(Stopped):
            learn_task(
                method,
                LearnerState.empty(),
                train,
                train,
                Context(0, 1, checkpoints=checkpoints, **ON_CUDA),
            )
    context = Context(0, 1, checkpoints=folder, **ON_CUDA)
    resumed = learn_task(method, LearnerState.empty(), train, train, context)
    far, name = farthest(whole, resumed)
    assert far < 1e-3, name


@cuda
def test_keys_and_values_of_old_tokens_stay_in_a_recording():
    states = learn(longer("gppdm"), TASKS[:2], **ON_CUDA)
    before, after = (state.denoiser.tensors for state in states[1:])
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    for name, basis in states[1].bases.items():
        weight = f"{name}.weight"
        assert weight in moved
        change = (after[weight] - before[weight]).double() @ basis.double()
        assert change.norm() < 1e-5 * before[weight].double().norm()


@cuda
def test_bfloat16():
    state = learn(longer("gppdm, distilled and guided"), TASKS, precision="bfloat16", **ON_CUDA)[-1]
    assert all(tensor.isfinite().all() for tensor in tensors_of(state).values())
