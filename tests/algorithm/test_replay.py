"""The sampler on Gaussian data, for which the best denoiser is known.

If x_0 ~ N(mu, s^2), then E[x_0 | x_tau] = mu + a s^2 / (a^2 s^2 + b^2) (x_tau - a mu) with
a^2 = abar_tau = 1 - b^2, and the probability flow takes x_T to
mu + s (x_T - a_T mu) / sqrt(a_T^2 s^2 + b_T^2). Both are linear in mu: guidance w on a class of
mean mu, whose null condition has mean 0, draws from N((1 + w) mu, s^2).
"""

import mmap

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.reference import dpm_solver
from torch import nn

from gppdm_pipeline.algorithm.condition.table import ConditionTable
from gppdm_pipeline.algorithm.context import CPU, silent
from gppdm_pipeline.algorithm.diffusion.network import DenoiserConfig
from gppdm_pipeline.algorithm.diffusion.process import Process
from gppdm_pipeline.algorithm.fitting.batches import Pixels, to_unit_range
from gppdm_pipeline.algorithm.generator.draw import Drawer, Solver
from gppdm_pipeline.algorithm.generator.parts import ReplayConfig
from gppdm_pipeline.algorithm.state import Condition

SHAPE = (4, 4, 1)
MEANS = {3: -0.25, 8: 0.2}
SPREAD = 0.1


class BestDenoiser(nn.Module):
    """Of Gaussians whose mean is the first entry of the first token."""

    def __init__(self, config, spread=SPREAD):
        super().__init__()
        self.shares = Process(config, CPU).shares.double()
        self.epsilon = config.prediction == "epsilon"
        self.spread = spread
        self.calls = []

    def share(self, tau):
        """abar between whole steps, with the logarithm of the noise linear in tau."""
        levels = ((1 - self.shares) / self.shares).log()
        level = np.interp(np.asarray(tau), np.arange(len(levels)), levels.numpy())
        return torch.sigmoid(-torch.as_tensor(level))

    def clean(self, x, tau, mean):
        share = self.share(tau)
        gain = share.sqrt() * self.spread**2 / (share * self.spread**2 + 1 - share)
        return mean + gain * (x - share.sqrt() * mean)

    def forward(self, x, tau, conditions):
        tokens, which, prototypes = conditions
        tokens = tokens[which]
        self.calls.append((tau, tokens, prototypes))
        x, tau = x.double(), tau[:, None, None, None]
        a, b = self.share(tau).sqrt(), (1 - self.share(tau)).sqrt()
        clean = self.clean(x, tau, tokens[:, 0, 0].double()[:, None, None, None])
        noise = (x - a * clean) / b
        return (noise if self.epsilon else a * noise - b * clean).float()


def table():
    embeddings = {label: torch.tensor([mean, 1.0]) for label, mean in MEANS.items()}
    prototypes = {label: torch.full((1, 4, 4), mean) for label, mean in MEANS.items()}
    return ConditionTable(Condition(embeddings, torch.zeros(0, 2, 1), prototypes), (3, 8), 0, True)


def draw(denoiser, rows, config, seed=0, bar=None, begun=(None, 0.0), **replay):
    generator, replay = torch.Generator().manual_seed(seed), ReplayConfig(**replay)
    drawer = Drawer(denoiser, table(), Process(config, CPU), replay, SHAPE)
    samplers = Solver(replay, *begun)
    with silent(0, "") as quiet:
        images = drawer(torch.tensor(rows), samplers, generator, bar or quiet)
    assert images.shape == (len(rows), *SHAPE)
    assert images.dtype == np.uint8
    return images


def noise(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 4, 4, generator=generator).double()


def in_levels(x):
    """[-1, 1] -> 0..255 without rounding, [n, h, w, c]."""
    return (np.clip(np.moveaxis(np.asarray(x), 1, 3), -1, 1) + 1) * 127.5


def config_of(prediction, schedule="linear"):
    return DenoiserConfig(prediction=prediction, noise_schedule=schedule)


@pytest.mark.parametrize("guidance", [0.0, 2.0])
@pytest.mark.parametrize("steps", [2, 7, 20])
@pytest.mark.parametrize(
    ("prediction", "schedule"),
    [
        ("epsilon", "linear"),
        ("v_prediction", "linear"),
        ("v_prediction", "squaredcos_cap_v2"),
    ],
)
def test_solver_against_the_reference(prediction, schedule, steps, guidance):
    config = config_of(prediction, schedule)
    denoiser = BestDenoiser(config)
    rows = [0, 1, 1, 0]
    images = draw(denoiser, rows, config, guidance=guidance, sampler_steps=steps)
    means = (1 + guidance) * torch.tensor([MEANS[3], MEANS[8]]).double()[rows]
    expected = dpm_solver.sample(
        noise(4).numpy(),
        lambda x, tau: denoiser.clean(torch.tensor(x), tau, means[:, None, None, None]).numpy(),
        denoiser.shares.numpy(),
        steps,
    )
    assert np.abs(images - in_levels(expected)).max() <= 0.6  # rounding takes half a level


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_many_steps_follow_the_exact_flow(prediction):
    config = config_of(prediction)
    denoiser = BestDenoiser(config)
    images = draw(denoiser, [1] * 20, config, sampler_steps=1000)
    last = denoiser.shares[-1]
    start = noise(20) - last.sqrt() * MEANS[8]
    exact = MEANS[8] + SPREAD * start / (last * SPREAD**2 + 1 - last).sqrt()
    assert np.abs(images - in_levels(exact)).max() <= 1.0


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("signal", [0.1, 0.5, 0.9])
def test_images_are_drawn_anew_from_where_noise_leaves_the_signal(signal, prediction):
    """The exact flow, from a x_0 + b noise at abar = a^2."""
    config = config_of(prediction)
    denoiser = BestDenoiser(config)
    images = np.random.default_rng(0).integers(120, 180, (20, *SHAPE)).astype(np.uint8)
    begun = (Pixels(images, CPU), signal)
    drawn = draw(denoiser, [1] * 20, config, begun=begun, sampler_steps=1000, batch_size=8)
    drawing = torch.Generator().manual_seed(0)
    noise = torch.cat([torch.randn(n, 1, 4, 4, generator=drawing) for n in (8, 8, 4)]).double()
    clean = to_unit_range(images, CPU).double()
    start = signal**0.5 * (clean - MEANS[8]) + (1 - signal) ** 0.5 * noise
    exact = MEANS[8] + SPREAD * start / (signal * SPREAD**2 + 1 - signal) ** 0.5
    assert np.abs(drawn - in_levels(exact)).max() <= 1.5
    assert len(denoiser.calls) < 3 * 1000
    first = denoiser.share(denoiser.calls[0][0][0])
    assert first == pytest.approx(signal, abs=0.02)


@pytest.mark.parametrize("steps", [2, 15])
def test_next_to_no_noise_leaves_images_as_they_are(steps):
    """However few the steps, one is taken: from all but no noise, the one it always ends with."""
    config = DenoiserConfig()
    images = np.random.default_rng(0).integers(0, 255, (3, *SHAPE)).astype(np.uint8)
    begun = (Pixels(images, CPU), 1 - 1e-9)
    denoiser = BestDenoiser(config, spread=1.0)
    drawn = draw(denoiser, [0, 1, 1], config, begun=begun, sampler_steps=steps)
    assert len(denoiser.calls) == 1
    assert np.abs(drawn.astype(int) - images).max() <= 5


@pytest.mark.parametrize("spread", [0.1, 0.25])
@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_few_steps_draw_the_right_distribution(guidance, spread):
    config = DenoiserConfig()
    images = draw(BestDenoiser(config, spread), [1] * 500, config, guidance=guidance) / 127.5 - 1
    assert images.mean() == pytest.approx((1 + guidance) * MEANS[8], abs=0.02)
    assert images.std() == pytest.approx(spread, rel=0.05)


def test_steps_begin_at_a_noise_level():
    """As many as are asked for, none above it; and the images are those of all the schedule."""
    config, rows = DenoiserConfig(), [0, 1, 1, 0]
    denoiser = BestDenoiser(config)
    whole = draw(BestDenoiser(config), rows, config, sampler_steps=15)
    drawn = draw(denoiser, rows, config, sampler_steps=9, sigma_max=40.0)
    levels = [((1 - s) / s) ** 0.5 for s in (denoiser.share(tau[0]) for tau, *_ in denoiser.calls)]
    assert len(levels) == 9
    assert 25 < levels[0] <= 40
    assert np.abs(drawn.astype(int) - whole).max() <= 5


@pytest.mark.parametrize("spread", [0.1, 0.25])
def test_steps_from_a_noise_level_draw_the_right_distribution(spread):
    config = DenoiserConfig()
    denoiser = BestDenoiser(config, spread)
    images = draw(denoiser, [1] * 500, config, sampler_steps=15, sigma_max=40.0) / 127.5 - 1
    assert images.mean() == pytest.approx(MEANS[8], abs=0.02)
    assert images.std() == pytest.approx(spread, rel=0.03)


def test_a_noise_level_above_the_schedule_changes_nothing():
    config, rows = DenoiserConfig(), [0, 1]
    drawn = draw(BestDenoiser(config), rows, config, sampler_steps=7, sigma_max=1e9)
    np.testing.assert_array_equal(drawn, draw(BestDenoiser(config), rows, config, sampler_steps=7))


@pytest.mark.parametrize("signal", [1e-6, 0.5])
def test_images_are_drawn_anew_with_steps_from_a_noise_level(signal):
    """From the image's own noise, or from the largest the steps begin at."""
    config = DenoiserConfig()
    images = np.random.default_rng(0).integers(120, 180, (3, *SHAPE)).astype(np.uint8)
    denoiser = BestDenoiser(config)
    begun = (Pixels(images, CPU), signal)
    draw(denoiser, [0, 1, 1], config, begun=begun, sampler_steps=15, sigma_max=40.0)
    share = float(denoiser.share(denoiser.calls[0][0][0]))
    assert share >= max(signal, 1 / 1601)
    assert len(denoiser.calls) == 15 if signal < 0.1 else len(denoiser.calls) < 10


def test_without_guidance_there_is_one_branch():
    config = DenoiserConfig()
    denoiser = BestDenoiser(config)
    draw(denoiser, [0, 1, 1], config, sampler_steps=5)
    assert len(denoiser.calls) == 5
    for tau, tokens, prototypes in denoiser.calls:
        assert len(tau) == len(prototypes) == 3
        torch.testing.assert_close(tokens[:, 0, 0], torch.tensor([MEANS[3], MEANS[8], MEANS[8]]))


def test_with_guidance_the_second_half_is_null():
    config = DenoiserConfig()
    denoiser = BestDenoiser(config)
    draw(denoiser, [0, 1, 1], config, sampler_steps=5, guidance=1.0)
    assert len(denoiser.calls) == 5
    for tau, tokens, prototypes in denoiser.calls:
        assert len(tau) == 6
        assert not tokens[3:].any()
        assert not prototypes[3:].any()
        torch.testing.assert_close(
            prototypes[:3, 0, 0, 0], torch.tensor([MEANS[3], MEANS[8], MEANS[8]])
        )


@pytest.mark.parametrize(("low", "high"), [(0.3, 4.0), (0.0, 2.0), (1.0, 1e9), (5e4, 6e4)])
@pytest.mark.parametrize("steps", [7, 20])
def test_guidance_within_an_interval(low, high, steps):
    """Against the reference, whose mean depends on tau; outside there is one branch."""
    config, rows, w = config_of("v_prediction"), [0, 1, 1, 0], 2.0
    denoiser = BestDenoiser(config)
    interval = {"guidance": w, "guidance_interval": (low, high)}
    images = draw(denoiser, rows, config, sampler_steps=steps, **interval)
    means = torch.tensor([MEANS[3], MEANS[8]]).double()[rows][:, None, None, None]
    inside = []

    def clean(x, tau):
        share = float(denoiser.share(tau))
        inside.append(low < np.sqrt((1 - share) / share) <= high)
        return denoiser.clean(torch.tensor(x), tau, (1 + w * inside[-1]) * means).numpy()

    expected = dpm_solver.sample(noise(4).numpy(), clean, denoiser.shares.numpy(), steps)
    assert np.abs(images - in_levels(expected)).max() <= 1.0
    branches = [2 if guided else 1 for guided in inside]
    assert [len(tau) // 4 for tau, *_ in denoiser.calls] == branches
    if high < 1e4:
        assert set(branches) == {1, 2}


def test_an_interval_that_holds_everything_changes_nothing():
    config = DenoiserConfig()
    plain = draw(BestDenoiser(config), [0, 1], config, guidance=1.0)
    wide = draw(BestDenoiser(config), [0, 1], config, guidance=1.0, guidance_interval=(0, 1e9))
    np.testing.assert_array_equal(plain, wide)


@pytest.mark.parametrize("interval", [(2.0, 2.0), (3.0, 1.0)])
def test_an_interval_goes_from_low_to_high(interval):
    with pytest.raises(ValidationError, match=r"is empty: give two noise levels, the lower first"):
        ReplayConfig(guidance_interval=interval)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_batches_do_not_mix_up_classes(batch_size, guidance):
    config, rows = DenoiserConfig(), [0, 1, 1, 0, 1, 0, 0]
    sharp = BestDenoiser(config, spread=0.02)
    images = draw(sharp, rows, config, batch_size=batch_size, guidance=guidance)
    expected = (1 + guidance) * np.array([MEANS[3], MEANS[8]])[rows]
    np.testing.assert_allclose(images.mean((1, 2, 3)) / 127.5 - 1, expected, atol=0.03)
    assert len({image.tobytes() for image in images}) == len(rows)


def test_same_seed_same_bits():
    config = DenoiserConfig()
    once, again, other = (draw(BestDenoiser(config), [0, 1], config, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert (once != other).any()


def test_bar_counts_images():
    counted = []

    class Bar:
        def advance(self, n=1, **metrics):
            counted.append(n)

    config = DenoiserConfig()
    rows = [0, 1, 0, 1, 1]
    draw(BestDenoiser(config), rows, config, bar=Bar(), sampler_steps=2, batch_size=2)
    assert counted == [2, 2, 1]


def test_many_images_are_drawn_into_a_file_to_the_same_bits(monkeypatch):
    config = DenoiserConfig()
    options = {"sampler_steps": 2, "batch_size": 2}
    in_memory = draw(BestDenoiser(config), [0, 1, 1], config, **options)
    monkeypatch.setattr("gppdm_pipeline.images.labelled.IN_MEMORY", 0)
    in_file = draw(BestDenoiser(config), [0, 1, 1], config, **options)
    assert isinstance(in_file.base, mmap.mmap)
    np.testing.assert_array_equal(in_file, in_memory)
