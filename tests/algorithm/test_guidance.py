"""Guided sampling where every step can be done by hand.

Prior x_0 ~ N(0, s^2), and a class that is likely near m:
log p(y | x_0) = -(x_0 - m)^2 / 2 v + const.
Then x_0 given y is N(m s^2 / (s^2 + v), s^2 v / (s^2 + v)). At step tau, with a^2 = abar,
b^2 = 1 - abar and c = a^2 s^2 + b^2, x_0 given x_tau is N(a s^2 x_tau / c, s^2 b^2 / c), so that
log p(y | x_tau) = -(a s^2 x_tau / c - m)^2 / 2 (v + s^2 b^2 / c) + const.
"""

import numpy as np
import pytest
import torch
from tests.reference.tiny import PARTS, images_of, learn

from gppdm_pipeline.algorithm.classifier.network import build_classifier
from gppdm_pipeline.algorithm.classifier.networks import SmallConvNet
from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.diffusion.network import DenoiserConfig
from gppdm_pipeline.algorithm.diffusion.process import Process
from gppdm_pipeline.methods import Method
from gppdm_pipeline.methods.ddgr import Guided, GuidedAncestral, Step

S, V, M = 0.25, 0.08, 0.4
PROCESS = Process(DenoiserConfig(), CPU)
SHARES = PROCESS.shares


def posterior_of_clean(x, share):
    """Mean and variance of x_0 given x_tau."""
    c = share * S**2 + 1 - share
    return share.sqrt() * S**2 * x / c, S**2 * (1 - share) / c


def log_likelihood(share):
    def of(x):
        mean, variance = posterior_of_clean(x, share)
        return (-((mean - M) ** 2) / (2 * (V + variance))).sum((1, 2, 3))

    return of


@pytest.mark.parametrize("scale", [0, 1, 2.5])
@pytest.mark.parametrize(("tau", "before"), [(900, 700), (400, 399), (60, 0)])
def test_the_mean_moves_by_variance_times_gradient(tau, before, scale):
    share, share_before = SHARES[tau].double(), SHARES[before].double()
    x = torch.tensor([-0.7, 0.1, 1.3], dtype=torch.float64)[:, None, None, None]
    clean, spread = posterior_of_clean(x, share)
    alpha = share / share_before
    # DDPM eq. 7: beta~ = (1 - abar_before) / (1 - abar) (1 - alpha).
    variance = (1 - share_before) / (1 - share) * (1 - alpha)
    mean = (share_before.sqrt() * (1 - alpha) * clean + alpha.sqrt() * (1 - share_before) * x) / (
        1 - share
    )
    slope = share.sqrt() * S**2 / (share * S**2 + 1 - share)
    gradient = -(clean - M) / (V + spread) * slope
    step = Step.between(share, share_before)
    found = GuidedAncestral(PROCESS, 2, log_likelihood(share), scale).mean(step, x, clean)
    torch.testing.assert_close(step.variance, variance)
    torch.testing.assert_close(found, mean + scale * variance * gradient)


def draw(scale, n=4000, steps=250):
    generator = torch.Generator().manual_seed(0)
    now = []

    def clean(x, level):
        now[:] = [SHARES[level.tau]]
        return posterior_of_clean(x, now[0])[0]

    def at_its_level(x):
        return log_likelihood(now[0])(x)

    sampler = GuidedAncestral(PROCESS, steps, at_its_level, scale)

    def fresh():
        return torch.randn(n, 1, 1, 1, generator=generator)

    return sampler(clean, fresh(), fresh).numpy()


def test_the_last_step_gives_the_clean_image():
    step = Step.between(SHARES[0], torch.tensor(1.0))
    assert (float(step.of_clean), float(step.of_noisy), float(step.variance)) == (1, 0, 0)


def test_without_scale_the_prior_is_drawn():
    x = draw(0)
    assert x.mean() == pytest.approx(0, abs=0.02)
    assert x.std() == pytest.approx(S, rel=0.08)


def test_with_scale_one_the_class_is_drawn():
    x = draw(1)
    assert x.mean() == pytest.approx(M * S**2 / (S**2 + V), abs=0.02)
    assert x.std() == pytest.approx(np.sqrt(S**2 * V / (S**2 + V)), rel=0.08)
    assert draw(2).mean() > x.mean() + 0.02


def test_each_image_is_pulled_to_its_own_class():
    torch.manual_seed(0)
    network = SmallConvNet((8, 8, 1), 8, 3).requires_grad_(False)
    x = torch.randn(5, 1, 8, 8)
    guided = Guided(network, torch.tensor([2, 0, 1, 1, 0]), 5, 1.0)
    expected = network(x[1:4]).log_softmax(1)[[0, 1, 2], [0, 1, 1]]
    sampler = guided.of(PROCESS, slice(1, 4))
    torch.testing.assert_close(sampler.log_likelihood(x[1:4]), expected)
    assert (sampler.steps, sampler.scale) == (5, 1.0)


def test_ddgr_replays_what_its_guide_takes_for_the_class():
    """The harder the pull, the surer the classifier, which knows classes by their output."""
    sure = {}
    for scale in (0, 200):
        settings = {**PARTS, "classifier": {"width": 8, "steps": 60, "batch_size": 16}}
        guide = {"scale": scale}
        replay = {"images_per_class": 8, "sampler_steps": 20}
        method = Method.model_validate(
            {"name": "ddgr", **settings, "guide": guide, "replay": replay}
        )
        state = learn(method, [(5, 2)])[-1]
        images, _ = method.synthesise_replay(state, Context(0, 2))
        assert images.labels.tolist() == [2] * 8 + [5] * 8
        x = torch.from_numpy(images.images).permute(0, 3, 1, 2) / 127.5 - 1
        logits = build_classifier(state.classifier)(x)
        columns = torch.tensor([state.classes.index(label) for label in images.labels])
        right = logits.log_softmax(1).gather(1, columns[:, None])
        sure[scale] = float(right.mean())
    assert sure[200] > sure[0] + 0.1
    assert images_of(2).image_shape == images.image_shape


@pytest.mark.parametrize(
    ("name", "value", "off"), [("sigma_max", 40.0, "null"), ("gaussians", 0.2, "0")]
)
def test_ddgr_has_no_solver_that_could_begin_elsewhere(name, value, off):
    settings = {**PARTS, "replay": {name: value}}
    with pytest.raises(ValueError, match=rf"{name} is {value:g}.*use replay\.{name}: {off}"):
        Method.model_validate({"name": "ddgr", **settings})
