"""The generators of vectors: what their networks begin with, and that they learn Gaussians."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.reference.tiny import CLASSIFIER, gppdm, vectors_of

from gppdm_pipeline.algorithm.condition.table import Conditions, make_token_map, prototype_tokens
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.mlp import ResidualMlp
from gppdm_pipeline.algorithm.diffusion.network import Denoiser, DenoiserConfig, network_config
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method

SHAPE = (1, 1, 12)
CONFIG = DenoiserConfig(condition_dim=16, width=16, blocks=2)
TAU = torch.tensor([3, 500, 990])


def denoiser(concatenates=True):
    torch.manual_seed(0)
    return Denoiser(ResidualMlp(**network_config(CONFIG, SHAPE, concatenates)), 1)


def conditions(images=True):
    prototypes = torch.randn(3, 12, 1, 1) if images else None
    return Conditions(torch.randn(2, 5, 16), torch.tensor([0, 1, 1]), prototypes)


def test_at_first_the_gates_alone_speak():
    network, told = denoiser(), conditions()
    x, other = torch.randn(2, 3, 12, 1, 1)
    with torch.no_grad():
        found = network(x, TAU, told)
        assert found.shape == x.shape
        both = network(x + other, TAU, told._replace(images=torch.zeros(3, 12, 1, 1)))
        rest = network(other, TAU, told._replace(images=-told.images))
    torch.testing.assert_close(both, found + rest, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert (network(x, TAU.flip(0), told) - found).abs().max() > 1e-3


def test_a_class_is_heard_by_its_tokens_and_its_prototype():
    network, x = denoiser(), torch.randn(3, 12, 1, 1)
    torch.nn.init.normal_(network.unet.proj_out.weight)
    told = conditions()
    with torch.no_grad():
        found = network(x, TAU, told)
        shared = network(x, TAU, told.of(torch.arange(3)))
        torch.testing.assert_close(found, shared, atol=1e-5, rtol=1e-5)
        tokens, images = told.tokens.clone(), told.images.clone()
        tokens[1], images[1:] = torch.randn(5, 16), torch.randn(2, 12, 1, 1)
        for changed in (told._replace(tokens=tokens), told._replace(images=images)):
            difference = (network(x, TAU, changed) - found).abs().amax((1, 2, 3))
            assert difference[0] < 1e-5  # of the other class
            assert (difference[1:] > 1e-3).all()


def test_prototypes_enter_only_where_they_concatenate():
    assert denoiser(False).unet.config["in_channels"] == 12
    with torch.no_grad():
        found = denoiser(False)(torch.randn(3, 12, 1, 1), TAU, conditions(images=False))
    assert found.shape == (3, 12, 1, 1)


def test_a_vector_is_cut_into_tokens_of_equal_length():
    token_map = make_token_map(SHAPE, 2, 16, torch.Generator().manual_seed(0))
    assert token_map.shape == (4, 16, 3)
    prototypes = torch.randn(2, 12, 1, 1)
    found = prototype_tokens(prototypes, token_map)
    for place in range(4):
        part = prototypes.flatten(1)[:, 3 * place : 3 * place + 3]
        torch.testing.assert_close(found[:, place], part @ token_map[place].T)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prototypes": {"token_side": 5}}, "12 numbers cannot be cut into 25 parts"),
        ({"denoiser": {"patch": 2}}, "denoiser.patch is 2, which cuts images"),
    ],
)
def test_what_does_not_fit_vectors_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        gppdm(**change).check(SHAPE, 4)
    gppdm().check(SHAPE, 4)


LEARNT = {
    "gppdm": {
        "classifier": CLASSIFIER,
        "replay": {"sampler_steps": 10},
        "denoiser": {
            "condition_dim": 16,
            "width": 32,
            "blocks": 1,
            "steps": 150,
            "batch_size": 64,
            "ema_decay": 0.95,
            "learning_rate": 2e-2,
        },
    },
    "vae_replay": {
        "classifier": CLASSIFIER,
        "vae": {"width": 8, "latent_dim": 2, "steps": 300, "batch_size": 64, "learning_rate": 1e-2},
    },
}


@pytest.mark.parametrize("name", sorted(LEARNT))
def test_what_is_drawn_of_a_class_is_where_its_vectors_are(name):
    method = Method.model_validate({"name": name, **LEARNT[name]})
    train = vectors_of(3, 8, per_class=300)
    none = LabelledImages.empty(SHAPE)
    state, _ = method.train_generator(LearnerState.empty(), train, none, Context(0, 1))
    drawn = method.draw(state, (3, 8), 200, Context(0, 1))
    assert drawn.images.dtype == np.float16
    assert np.abs(drawn.images).max() > 3  # nothing keeps them in [-1, 1]
    for label in (3, 8):
        found, real = (
            part.of_classes([label]).images.reshape(-1, 12).astype(np.float64)
            for part in (drawn, train)
        )
        spread = real.std(0)
        assert (np.abs(found.mean(0) - real.mean(0)) < 0.4 * spread).all()
        if name == "gppdm":  # a VAE draws means
            np.testing.assert_allclose(found.std(0), spread, rtol=0.35)
            off = np.corrcoef(found.T) - np.corrcoef(real.T)
            assert np.abs(off).max() < 0.4


def test_a_lost_scale_would_be_seen():
    """What a state is drawn from has its scale: without it, vectors are somewhere else."""
    method = gppdm(denoiser={"width": 16, "blocks": 1})
    train, none = vectors_of(3, per_class=30), LabelledImages.empty(SHAPE)
    state, _ = method.train_generator(LearnerState.empty(), train, none, Context(0, 1))
    assert method.draw(state, (3,), 2, Context(0, 1)).images.dtype == np.float16
    assert method.draw(replace(state, extras={}), (3,), 2, Context(0, 1)).images.dtype == np.uint8
