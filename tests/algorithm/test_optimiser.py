"""Muon: the orthogonal step against a decomposition, its rule against float64, what it leaves."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from tests.reference.tiny import SHAPE, gppdm

from gppdm_pipeline.algorithm.diffusion.network import Denoiser, unet_config
from gppdm_pipeline.algorithm.fitting.muon import MOMENTUM, Muon, orthogonalised
from gppdm_pipeline.algorithm.generator.learn import _moving


def matrices_with(values, rows, columns, seed=0):
    """[2, rows, columns] with these singular values, and U V^T of them, float64."""
    generator = torch.Generator().manual_seed(seed)

    def orthonormal(size):
        drawn = torch.randn(2, size, len(values), generator=generator, dtype=torch.float64)
        return torch.linalg.qr(drawn)[0]

    left, right = orthonormal(rows), orthonormal(columns)
    return left * torch.tensor(values, dtype=torch.float64) @ right.mT, left @ right.mT


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (6, 6)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_every_singular_value_becomes_about_one_and_directions_stay(shape, scale):
    matrices, polar = matrices_with([3.0, 1.0, 0.4, 0.2, 0.1, 0.05], *shape)
    found = orthogonalised([(scale * matrices).float()])[0].double()
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.65
    assert values.max() < 1.25
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    inside = left.mT @ found @ right.mT  # diagonal: the singular vectors are the matrix's own
    torch.testing.assert_close(
        inside, torch.diag_embed(inside.diagonal(dim1=1, dim2=2)), atol=1e-4, rtol=0
    )
    assert (found * polar).sum() / (found.norm() * polar.norm()) > 0.97


def test_a_gradient_of_rounding_alone_moves_next_to_nothing():
    matrices, _ = matrices_with([1.0, 0.5], 8, 8)
    assert orthogonalised([(1e-10 * matrices).float()])[0].abs().max() < 0.02
    assert orthogonalised([torch.zeros(1, 4, 4)])[0].abs().max() == 0


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (12, 5), (5, 12)])
@pytest.mark.parametrize("rate", [0.1, torch.tensor(0.1)])  # a tensor, as on CUDA
def test_a_step_is_the_averaged_gradient_orthogonalised(shape, rate):
    """Three steps by hand; a kernel is a matrix of a row for each output."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(shape, generator=generator))
    group = {"params": [weight], "lr": rate, "weight_decay": 0.3, "matrices": True}
    optimiser = Muon([group])
    expected, momentum = weight.detach().clone(), torch.zeros(shape)
    rows, columns = weight.flatten(1).shape
    for _ in range(3):
        gradient = torch.randn(shape, generator=generator)
        weight.grad = gradient.clone()
        optimiser.step()
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        ahead = (1 - MOMENTUM) * gradient + MOMENTUM * momentum
        step = orthogonalised([ahead.flatten(1)[None]])[0][0].reshape(shape)
        expected = (1 - 0.1 * 0.3) * expected - 0.1 * max(1, rows / columns) ** 0.5 * step
        torch.testing.assert_close(weight.detach(), expected)
        assert weight.grad is None


def test_matrices_do_not_mix():
    """Of one shape, of one shorter side, lying or standing, and of none."""
    generator = torch.Generator().manual_seed(2)
    shapes = [(5, 7), (5, 7), (5, 9), (8, 5), (5, 5), (3, 4)]
    together = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    alone = copy.deepcopy(together)
    for a, b in zip(together, alone, strict=True):
        a.grad = torch.randn(a.shape, generator=generator)
        b.grad = a.grad.clone()
    Muon([{"params": together, "matrices": True}]).step()
    for parameter in alone:
        Muon([{"params": [parameter], "matrices": True}]).step()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b)


def unet():
    torch.manual_seed(0)
    return Denoiser(UNet2DConditionModel(**unet_config(gppdm().denoiser, SHAPE, True)), 1)


def moved_by(**changes):
    """The names of the weights that Muon moves, and of all that some optimiser does."""
    denoiser, settings = unet(), gppdm(denoiser=changes)
    prototypes = torch.nn.Parameter(torch.zeros(2, 1, 8, 8))
    optimiser = _moving(denoiser, prototypes, settings.denoiser, settings.prototypes).optimiser
    name_of = {id(p): name for name, p in denoiser.named_parameters()} | {id(prototypes): "new"}
    names = {
        matrices: [
            name_of[id(p)]
            for group in optimiser.param_groups
            if group["matrices"] == matrices
            for p in group["params"]
        ]
        for matrices in (True, False)
    }
    assert sorted(names[True] + names[False]) == sorted(name_of.values())
    return names[True], denoiser


def test_muon_moves_kernels_and_matrices_but_the_first_and_the_last():
    names, denoiser = moved_by(optimiser="muon")
    shapes = {name: p.ndim for name, p in denoiser.named_parameters()}
    assert {shapes[name] for name in names} == {2, 4}
    others = {name for name, ndim in shapes.items() if ndim > 1 and name not in names}
    assert others == {"unet.conv_in.weight", "unet.conv_out.weight"}


def test_adamw_is_adamw():
    names, denoiser = moved_by(optimiser="adamw")
    assert names == []
    settings, generator = gppdm(denoiser={"optimiser": "adamw"}), torch.Generator().manual_seed(3)
    same, prototypes = copy.deepcopy(denoiser), torch.nn.Parameter(torch.zeros(2, 1, 8, 8))
    ours = _moving(denoiser, prototypes, settings.denoiser, settings.prototypes).optimiser
    config = settings.denoiser
    reference = torch.optim.AdamW(
        same.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    for _ in range(3):
        for a, b in zip(denoiser.parameters(), same.parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        ours.step()
        reference.step()
    for a, b in zip(denoiser.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
