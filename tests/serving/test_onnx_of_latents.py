"""The classifier of latents as ONNX, with the autoencoder inside."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from tests.reference import tiny_autoencoder
from tests.reference.tiny import CLASSIFIER, learn, maps_of
from tests.serving.test_predictor import NAMES

from gppdm_pipeline.algorithm.context import CPU
from gppdm_pipeline.methods import Method
from gppdm_pipeline.serving import onnx_file
from gppdm_pipeline.serving.onnx_file import write_onnx
from gppdm_pipeline.serving.predictor import Calibration, Predictor
from gppdm_pipeline.spaces.space import SpaceConfig
from gppdm_pipeline.streams.conversion import Conversion

there = all(importlib.util.find_spec(name) for name in onnx_file.PACKAGES)


@pytest.mark.slow  # writing takes ten seconds
@pytest.mark.skipif(not there, reason="needs the extra onnx")
@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny"])
@pytest.mark.parametrize(
    ("shape", "side", "sees"), [((16, 16, 3), None, "images"), ((20, 24, 1), 32, "space")]
)
def test_bytes_go_in_and_probabilities_come_out(kind, shape, side, sees, tmp_path):
    folder = tiny_autoencoder.made(tmp_path / "x", kind)
    space = SpaceConfig(name="latents", autoencoder=str(folder), side=side)
    maps = space.shape_of(shape)
    method = Method.model_validate({"name": "finetune", "classifier": {**CLASSIFIER, "sees": sees}})
    state = learn(
        method,
        [(0, 2)],
        images_of=lambda *k: maps_of(*k, shape=maps),
        decode=space.decoding(shape, CPU),
    )[1]
    state = replace(state, picture_shape=shape)
    predictor = Predictor(state, NAMES, Conversion(), Calibration(temperature=0.5), space=space)
    assert predictor.sees_pictures == (sees == "images")
    images = np.random.default_rng(0).integers(0, 256, (20, *shape), np.uint8)
    assert predictor.answers(images).probabilities.std() > 1e-3
    assert write_onnx(predictor, images, tmp_path / "classifier.onnx") <= 1e-4
