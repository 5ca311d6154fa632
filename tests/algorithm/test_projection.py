"""Bases against reference/gpm.py, and updates that leave old outputs where they were."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from tests.reference import gpm
from torch import nn

from gppdm_pipeline.algorithm.diffusion.network import DenoiserConfig, unet_config
from gppdm_pipeline.algorithm.diffusion.projection import (
    OrthogonalUpdate,
    cross_attention_layers,
    extend_basis,
    input_moments,
    orthogonal_updates,
)
from gppdm_pipeline.algorithm.fitting.average import Average
from gppdm_pipeline.algorithm.fitting.muon import Muon

DIM = 24


def few(seed):
    return torch.randn(DIM, 5, generator=torch.Generator().manual_seed(seed))


def rank_deficient(seed):
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(DIM, 4, generator=generator), torch.randn(4, 60, generator=generator)
    return factors[0] @ factors[1]


def badly_scaled(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(DIM, 6, generator=generator) * 10.0 ** -torch.arange(6)


def more_than_fit(seed):
    return torch.randn(DIM, 100, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("energy", [0.5, 0.95, 1.0])
@pytest.mark.parametrize("inputs", [few, rank_deficient, badly_scaled, more_than_fit])
def test_bases_of_a_stream(inputs, energy):
    basis, expected, seen = None, torch.empty(DIM, 0, dtype=torch.float64), []
    for task in range(4):
        new = inputs(task)
        seen.append(new)
        before, basis = basis, extend_basis(basis, new.double() @ new.double().T, energy)
        expected = gpm.extend(expected, new.double(), energy)
        rank = basis.shape[1]
        assert basis.dtype == torch.float32
        assert (basis.T.double() @ basis.double() - torch.eye(rank)).abs().max() <= 1e-6
        assert gpm.held_share(basis, new) >= energy - 1e-6
        if before is not None:
            assert rank >= before.shape[1]
            assert torch.equal(basis[:, : before.shape[1]], before)
        assert rank == expected.shape[1]  # the fewest that hold the energy
        torch.testing.assert_close(
            basis.double() @ basis.double().T, expected @ expected.T, rtol=0, atol=2e-5
        )
        if energy == 1.0:
            old = torch.cat(seen, dim=1).double()
            lost = old - basis.double() @ (basis.double().T @ old)
            assert (lost.norm(dim=0) / old.norm(dim=0)).max() <= 1e-5


def test_one_large_input_does_not_hide_small_ones():
    large, small = few(0) * 1e3, few(1)
    inputs = torch.cat([large, small], dim=1).double()
    basis = extend_basis(None, inputs @ inputs.T, 1.0).double()
    assert basis.shape[1] == 10
    lost = inputs - basis @ (basis.T @ inputs)
    assert (lost.norm(dim=0) / inputs.norm(dim=0)).max() <= 1e-5


def test_nothing_new_adds_nothing():
    inputs = few(0).double()
    basis = extend_basis(None, inputs @ inputs.T, 1.0)
    within = (inputs @ torch.randn(5, 9, dtype=torch.float64)).float().double()
    assert torch.equal(extend_basis(basis, within @ within.T, 1.0), basis)
    assert torch.equal(extend_basis(basis, torch.zeros(DIM, DIM), 1.0), basis)
    assert extend_basis(None, torch.zeros(DIM, DIM), 1.0).shape == (DIM, 0)


def test_moments_are_those_of_the_stored_inputs():
    torch.manual_seed(0)
    net = nn.ModuleDict({"a": nn.Linear(6, 3), "b": nn.Linear(4, 2)})
    batches = [(torch.randn(5, 7, 6), torch.randn(5, 4)), (torch.randn(2, 7, 6), torch.randn(3, 4))]

    def run():
        for a, b in batches:
            net["a"](a), net["b"](b)

    moments = input_moments(dict(net.items()), run)
    for place, name in enumerate(("a", "b")):
        stored = torch.cat([batch[place].flatten(0, -2) for batch in batches]).double().T
        assert moments[name].dtype == torch.float64
        torch.testing.assert_close(moments[name], stored @ stored.T, rtol=1e-12, atol=1e-12)
        assert not net[name]._forward_pre_hooks


def muon(parameters):
    """Of a small network: matrices by Muon, biases by AdamW, both with decay."""
    matrices = [p for p in parameters if p.ndim > 1]
    rest = [p for p in parameters if p.ndim == 1]
    groups = [{"params": matrices, "matrices": True}, {"params": rest, "matrices": False}]
    return Muon(groups, lr=0.02, weight_decay=0.3)


OPTIMISERS = {
    "muon": muon,
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
}


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("averaged", [False, True])
def test_any_optimiser_leaves_old_outputs_alone(optimiser, clip, averaged):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(DIM, 10), nn.Tanh(), nn.Linear(10, 2))
    old = few(0)
    basis = extend_basis(None, old.double() @ old.double().T, 1.0)
    start = net[0].weight.detach().clone()
    with orthogonal_updates(net, {"0": basis}):
        torch.testing.assert_close(net[0].weight.detach(), start, rtol=0, atol=0)
        parameters = list(net.parameters())
        steps, average = OPTIMISERS[optimiser](parameters), Average(parameters, 0.9)
        for _ in range(50):
            steps.zero_grad()
            # Old inputs among the new ones, so that the gradient does lean on them.
            x = torch.cat([old.T, torch.randn(8, DIM)])
            (net(x) - 3).square().mean().backward()
            if clip:
                nn.utils.clip_grad_norm_(parameters, clip)
            steps.step()
            average.update()
        if averaged:
            average.apply()
        inside = net[0].weight.detach().clone()
    assert set(net.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    end = net[0].weight.detach()
    torch.testing.assert_close(end, inside, rtol=0, atol=0)
    kept, other = start @ old, start @ few(1)
    assert (end @ old - kept).norm() / kept.norm() <= 1e-5
    assert (end @ few(1) - other).norm() / other.norm() >= 1e-2


def test_layers_are_put_back_after_an_error():
    net = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(RuntimeError, match="stop"), orthogonal_updates(net, {"0": torch.eye(3)}):
        raise RuntimeError("stop")
    assert set(net.state_dict()) == {"0.weight", "0.bias"}


def test_layers_are_those_of_every_cross_attention():
    unet = UNet2DConditionModel(
        **unet_config(DenoiserConfig(channels=(8, 16), condition_dim=8), (8, 8, 1), False)
    )
    places = (
        "down_blocks.1.attentions.0",
        "mid_block.attentions.0",
        "up_blocks.0.attentions.0",
        "up_blocks.0.attentions.1",
    )
    suffixes = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}
    layers = cross_attention_layers(unet, tuple(suffixes))
    assert {name: kind for name, (kind, _) in layers.items()} == {
        f"{place}.transformer_blocks.0.attn2.{suffix}": kind
        for place in places
        for kind, suffix in suffixes.items()
    }
    assert all(unet.get_submodule(name) is layer for name, (_, layer) in layers.items())
    assert {kind for kind, _ in cross_attention_layers(unet, ("k", "v")).values()} == {"k", "v"}
    assert cross_attention_layers(unet, ()) == {}


def test_the_update_is_differentiated_as_it_is_written():
    update, start = (torch.randn(4, 6, dtype=torch.float64) for _ in range(2))
    basis = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64))[0]
    update.requires_grad_()
    assert torch.autograd.gradcheck(OrthogonalUpdate(start, basis), update)
    written = start + update @ (torch.eye(6).double() - basis @ basis.T)
    torch.testing.assert_close(OrthogonalUpdate(start, basis)(update), written)
