from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.reference import gpm
from tests.reference.tiny import SHAPE, gppdm, images_of, learn
from torch import nn

from gppdm_pipeline.algorithm.condition.table import ConditionTable, label_codes, make_token_map
from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.diffusion.network import build_unet
from gppdm_pipeline.algorithm.diffusion.process import Process
from gppdm_pipeline.algorithm.fitting.batches import to_unit_range
from gppdm_pipeline.algorithm.generator import parts as generator
from gppdm_pipeline.algorithm.generator import residuals as generator_residuals
from gppdm_pipeline.algorithm.generator.bases import extend_bases
from gppdm_pipeline.algorithm.generator.draw import replay_of
from gppdm_pipeline.algorithm.generator.parts import add_classes
from gppdm_pipeline.algorithm.generator.residuals import denoising_residuals
from gppdm_pipeline.algorithm.state import LearnerState

CONTEXT = Context(0, 1)


def with_classes(tasks, settings, seed=0):
    state = LearnerState.empty()
    for number, classes in enumerate(tasks, start=1):
        state = state.begin(number, classes, SHAPE)
        state = add_classes(state, images_of(*classes), settings, Context(seed, number))
    return state.condition


@pytest.mark.parametrize("start", ["class_mean", "noise"])
def test_labels_and_prototypes_follow_their_class(start):
    settings = gppdm(prototypes={"start": start})
    one = with_classes([(3, 8), (0,)], settings)
    other = with_classes([(0,), (8,), (3,)], settings)
    for part in ("embeddings", "prototypes", "starts"):
        tensors, again = getattr(one, part), getattr(other, part)
        assert tensors.keys() == again.keys() == {0, 3, 8}
        assert all(torch.equal(tensors[label], again[label]) for label in tensors)
    assert torch.equal(one.token_map, other.token_map)
    reseeded = with_classes([(3, 8), (0,)], settings, seed=1)
    assert not torch.equal(one.token_map, reseeded.token_map)
    assert not torch.equal(one.embeddings[3], reseeded.embeddings[3])


def test_labels_and_token_map_are_those_of_the_seed():
    condition = with_classes([(3, 8), (0,)], gppdm())
    codes = label_codes(32, Context(0, 1).fixed_generator("labels"))
    assert all(torch.equal(code, codes[label]) for label, code in condition.embeddings.items())
    assert torch.equal(
        condition.token_map,
        make_token_map(SHAPE, 2, 32, Context(0, 1).fixed_generator("token map")),
    )


def test_a_class_that_returns_keeps_what_it_has():
    settings = gppdm(prototypes={"start": "class_mean"})
    once = with_classes([(3, 8)], settings)
    again = with_classes([(3, 8), (8, 1)], settings)
    assert torch.equal(once.prototypes[8], again.prototypes[8])
    assert again.prototypes.keys() == {1, 3, 8}


def test_more_classes_than_labels():
    text = r"denoiser.condition_dim is 32, .* too few for class 32; set it to 33 at least"
    with pytest.raises(ValueError, match=text):
        with_classes([(3, 32)], gppdm())


class ShowsItsLabel(nn.Module):
    """In place of a trained denoiser: every image is of the brightness of its label's class."""

    def __init__(self, unet, patch, precision):
        super().__init__()
        self.codes = label_codes(32, Context(0, 1).fixed_generator("labels"))
        self.shares = Process(gppdm().denoiser, CPU).shares

    def forward(self, x, tau, conditions):
        tokens = conditions.of(slice(None)).tokens
        classes = (tokens[:, 0] @ self.codes.T).argmax(1)
        clean = (classes.float() / 16 - 1)[:, None, None, None]
        share = self.shares[tau][:, None, None, None]
        noise = (x - share.sqrt() * clean) / (1 - share).sqrt()
        return share.sqrt() * noise - (1 - share).sqrt() * clean


@pytest.fixture(scope="module")
def state():
    return learn(gppdm(), [(3, 8), (0,)])[-1]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_replay_shows_the_class_of_its_label(state, monkeypatch, batch_size):
    monkeypatch.setattr(generator, "Denoiser", ShowsItsLabel)
    settings = gppdm(replay={"batch_size": batch_size, "sampler_steps": 10})
    replay = replay_of(state, (8, 0, 3), 3, settings, CONTEXT, "test")
    assert replay.labels.tolist() == [8] * 3 + [0] * 3 + [3] * 3
    assert replay.image_shape == SHAPE
    np.testing.assert_allclose(replay.images.mean((1, 2, 3)), replay.labels / 16 * 127.5, atol=1)


def test_replay_is_drawn_from_seed_task_and_stage(state):
    def draw(seed, task, stage):
        return replay_of(state, (8, 0), 2, gppdm(), Context(seed, task), stage).images.tobytes()

    assert draw(0, 1, "a") == draw(0, 1, "a")
    assert len({draw(0, 1, "a"), draw(1, 1, "a"), draw(0, 2, "a"), draw(0, 1, "b")}) == 4


def test_bases_hold_what_the_layers_are_fed():
    """All tokens of the new classes, not one less; energies per kind; ranks in the log."""
    settings = gppdm(projection={"energy_q": 0.6, "energy_out": 1.0})
    state = learn(settings, [(3, 8)])[-1]
    state, log = extend_bases(replace(state, bases={}), settings, Context(0, 1))
    assert len(state.bases) == 16
    for name, basis in state.bases.items():
        rank = basis.shape[1]
        assert log.metrics[f"basis_rank/{name}"] == rank
        assert log.metrics[f"basis_free/{name}"] == 1  # nothing is old yet
        if name.endswith(("to_k", "to_v")):
            assert rank == 10  # a label and four patches for each of two classes
            tokens = ConditionTable(state.condition, (3, 8), 0, False)(torch.arange(2)).tokens
            inputs = tokens.detach().flatten(0, 1).T
            assert gpm.held_share(basis, inputs) == pytest.approx(1, abs=1e-6)
    ranks = {name.split("attn2.")[1]: [] for name in state.bases}
    for name, basis in state.bases.items():
        ranks[name.split("attn2.")[1]].append(basis.shape[1])
    assert max(ranks["to_q"]) < min(ranks["to_out.0"])


def test_what_is_free_is_what_new_inputs_have_outside_the_basis(caplog):
    """Keys and values: of the tokens of the new classes. A basis of everything leaves nothing."""
    settings = gppdm(projection={"images_per_class": 4})
    _, before, state = learn(settings, [(3,), (8,)])
    again = Context(0, 2)
    _, log = extend_bases(replace(state, bases=before.bases), settings, again)
    assert not caplog.records
    tokens = ConditionTable(state.condition, (8,), 0, False)(torch.arange(1)).tokens[0].detach()
    for name, basis in before.bases.items():
        if name.endswith(("to_k", "to_v")):
            outside = 1 - gpm.held_share(basis, tokens.T)
            assert 0.1 < outside < 0.99
            assert log.metrics[f"basis_free/{name}"] == pytest.approx(outside, abs=1e-6)
    full = {name: torch.eye(len(basis)) for name, basis in before.bases.items()}
    _, log = extend_bases(replace(state, bases=full), settings, again)
    assert all(log.metrics[f"basis_free/{name}"] < 1e-6 for name in full)
    assert "more than 90 % in what they are fed for old ones" in caplog.text


def test_layers_that_are_not_projected_have_no_basis():
    assert learn(gppdm(projection={"layers": ()}), [(3,)])[-1].bases == {}
    bases = learn(gppdm(projection={"layers": ("v",)}), [(3,)])[-1].bases
    assert len(bases) == 4
    assert all(name.endswith("attn2.to_v") for name in bases)


def test_the_kept_network_is_a_plain_one(state):
    unet = build_unet(state.denoiser)
    assert set(unet.state_dict()) == set(state.denoiser.tensors)
    assert not any("parametrizations" in name for name in state.denoiser.tensors)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_residuals_are_what_the_denoiser_leaves_out(monkeypatch, prediction):
    """A denoiser that sees nothing but grey, told the classes of the images it is shown."""
    settings = gppdm(denoiser={"prediction": prediction}, replay={"batch_size": 5})
    state, images = learn(settings, [(4, 1)])[-1], images_of(1, 4)
    share = Process(settings.denoiser, CPU).shares
    told = []

    def grey(x, tau, conditions):
        told.append(conditions.tokens[:, 0])
        signal, sigma = share[tau[0]].sqrt(), (1 - share[tau[0]]).sqrt()
        assert 0.5 <= share[tau[0]] < 0.51
        return x / sigma if prediction == "epsilon" else signal / sigma * x

    monkeypatch.setattr(generator_residuals, "denoiser_of", lambda *_: grey)
    residuals = denoising_residuals(state, images, settings, CONTEXT)
    order = torch.randperm(len(images), generator=CONTEXT.generator("texture"))
    expected = to_unit_range(images.images, CPU)[order]
    torch.testing.assert_close(residuals, expected, atol=1e-5, rtol=0)
    labels = [state.condition.embeddings[int(k)] for k in images.labels[order.numpy()]]
    assert torch.equal(torch.cat(told), torch.stack(labels))
    monkeypatch.setattr(generator_residuals, "TEXTURES", 3)
    few = denoising_residuals(state, images, settings, CONTEXT)
    assert torch.equal(few, residuals[:3])


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, 6),  # of 32 directions, five a class
        ({"prototypes": {"route": "concat"}}, 32),
        ({"projection": {"layers": ["q", "out"]}}, 32),
        ({"projection": {"energy_k": 0.9, "energy_v": 0.9}}, 32),
    ],
)
def test_it_is_said_beforehand_if_tokens_will_fill_keys_and_values(changes, fits, caplog):
    method = gppdm(**changes)
    method.check(SHAPE, fits)
    assert not caplog.records
    if fits < 32:
        method.check(SHAPE, fits + 1)
        assert "7 classes of 5 tokens each take more than the 32 directions" in caplog.text
        assert "denoiser.condition_dim: 40" in caplog.text
