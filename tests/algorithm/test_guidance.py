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

from gppdm_pipeline.algorithm.classifier.network import SmallConvNet, build_classifier
from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.diffusion.guide import (
    Guide,
    Step,
    ancestral,
    guided_mean,
    residual_variance,
    with_noise_level,
)
from gppdm_pipeline.algorithm.diffusion.network import DenoiserConfig, signal_shares
from gppdm_pipeline.methods import Method

S, V, M = 0.25, 0.08, 0.4
CONFIG = DenoiserConfig()
SHARES = signal_shares(CONFIG, CPU)


def posterior_of_clean(x, share):
    """Mean and variance of x_0 given x_tau."""
    c = share * S**2 + 1 - share
    return share.sqrt() * S**2 * x / c, S**2 * (1 - share) / c


def log_likelihood(x, share):
    mean, variance = posterior_of_clean(x, share)
    return (-((mean - M) ** 2) / (2 * (V + variance))).sum((1, 2, 3))


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
    found = guided_mean(step, x, clean, log_likelihood, scale)
    torch.testing.assert_close(step.variance, variance)
    torch.testing.assert_close(found, mean + scale * variance * gradient)


def draw(scale, n=4000, steps=250, prediction="v_prediction", variance="small"):
    generator = torch.Generator().manual_seed(0)

    def predict(x, tau):
        share = SHARES[tau]
        clean, _ = posterior_of_clean(x, share)
        noise = (x - share.sqrt() * clean) / (1 - share).sqrt()
        if prediction == "epsilon":
            return noise
        return share.sqrt() * noise - (1 - share).sqrt() * clean

    x = torch.randn(n, 1, 1, 1, generator=generator)
    return ancestral(
        predict, x, SHARES, prediction, steps, log_likelihood, scale, generator, variance
    ).numpy()


def test_the_last_step_gives_the_clean_image():
    step = Step.between(SHARES[0], torch.tensor(1.0))
    assert (float(step.of_clean), float(step.of_noisy), float(step.variance)) == (1, 0, 0)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_without_scale_the_prior_is_drawn(prediction):
    x = draw(0, prediction=prediction)
    assert x.mean() == pytest.approx(0, abs=0.02)
    assert x.std() == pytest.approx(S, rel=0.08)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_few_steps_of_analytic_variance_keep_the_spread(prediction):
    assert draw(0, steps=20, variance="small").std() < 0.85 * S
    x = draw(0, steps=20, prediction=prediction, variance="analytic")
    assert x.mean() == pytest.approx(0, abs=0.02)
    assert x.std() == pytest.approx(S, rel=0.04)
    guided = draw(1, steps=100, prediction=prediction, variance="analytic")
    assert guided.std() == pytest.approx(np.sqrt(S**2 * V / (S**2 + V)), rel=0.08)


@pytest.mark.parametrize("tau", [60, 250, 500])
def test_what_noise_leaves_open_of_an_image(tau):
    share = SHARES[tau]
    x = (share * S**2 + 1 - share).sqrt() * torch.randn(40_000, 1, 1, 1)
    clean, spread = posterior_of_clean(x, share)
    torch.testing.assert_close(residual_variance(x, clean, share), spread, rtol=0.1, atol=0.002)
    assert 0 <= residual_variance(3 * x, clean, share) <= 1


def test_with_scale_one_the_class_is_drawn():
    x = draw(1)
    assert x.mean() == pytest.approx(M * S**2 / (S**2 + V), abs=0.02)
    assert x.std() == pytest.approx(np.sqrt(S**2 * V / (S**2 + V)), rel=0.08)
    assert draw(2).mean() > x.mean() + 0.02


def test_each_image_is_pulled_to_its_own_class():
    torch.manual_seed(0)
    network = SmallConvNet((8, 8, 1), 8, 3).requires_grad_(False)
    x = torch.randn(5, 1, 8, 8)
    guide = Guide(network, torch.tensor([2, 0, 1, 1, 0]), 1.0, time_aware=False)
    expected = network(x[1:4]).log_softmax(1)[[0, 1, 2], [0, 1, 1]]
    torch.testing.assert_close(guide.of(slice(1, 4))(x[1:4], torch.tensor(0.3)), expected)


def test_a_time_aware_guide_is_told_the_noise():
    torch.manual_seed(0)
    network = SmallConvNet((8, 8, 2), 8, 3).requires_grad_(False)
    x = torch.randn(2, 1, 8, 8)
    guide = Guide(network, torch.tensor([2, 0]), 1.0, time_aware=True).of(slice(0, 2))
    level = torch.full((2, 1, 8, 8), 0.5)
    expected = network(torch.cat([x, level], 1)).log_softmax(1)[[0, 1], [2, 0]]
    torch.testing.assert_close(guide(x, torch.tensor(0.25)), expected)
    assert with_noise_level(x, torch.tensor([0.25, 1.0])).shape == (2, 2, 8, 8)


@pytest.mark.parametrize("time_aware", [False, True])
def test_ddgr_replays_what_its_guide_takes_for_the_class(time_aware):
    """The harder the pull, the surer the classifier; both kinds know classes by their output."""
    sure = {}
    for scale in (0, 200):
        settings = {**PARTS, "classifier": {"width": 8, "steps": 60, "batch_size": 16}}
        guide = {"scale": scale, "time_aware": time_aware}
        replay = {"images_per_class": 8, "sampler_steps": 20}
        method = Method.model_validate(
            {"name": "ddgr", **settings, "guide": guide, "replay": replay}
        )
        state = learn(method, [(5, 2)])[-1]
        assert ("guide" in state.extras) is time_aware
        images, _ = method.synthesise_replay(state, Context(0, 2))
        assert images.labels.tolist() == [2] * 8 + [5] * 8
        x = torch.from_numpy(images.images).permute(0, 3, 1, 2) / 127.5 - 1
        logits = build_classifier(state.classifier)(x)
        columns = torch.tensor([state.classes.index(label) for label in images.labels])
        right = logits.log_softmax(1).gather(1, columns[:, None])
        sure[scale] = float(right.mean())
    assert sure[200] > sure[0] + 0.1
    assert images_of(2).image_shape == images.image_shape


def test_ddgr_has_no_solver_whose_steps_could_begin_at_a_noise_level():
    settings = {**PARTS, "replay": {"sigma_max": 40.0}}
    with pytest.raises(ValueError, match=r"sigma_max is 40.*use replay\.sigma_max: null"):
        Method.model_validate({"name": "ddgr", **settings})
