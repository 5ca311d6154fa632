import numpy as np
import pytest
import torch

from gppdm_pipeline.algorithm.context import Context, resolve_device


def first(seed, task, stage):
    return torch.rand((), generator=Context(seed, task).generator(stage)).item()


def test_generators_depend_on_seed_task_and_stage_alone():
    torch.manual_seed(5)
    once = first(0, 1, "bases")
    torch.manual_seed(6)
    np.random.seed(6)
    assert first(0, 1, "bases") == once
    draws = {
        first(seed, task, stage) for seed in range(3) for task in range(3) for stage in ("a", "b")
    }
    assert len(draws) == 18


def test_initialisation_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    layers = []
    for seed in (0, 0, 1):
        with Context(seed, 1).initialisation("classifier"):
            layers.append(torch.nn.Linear(4, 4).weight)
        assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(layers[0], layers[1])
    assert not torch.equal(layers[0], layers[2])


def test_names_of_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in {"cpu", "cuda", "mps"}
    with pytest.raises(ValueError, match="device is 'tpu'; allowed are auto, cpu, cuda, mps"):
        resolve_device("tpu")


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'cuda', which this machine does not have; use device"):
        resolve_device("cuda")
    assert resolve_device("auto") == torch.device("cpu")
