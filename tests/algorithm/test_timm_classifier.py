"""Classifiers by a name of timm, and from a folder of it: learnt, grown, kept, refused."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.algorithm.test_classifier import STILL, fit
from tests.methods.test_maps import decode
from tests.reference import tiny_pretrained
from tests.reference.tiny import differences, images_of, learn, maps_of

from gppdm_pipeline.algorithm.classifier import timm_net
from gppdm_pipeline.algorithm.classifier.network import (
    ClassifierConfig,
    accuracy,
    build_classifier,
    given_to_head,
    predict_logits,
)
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.disk.states import StateError, load_state, save_state, verify_state
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.methods import Method
from gppdm_pipeline.pretrained.folder import EncoderError

SHAPE = (16, 16, 3)
BATCHES = torch.nn.modules.batchnorm._BatchNorm


@pytest.fixture
def timm():
    return pytest.importorskip("timm", exc_type=ImportError)


@pytest.fixture(params=["timm:test_resnet", "timm:test_vit", "folder"])
def network(request, timm, tmp_path):
    if request.param == "folder":
        tiny_pretrained.of_timm(tmp_path / "model")
        return str(tmp_path / "model")
    return request.param


def begun(network, **settings):
    train = images_of(6, 2, 4, shape=SHAPE)
    return fit(LearnerState.empty(), 1, (6, 2, 4), train=train, network=network, **settings)[0]


def test_it_learns_grows_and_is_kept(network, tmp_path, monkeypatch):
    settings = {"steps": 60, "batch_size": 16, "network": network}
    state = begun(**settings)
    test = images_of(2, 4, 6, shape=SHAPE)
    assert accuracy(state, test, Context(0, 1)) > 0.9
    assert differences(begun(**settings), state) == []
    assert not [m for m in build_classifier(state.classifier).modules() if m.training]
    before = predict_logits(state, test.images, Context(0, 1))
    grown, _ = fit(state, 2, (9, 0), train=images_of(9, 0, shape=SHAPE), network=network, **STILL)
    after = predict_logits(grown, test.images, Context(0, 2))
    assert after.shape == (18, 5)
    np.testing.assert_allclose(after[:, :3], before, atol=1e-4)
    # It is read again without the folder, and nothing of it is a pickle.
    save_state(grown, tmp_path / "state", {})
    assert {file.suffix for file in (tmp_path / "state").rglob("*.*")} <= {".json", ".safetensors"}
    if network[0] == "/":
        (tmp_path / "model").rename(tmp_path / "away")
    found = predict_logits(load_state(tmp_path / "state"), test.images, Context(0, 2))
    np.testing.assert_array_equal(found, after)
    with monkeypatch.context() as without:
        without.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(StateError, match=r"state: classifier\.network = .* not installed: pip"):
            verify_state(tmp_path / "state")
    verify_state(tmp_path / "state")


def test_an_image_is_classified_alone_as_among_others(network):
    """In training, too: parts of a batch, and replay beside real images, change nothing."""
    body = build_classifier(begun(network).classifier).train()
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(body(x)[:1], body(torch.cat([x[:1], -x[1:]]))[:1])
    batches = any(isinstance(module, BATCHES) for module in body.modules())
    assert batches == (network[0] == "/")  # whose statistics stay


def test_a_folder_gives_its_weights_and_its_scale(timm, tmp_path):
    whole = tiny_pretrained.of_timm(tmp_path / "x", mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    images = images_of(6, 2, shape=(16, 16, 1))
    train = {"train": images, "network": str(tmp_path / "x")}
    state = fit(LearnerState.empty(), 1, (6, 2), **train, **STILL)[0]
    x = torch.from_numpy(images.images).permute(0, 3, 1, 2).expand(-1, 3, -1, -1) / 255
    x = timm.data.transforms_factory.transforms.Normalize([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])(x)
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features(x), pre_logits=True)
    found = given_to_head(state, images.images, Context(0, 1))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    anew = fit(state, 2, (9,), **{**train, "train": images_of(9, shape=(16, 16, 1))}, **STILL,
               start="anew")[0]  # fmt: skip
    torch.testing.assert_close(
        given_to_head(anew, images.images, Context(0, 2)), expected, atol=1e-3, rtol=1e-4
    )
    assert anew.classes == (6, 2, 9)


@pytest.mark.parametrize("name", ["ewc", "lwf", "joint"])
def test_methods_learn_decoded_images_with_it(timm, name):
    classifier = {"steps": 2, "batch_size": 6, "network": "timm:test_resnet", "sees": "images"}
    method = Method.model_validate({"name": name, "classifier": classifier})
    state = learn(method, [(0, 1), (2,)], images_of=maps_of, decode=decode)[2]
    maps = maps_of(0, 1).images
    found = predict_logits(state, maps, Context(0, 2, decode=decode))
    np.testing.assert_array_equal(found, predict_logits(state, decode(maps), Context(0, 2)))
    assert found.shape == (12, 3)


def test_a_folder_is_its_content(timm, tmp_path):
    for name in ("x", "y"):
        tiny_pretrained.of_timm(tmp_path / name)
    tiny_pretrained.of_timm(tmp_path / "z", seed=1)
    x, y, z = (timm_net.content_of(str(tmp_path / name)) for name in "xyz")
    assert x == y != z
    assert timm_net.content_of(x) == x
    assert ClassifierConfig(network=x).network == x
    assert timm_net.content_of("timm:test_vit") == "timm:test_vit"


@pytest.mark.parametrize(
    ("network", "shape", "said"),
    [
        ("timm:test_vit", (8, 8, 1), "makes nothing of images of 8x8 with 1 channels"),
        ("timm:test_vit", (1, 1, 12), "vectors of 12 numbers are no images"),
        ("timm:resnet10tt", SHAPE, "classifier.network = resnet10tt: .* did you mean resnet10t"),
    ],
)
def test_what_does_not_fit_is_refused(timm, network, shape, said):
    with pytest.raises(EncoderError, match=said):
        timm_net.check(network, shape)
    timm_net.check("timm:test_vit", SHAPE)


def test_what_cannot_be_had_is_refused(tmp_path, monkeypatch):
    timm_net.check("small", (1, 1, 12))
    with pytest.raises(EncoderError, match=r"no such folder\. Allowed are small, timm:<a name"):
        timm_net.check(str(tmp_path / "x"), SHAPE)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(EncoderError, match="a classifier is made of a model of timm"):
        timm_net.check(str(tmp_path), SHAPE)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EncoderError, match=r"are not installed: pip install timm torchvision"):
        timm_net.check("timm:test_vit", SHAPE)
    with pytest.raises(ValidationError, match=r"classifier\.head is another classifier"):
        ClassifierConfig(network="timm:test_vit", head="linear")
    assert "network" not in ClassifierConfig().model_dump()
