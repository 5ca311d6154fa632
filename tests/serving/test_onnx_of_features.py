"""The classifier of features as ONNX, with its encoder inside."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from tests.reference import tiny_encoder, tiny_pretrained
from tests.reference.tiny import CLASSIFIER, learn, vectors_of
from tests.serving.test_predictor import NAMES

from gppdm_pipeline.methods import Method
from gppdm_pipeline.serving import onnx_file
from gppdm_pipeline.serving.onnx_file import write_onnx
from gppdm_pipeline.serving.predictor import Calibration, Predictor
from gppdm_pipeline.spaces.space import SpaceConfig
from gppdm_pipeline.streams.conversion import Conversion

there = all(importlib.util.find_spec(name) for name in onnx_file.PACKAGES)


@pytest.mark.slow  # writing takes ten seconds
@pytest.mark.skipif(not there, reason="needs the extra onnx")
@pytest.mark.parametrize("shape", [(8, 8, 1), (80, 50, 3)])
def test_bytes_go_in_and_probabilities_come_out(shape, tmp_path, monkeypatch):
    tiny_encoder.install(monkeypatch, tmp_path)
    agrees(SpaceConfig(name="features", side=32), shape, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not there, reason="needs the extra onnx")
@pytest.mark.parametrize("kind", ["convolutions", "tokens", "Dinov2Model"])
def test_encoders_of_a_folder_are_inside(kind, tmp_path):
    pytest.importorskip("transformers" if kind == "Dinov2Model" else "timm", exc_type=ImportError)
    if kind == "Dinov2Model":
        sizes = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
        tiny_pretrained.of_transformers(
            tmp_path / "x", kind, processor="BitImageProcessor", **sizes
        )
    else:
        tiny_pretrained.of_timm(tmp_path / "x", kind)
    agrees(SpaceConfig(name="features", encoder=str(tmp_path / "x")), (80, 50, 3), tmp_path)


def agrees(space, shape, tmp_path):
    """The file's probabilities are the predictor's."""
    numbers = space.shape_of(shape)[2]
    method = Method.model_validate({"name": "finetune", "classifier": CLASSIFIER})
    state = learn(method, [(0, 2)], images_of=lambda *k: vectors_of(*k, numbers=numbers))[1]
    state, calibration = replace(state, picture_shape=shape), Calibration(temperature=0.5)
    predictor = Predictor(state, NAMES, Conversion(), calibration, space=space)
    images = np.random.default_rng(0).integers(0, 256, (20, *shape), np.uint8)
    said = predictor.answers(images).probabilities
    assert said.std() > 1e-3
    assert write_onnx(predictor, images, tmp_path / "classifier.onnx") <= 1e-4
