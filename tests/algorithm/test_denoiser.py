import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from tests.reference.tiny import SHAPE, gppdm, images_of
from torch import nn

from gppdm_pipeline.algorithm.condition.table import Conditions, ConditionTable
from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.diffusion.network import Denoiser, DenoiserConfig, unet_config
from gppdm_pipeline.algorithm.diffusion.process import Process
from gppdm_pipeline.algorithm.fitting.average import Average
from gppdm_pipeline.algorithm.generator.parts import add_classes
from gppdm_pipeline.algorithm.state import LearnerState


def test_signal_shares_are_the_cumulated_product():
    betas = np.linspace(1e-4, 0.02, 1000)
    shares = Process(DenoiserConfig(noise_schedule="linear"), CPU).shares
    np.testing.assert_allclose(shares, np.cumprod(1 - betas), rtol=1e-4)
    cosine = Process(DenoiserConfig(), CPU).shares
    assert (cosine.diff() < 0).all()
    assert cosine[0] > 0.999
    assert cosine[-1] < 1e-6


def draw(prediction, seed=0):
    images = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(9)) * 2 - 1
    process = Process(DenoiserConfig(prediction=prediction), CPU)
    batch = process.noised(images, torch.Generator().manual_seed(seed))
    share = process.shares.double()[batch.tau][:, None, None, None]
    return images, batch, share.sqrt(), (1 - share).sqrt()


def test_noisy_batch_follows_the_formula():
    images, batch, signal, sigma = draw("epsilon")
    expected = signal * images + sigma * batch.target
    torch.testing.assert_close(batch.x.double(), expected, rtol=1e-5, atol=1e-6)
    assert batch.target.std() == pytest.approx(1, abs=0.1)
    assert batch.target.mean() == pytest.approx(0, abs=0.1)


def test_v_and_noise_say_the_same():
    images, batch, signal, sigma = draw("v_prediction")
    _, noise, _, _ = draw("epsilon")
    assert torch.equal(batch.x, noise.x)
    x, v = batch.x.double(), batch.target.double()
    torch.testing.assert_close(signal * x - sigma * v, images.double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(sigma * x + signal * v, noise.target.double(), rtol=0, atol=1e-5)


def test_steps_are_spread_over_the_whole_range():
    taus = torch.stack([draw("epsilon", seed)[1].tau for seed in range(200)])
    assert (taus.sort(dim=1).values // 125 == torch.arange(8)).all()  # one in each eighth
    assert taus.min() < 10
    assert taus.max() > 990
    assert taus.float().mean(0).sub(499.5).abs().max() < 80  # no place in the batch is special


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_clean_image_is_seen_in_a_right_prediction(prediction):
    images, batch, _, _ = draw(prediction)
    process = Process(DenoiserConfig(prediction=prediction), CPU)
    for image, x, tau, target in zip(images, *batch, strict=True):
        level = process.level(tau)
        seen = process.clean(x, target, level)
        # At the end of the schedule the noise is 1,000 times the signal, and so is its rounding.
        torch.testing.assert_close(seen, image, rtol=0, atol=float(1e-5 / level.signal.clamp(1e-3)))
        if prediction == "epsilon":
            torch.testing.assert_close(level.noised(image, target), x, rtol=1e-5, atol=1e-6)


class Echo(nn.Module):
    """In place of a U-Net: gives back some of the channels that it is given."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def set_attn_processor(self, processor):
        pass

    def forward(self, x, tau, tokens, cross_attention_kwargs, return_dict):
        return (x[:, self.channels],)


def told(prototypes=None):
    return Conditions(None, None, prototypes)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_keep_pixels_in_place(patch):
    x, prototypes = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    depth = 3 * patch**2
    seen = Denoiser(Echo(slice(None)), patch)(x, None, told())
    assert torch.equal(seen, x)
    noisy = Denoiser(Echo(slice(depth)), patch)(x, None, told(prototypes))
    assert torch.equal(noisy, x)
    beside = Denoiser(Echo(slice(depth, None)), patch)(x, None, told(prototypes))
    assert torch.equal(beside, prototypes)


@pytest.mark.parametrize("concatenates", [False, True])
def test_network_fits_its_images(concatenates):
    config = DenoiserConfig(channels=(8, 8, 16), patch=2, condition_dim=8)
    unet = UNet2DConditionModel(**unet_config(config, (16, 8, 3), concatenates))
    x = torch.randn(2, 3, 16, 8)
    prototypes = x if concatenates else None
    conditions = Conditions(torch.zeros(2, 1, 8), None, prototypes)
    out = Denoiser(unet, 2)(x, torch.tensor([1, 999]), conditions)
    assert out.shape == x.shape


@pytest.mark.parametrize(
    ("shape", "patch", "channels", "unit"),
    [((10, 8, 1), 1, (8, 8, 8), 4), ((8, 10, 1), 1, (8, 8, 8), 4), ((28, 28, 1), 4, (8, 8), 8)],
)
def test_images_that_cannot_be_halved(shape, patch, channels, unit):
    config = DenoiserConfig(channels=channels, patch=patch)
    text = (
        rf"images of {shape[0]}x{shape[1]} cannot be halved {len(channels) - 1} times after "
        rf"patches of {patch}; choose denoiser.patch .*denoiser.channels .*now {unit}, divides"
    )
    with pytest.raises(ValueError, match=text):
        unet_config(config, shape, False)


def test_average_against_a_loop():
    parameter = nn.Parameter(torch.zeros(3))
    average = Average([parameter], decay=0.6)
    values = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    expected = np.zeros(3)
    for i, value in enumerate(values, start=1):
        parameter.data = value.clone()
        average.update()
        decay = min(0.6, (1 + i) / (10 + i))
        expected = decay * expected + (1 - decay) * value.double().numpy()
    average.apply()
    np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("route", "single"), [("none", True), ("concat", True), ("tokens", False), ("both", False)]
)
def test_queries_and_keys_of_a_single_token_learn_nothing(route, single):
    """The softmax over one token is 1, whatever queries and keys are."""
    settings, context = gppdm(prototypes={"route": route}), Context(0, 1)
    state = LearnerState.empty().begin(1, (1, 4), SHAPE)
    state = add_classes(state, images_of(1, 4), settings, context)
    concatenates = settings.prototypes.concatenated
    conditions = ConditionTable(state.condition, (1, 4), 2, concatenates)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**unet_config(settings.denoiser, SHAPE, concatenates))
    noise = torch.randn(4, 1, 8, 8)
    tau = torch.tensor([5, 300, 600, 900])
    output = Denoiser(unet, 1)(noise, tau, conditions(torch.tensor([0, 1, 0, 1])))
    (output - noise).square().mean().backward()
    # Of a single token the gradient is 0, or, by how a processor adds up, rounding: below a
    # millionth of what the values of the same attention get.
    largest = {name: float(p.grad.abs().max()) for name, p in unet.named_parameters()}
    for name, size in largest.items():
        values = largest[name.replace("to_q", "to_v").replace("to_k", "to_v")]
        if "attn2.to_q" in name or "attn2.to_k" in name:
            assert (size < 1e-6 * values) is single, name
        elif "attn2" in name:
            assert size > 0, name
