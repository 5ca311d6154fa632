"""DP-SGD: each image's gradient is cut, what is added is known, and what is told is counted."""

import math

import pytest
import torch
from tests.reference.tiny import SHAPE, gppdm, images_of
from torch import nn

from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.diffusion.adapters import AdapterConfig, attach
from gppdm_pipeline.algorithm.diffusion.network import Denoiser, network_class, network_config
from gppdm_pipeline.algorithm.diffusion.process import Process
from gppdm_pipeline.algorithm.fitting.batches import Pixels
from gppdm_pipeline.algorithm.fitting.private import (
    Private,
    PrivateConfig,
    PrivateGradients,
    Spent,
    epsilon_of,
    poisson_batches,
    sampling_rates,
)
from gppdm_pipeline.algorithm.generator.learn import _moving
from gppdm_pipeline.algorithm.generator.objective import DenoisingObjective, Examples
from gppdm_pipeline.algorithm.generator.parts import add_classes, condition_table
from gppdm_pipeline.algorithm.state import LearnerState

CLASSES = (7, 1, 4)
NORM = 0.05  # below all gradients of a network that has learnt nothing: all are cut


class Tiny:
    """A private training of a tiny generator, before its first step."""

    def __init__(self, config, adapter=True, optimiser="adamw", dropout=0.3, route="both"):
        settings = gppdm(
            memory="adapters",
            denoiser={"optimiser": optimiser, "label_dropout": dropout},
            prototypes={"start": "noise", "route": route},
        )
        train = images_of(*CLASSES)
        state = LearnerState.empty().begin(1, CLASSES, SHAPE)
        state = add_classes(state, train, settings, Context(0, 1))
        table = condition_table(state, CLASSES, settings, Context(0, 1), learnable=2)
        arguments = network_config(settings.denoiser, SHAPE, settings.prototypes.concatenated)
        unet = network_class(arguments)(**arguments)
        if adapter:
            attach(unet, AdapterConfig(rank=2), torch.Generator().manual_seed(0))
            for name, parameter in unet.named_parameters():
                if name.endswith("original0"):  # B, which begins as zero: nothing would reach A
                    nn.init.normal_(parameter.data, std=0.1)
        denoiser = Denoiser(unet, 1).train()
        rows = torch.tensor([CLASSES.index(label) for label in train.labels])
        examples = Examples(Pixels(train.images, CPU), rows, torch.zeros(len(rows)).bool())
        process = Process(settings.denoiser, CPU, independent=True)
        self.objective = DenoisingObjective(denoiser, table, examples, process, dropout)
        self.moving = _moving(
            denoiser, table.new_prototypes, settings.denoiser, settings.prototypes
        )
        self.network = nn.ModuleList([denoiser, table])
        self.free = [p for p in self.network.parameters() if p.requires_grad and p.numel()]
        self.generator = torch.Generator().manual_seed(5)
        self.gradients = PrivateGradients(
            Private(config, self.network), self.objective, self.moving.optimiser, 8, self.generator
        )

    def drawn(self, count):
        return self.objective.drawn(torch.arange(count), torch.Generator().manual_seed(3))

    def found(self, drawn):
        """The gradient that is set, flat, without noise it is a sum over 8."""
        losses = self.gradients(drawn)
        return torch.cat([p.grad.flatten() for p in self.free]), losses


@pytest.fixture(autouse=True)
def _with_opacus():
    pytest.importorskip("opacus")


@pytest.mark.parametrize("adapter", [True, False], ids=["adapter", "whole network"])
@pytest.mark.parametrize("route", ["both", "none"])
def test_gradients_of_each_are_those_of_a_batch_of_one(adapter, route):
    tiny = Tiny(PrivateConfig(noise_multiplier=1), adapter, route=route)
    drawn = tiny.drawn(5)
    assert not drawn.kept.all()
    assert drawn.kept.any()
    each, losses = tiny.gradients.of_each(drawn)
    names = {id(p): name for name, p in tiny.gradients._free.items()}
    assert len(names) == len(tiny.free)
    for i in range(5):
        tiny.moving.optimiser.zero_grad()
        loss = tiny.objective.losses([part[i : i + 1] for part in drawn])["denoiser_loss"]
        loss.backward()
        torch.testing.assert_close(losses["denoiser_loss"][i], loss.detach())
        for parameter in tiny.free:
            alone = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            # float32 sums in another order: 1e-5 of the largest.
            torch.testing.assert_close(each[names[id(parameter)]][i], alone, rtol=1e-4, atol=1e-6)


def test_one_image_more_moves_the_sum_by_the_norm_at_most(monkeypatch):
    monkeypatch.setattr("gppdm_pipeline.algorithm.fitting.private._AT_A_TIME", 4)
    tiny = Tiny(PrivateConfig(noise_multiplier=0, max_grad_norm=NORM))
    drawn = tiny.drawn(9)
    whole, _ = tiny.found(drawn)
    for gone in range(9):
        left = [torch.cat([part[:gone], part[gone + 1 :]]) for part in drawn]
        moved = 8 * (whole - tiny.found(left)[0]).norm()
        assert 0.9 * NORM < moved <= NORM * (1 + 1e-4)  # all are cut; float32 sums
    uncut, _ = Tiny(PrivateConfig(noise_multiplier=0, max_grad_norm=1e6)).found(drawn)
    assert 8 * uncut.norm() > 9 * NORM


def test_what_an_image_is_shown_as_has_to_do_with_no_other():
    process = Process(gppdm().denoiser, CPU, independent=True)
    images = torch.zeros(4000, 1, 2, 2)
    tau = process.noised(images, torch.Generator().manual_seed(0)).tau
    # Spread evenly, each tenth of the steps would have 400 images; draws of their own vary by 19.
    counts = (tau // 100).bincount(minlength=10).float()
    assert 8 < counts.std() < 40
    assert tau.min() < 5
    assert tau.max() > 994


@pytest.mark.parametrize("images", [0, 3])
def test_the_noise_has_its_standard_deviation(images):
    sigma = 3.0
    tiny, still = (
        Tiny(PrivateConfig(noise_multiplier=s, max_grad_norm=NORM), adapter=False)
        for s in (sigma, 0.0)
    )
    drawn = tiny.drawn(images)
    still.network.load_state_dict(tiny.network.state_dict())
    noise = 8 * (tiny.found(drawn)[0] - still.found(drawn)[0])
    count = noise.numel()
    assert count > 10_000
    # Within five standard errors, 1 / sqrt(2 n) of a standard deviation.
    assert noise.std().item() == pytest.approx(sigma * NORM, rel=5 / math.sqrt(2 * count))
    again = 8 * (tiny.found(drawn)[0] - still.found(drawn)[0])
    assert abs((again * noise).mean().item()) < 5 * (sigma * NORM) ** 2 / math.sqrt(count)


def test_an_empty_batch_is_noise_alone_and_has_no_loss():
    tiny = Tiny(PrivateConfig(noise_multiplier=0))
    gradient, losses = tiny.found(tiny.drawn(0))
    assert not gradient.any()
    assert losses == {}


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_both_optimisers_step_with_what_is_set(optimiser):
    tiny = Tiny(PrivateConfig(noise_multiplier=1), adapter=False, optimiser=optimiser)
    before = [p.detach().clone() for p in tiny.free]
    for _ in range(2):
        tiny.moving.optimiser.zero_grad()
        tiny.gradients(tiny.drawn(3))
        tiny.moving.optimiser.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, tiny.free, strict=True))


def test_each_image_is_drawn_at_its_rate():
    labels = torch.tensor([0] * 10 + [2] * 40)
    rates = sampling_rates(labels, 8)
    assert rates.tolist() == pytest.approx([0.4] * 10 + [0.1] * 40)
    raised = sampling_rates(labels, 8, torch.tensor([3.0, 1.0, 1.0]))
    assert raised.tolist() == pytest.approx([0.6] * 10 + [0.05] * 40)
    assert sampling_rates(labels, 100).tolist() == [1.0] * 50
    batches = poisson_batches(labels, 4000, 8, torch.Generator().manual_seed(0))
    counts = torch.cat(batches).bincount(minlength=50) / 4000
    assert (counts - rates).abs().max() < 5 * math.sqrt(0.24 / 4000)
    sizes = torch.tensor([float(len(batch)) for batch in batches])
    # Of draws of their own: variance sum q (1 - q) = 6, within ten standard errors.
    assert sizes.var().item() == pytest.approx(6, rel=10 * math.sqrt(2 / 4000))
    assert all(len(batch.unique()) == len(batch) for batch in batches)


def test_epsilon_is_that_of_the_accountant():
    from opacus.accountants import PRVAccountant, RDPAccountant  # noqa: PLC0415

    accountant = RDPAccountant()
    for _ in range(200):
        accountant.step(noise_multiplier=2.0, sample_rate=0.2)
    spent = Spent(2.0, 0.2, 200)
    told = epsilon_of([spent], 1e-5)
    assert told == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    tight = PRVAccountant()
    tight.history = accountant.history
    assert tight.get_epsilon(1e-5) - 0.02 < told  # Renyi's bound is above the true one
    assert epsilon_of([spent, spent], 1e-5) == epsilon_of([Spent(2.0, 0.2, 400)], 1e-5)
    assert epsilon_of([Spent(50.0, 1.0, 10)], 1e-5) < 0.35  # which orders up to 63 do not tell
