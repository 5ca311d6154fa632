"""The classifier as ONNX."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from tests.reference.tiny import CLASSIFIER, images_of, learn
from tests.serving.test_predictor import NAMES

from gppdm_pipeline.methods import Method
from gppdm_pipeline.serving import onnx_file
from gppdm_pipeline.serving.onnx_file import OnnxError, missing_packages, write_onnx
from gppdm_pipeline.serving.predictor import Calibration, Predictor
from gppdm_pipeline.streams.conversion import Conversion

there = all(importlib.util.find_spec(name) for name in onnx_file.PACKAGES)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(onnx_file, "PACKAGES", ("numpy", "no_such_package"))
    assert missing_packages() == ["no_such_package"]


@pytest.mark.slow  # writing takes ten seconds
@pytest.mark.skipif(not there, reason="needs the extra onnx")
def test_it_answers_as_the_predictor_does_for_any_number_of_images(tmp_path, monkeypatch):
    import onnxruntime  # noqa: PLC0415

    method = Method.model_validate({"name": "finetune", "classifier": CLASSIFIER})
    state = learn(method, [(0, 2)])[1]
    predictor = Predictor(state, NAMES, Conversion(), Calibration(temperature=0.5))
    images, file = images_of(0, 2).images, tmp_path / "folder/classifier.onnx"
    assert write_onnx(predictor, images, file) <= 1e-4
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for few in (images[:1], images[:7]):
        (found,) = session.run(None, {"images": few})
        assert np.allclose(found, predictor.answers(few).probabilities, atol=1e-4)
    before = file.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(OnnxError, match="probabilities differ by"):
        patch.setattr(onnx_file, "TOLERANCE", -1.0)
        write_onnx(predictor, images, file)
    predictor.network.forward = lambda x: x.sort(stable=True, dim=1)[0].unique()[:2].expand(2, 2)
    with pytest.raises(OnnxError, match="cannot be written as ONNX"):
        write_onnx(predictor, images, file)
    assert file.read_bytes() == before
    assert [each.name for each in file.parent.iterdir()] == ["classifier.onnx"]
