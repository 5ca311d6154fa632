"""Sharing keys and values changes nothing that is said or learnt."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0

from gppdm_pipeline.algorithm.condition.table import Conditions
from gppdm_pipeline.algorithm.diffusion.network import Denoiser, DenoiserConfig, unet_config

CONFIG = DenoiserConfig(channels=(8, 16), condition_dim=16)


@pytest.fixture
def unet():
    return UNet2DConditionModel(**unet_config(CONFIG, (8, 8, 1), False))


def each_its_own(tokens):
    return Conditions(tokens[WHICH], None, None)


def said_and_learnt(denoiser, tokens, which=None):
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    tau = torch.tensor([0, 10, 300, 500, 900, 999])
    tokens = tokens.clone().requires_grad_()
    denoiser.zero_grad()
    conditions = Conditions(tokens, which, None) if which is not None else each_its_own(tokens)
    output = denoiser(x, tau, conditions)
    output.square().mean().backward()
    return output, tokens.grad, *(p.grad.clone() for p in denoiser.parameters())


WHICH = torch.tensor([1, 0, 1, 2, 1, 0])


def test_it_is_as_if_each_image_had_tokens_of_its_own(unet):
    denoiser, tokens = Denoiser(unet, 1), torch.randn(3, 4, 16)
    shared = said_and_learnt(denoiser, tokens, WHICH)
    each = said_and_learnt(denoiser, tokens)
    unet.set_attn_processor(AttnProcessor2_0())
    theirs = said_and_learnt(denoiser, tokens)
    for ours in (shared, each):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_conditions_are_told_apart(unet):
    denoiser, tokens = Denoiser(unet, 1), torch.randn(3, 4, 16)
    one = said_and_learnt(denoiser, tokens, WHICH)[0]
    other = said_and_learnt(denoiser, tokens, WHICH.flip(0))[0]
    assert not torch.allclose(one, other)


def test_keys_are_computed_once_for_each_condition(unet):
    fed = []
    for name, layer in unet.named_modules():
        if name.endswith("attn2.to_k"):
            layer.register_forward_pre_hook(lambda _, inputs: fed.append(len(inputs[0])))
    said_and_learnt(Denoiser(unet, 1), torch.randn(3, 4, 16), WHICH)
    assert fed
    assert set(fed) == {3}
