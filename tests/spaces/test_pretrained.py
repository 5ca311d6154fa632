"""Encoders of timm and transformers from a folder: they compute what those libraries compute."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.reference import tiny_pretrained
from tests.reference.tiny_pretrained import TIMM, TRANSFORMERS

from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.pretrained.features import network_of
from gppdm_pipeline.pretrained.folder import EncoderError, Pretrained
from gppdm_pipeline.pretrained.preparation import preparation_of
from gppdm_pipeline.spaces.coder import Coder
from gppdm_pipeline.spaces.space import SpaceConfig

CPU = torch.device("cpu")
LEVELS = np.linspace(40, 150, 19)[:, None, None, None]
IMAGES = (np.random.default_rng(0).integers(0, 56, (19, 41, 50, 3)) + LEVELS).astype(np.uint8)
"""Noise, brighter from image to image, and away from the ends, where Pillow cuts between passes."""


@pytest.fixture
def timm():
    return pytest.importorskip("timm", exc_type=ImportError)


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", exc_type=ImportError)


def known(folder):
    return Pretrained.at(folder, "space.encoder", "efficientnet_lite0")


def prepared(folder, side):
    return preparation_of(known(folder), side)(torch.from_numpy(IMAGES))


def are_the_same_pixels(found, expected, std):
    """Pillow rounds to bytes after each of its two passes: a level, half of one in the mean."""
    assert found.shape == expected.shape
    levels = (found - expected).abs() * 255 * torch.tensor(std)[:, None, None]
    assert levels.max() < 1.6
    assert levels.mean() < 0.5
    assert expected.std() > 0.1


def are_the_same_vectors(folder, side, x, expected):
    """Of the same pixels, and what images are encoded to is that of theirs: float32's rounding."""
    network = network_of(known(folder), x.shape[-1])
    assert expected.std(0).mean() > 1e-4
    tolerance = 1e-5 * float(expected.abs().max())
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected, atol=tolerance, rtol=0)
        encoded = network(prepared(folder, side)).numpy()
    found = Coder(known(folder), side, CPU).numbers(IMAGES)
    space = SpaceConfig(name="features", encoder=str(folder), side=side)
    assert found.shape == (len(IMAGES), *space.shape_of(IMAGES.shape[1:]))
    np.testing.assert_allclose(found[:, 0, 0], encoded, atol=tolerance, rtol=0)


def of_timm(timm, network, side):
    """Images as timm prepares them, and what it makes of them."""
    config = timm.data.resolve_data_config({}, model=network)
    if side:
        config["input_size"] = (3, side, side)
        if hasattr(network, "set_input_size"):
            network.set_input_size(img_size=(side, side))
    transform = timm.data.create_transform(**config)
    x = torch.stack([transform(Image.fromarray(image)) for image in IMAGES])
    with torch.no_grad():
        return x, network.forward_head(network.forward_features(x), pre_logits=True)


@pytest.mark.parametrize(
    ("kind", "settings", "side"),
    [
        ("convolutions", {}, None),
        ("convolutions", {"crop_pct": 0.9, "interpolation": "bilinear"}, 64),
        ("convolutions", {"crop_mode": "squash", "std": [0.2, 0.3, 0.4]}, None),
        ("tokens", {"crop_pct": 0.95}, None),
        ("tokens", {}, 64),
        ("hidden", {"crop_pct": 1.0}, 64),
    ],
)
def test_vectors_of_a_folder_of_timm_are_timms(timm, tmp_path, kind, settings, side):
    network = tiny_pretrained.of_timm(tmp_path / "x", kind, **settings)
    x, expected = of_timm(timm, network, side)
    std = json.loads((tmp_path / "x/config.json").read_text())["pretrained_cfg"]["std"]
    are_the_same_pixels(prepared(tmp_path / "x", side), x, std)
    are_the_same_vectors(tmp_path / "x", side, x, expected)


@pytest.mark.parametrize(
    ("processor", "settings"),
    [
        ("ViT", {}),
        ("Bit", {}),
        ("CLIP", {"size": {"shortest_edge": 250}}),
        ("ConvNext", {"size": {"shortest_edge": 64}}),
        ("ConvNext", {}),
        ("DeiT", {"resample": 2}),
        ("Siglip", {"do_normalize": False}),
        ("MobileNetV2", {}),
        ("Beit", {"do_rescale": False, "image_mean": [99.0] * 3, "image_std": [255.0] * 3}),
    ],
)
def test_images_are_prepared_as_by_transformers(transformers, tmp_path, processor, settings):
    _, prepares = tiny_pretrained.of_transformers(
        tmp_path / "x", processor=f"{processor}ImageProcessor", **settings
    )
    given = prepares([Image.fromarray(image) for image in IMAGES], return_tensors="pt")
    normalises = settings.get("do_normalize", True) and settings.get("do_rescale", True)
    std = prepares.image_std if normalises else [1.0] * 3
    are_the_same_pixels(prepared(tmp_path / "x", None), given["pixel_values"], std)
    whole = preparation_of(known(tmp_path / "x"), None)
    halved = preparation_of(known(tmp_path / "x"), whole.side // 2)
    assert halved.side == whole.side // 2
    if processor != "ConvNext":
        assert halved.resize == whole.resize // 2


@pytest.mark.parametrize("side", [None, 64])
@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_vectors_of_a_folder_of_transformers_are_pooled_there(transformers, tmp_path, kind, side):
    processor = "ConvNextImageProcessor" if "Net" in kind or "Next" in kind else "ViTImageProcessor"
    size = {"size": {"height": 32, "width": 32} if processor[0] == "V" else {"shortest_edge": 48}}
    network, prepares = tiny_pretrained.of_transformers(
        tmp_path / "x", kind, processor=processor, **size
    )
    if side:
        prepares.size = (
            {"shortest_edge": side} if "Conv" in processor else {"height": side, "width": side}
        )
    x = prepares([Image.fromarray(image) for image in IMAGES], return_tensors="pt")["pixel_values"]
    body = getattr(network, "vision_model", getattr(network, "base_model", network))
    more = {"interpolate_pos_encoding": True} if side and processor[0] == "V" else {}
    with torch.no_grad():
        given = body(x, **more)
    pooled = given.last_hidden_state[:, 0] if "ViTFor" in kind else given.pooler_output.flatten(1)
    are_the_same_vectors(tmp_path / "x", side, x, pooled)


def test_the_space_is_the_content_of_the_folder(timm, tmp_path):
    folder = tmp_path / "x"
    tiny_pretrained.of_timm(folder)
    space = SpaceConfig(name="features", encoder=str(folder)).resolved()
    assert space.resolved() == space
    assert space.identity()["space"].keys() == {"name", "encoder", "side", "sha256"}
    (codes,) = space.encoded([LabelledImages(IMAGES, np.arange(len(IMAGES)))], CPU)
    assert codes.images.dtype == np.float16
    assert codes.image_shape == (1, 1, 8)
    assert codes.picture_shape == IMAGES.shape[1:]
    copy = folder.rename(tmp_path / "moved")
    with pytest.raises(EncoderError, match="there is no such folder"):
        space.resolved()
    moved = space.at(copy).resolved()
    assert moved != space
    assert moved.is_like(space)
    for file in moved.files:
        before = file.read_bytes()
        file.write_bytes(before + b" ")
        with pytest.raises(EncoderError, match=r"space\.sha256 = .* that were used"):
            moved.resolved()
        file.write_bytes(before)
    assert moved.resolved() == moved


def changed(file, **changes):
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, **changes}))


ARGUMENTS = TIMM["convolutions"][1]
FAULTS = {
    "architecture": (
        {"architecture": "resnet10tt"},
        r"config\.json: architecture = resnet10tt: the timm .* did you mean resnet10t\?",
    ),
    "arguments": (
        {"model_args": {"no_such": 1}},
        "architecture = resnet10t: timm does not make it of .*no_such",
    ),
    "elsewhere": (
        {"model_args": {"checkpoint_path": "x.pth"}},
        r"model_args has checkpoint_path, which is not allowed\. Remove it\.",
    ),
    "no vector": (
        {"model_args": {**ARGUMENTS, "global_pool": ""}},
        r"the model gives \[2, 8, 1, 1\] of two images, and not one vector of each",
    ),
    "interpolation": (
        {"pretrained_cfg": {"input_size": [3, 32, 32], "interpolation": "lanczos"}},
        r"config\.json: interpolation = lanczos; allowed are nearest, bilinear, bicubic",
    ),
    "colours": (
        {"pretrained_cfg": {"input_size": [1, 32, 32]}},
        r"input_size = \[1, 32, 32\]; allowed are squares of 3 colours",
    ),
}
"""Of config.json, and what is said."""


@pytest.mark.parametrize("fault", FAULTS)
def test_what_timm_cannot_make_is_told(timm, tmp_path, fault):
    tiny_pretrained.of_timm(tmp_path / "x")
    change, said = FAULTS[fault]
    changed(tmp_path / "x/config.json", **change)
    with pytest.raises(EncoderError, match=said):
        SpaceConfig(name="features", encoder=str(tmp_path / "x")).shape_of((8, 8, 3))


def test_weights_of_another_model_of_timm_are_told(timm, tmp_path):
    tiny_pretrained.of_timm(tmp_path / "x")
    weights = tmp_path / "x/model.safetensors"
    tensors = load_file(weights)
    del tensors["conv1.0.weight"]
    save_file(tensors, weights)
    space = SpaceConfig(name="features", encoder=str(tmp_path / "x"))
    with pytest.raises(EncoderError, match=r"it has not the weights of resnet10t \(conv1\.0"):
        space.coder(CPU).numbers(IMAGES[:1])


def test_what_transformers_cannot_make_is_told(transformers, tmp_path):
    folder = tmp_path / "x"
    tiny_pretrained.of_transformers(folder, size={"height": 32, "width": 32})
    space = SpaceConfig(name="features", encoder=str(folder))
    config, prepares = folder / "config.json", folder / "preprocessor_config.json"
    weights, before = folder / "model.safetensors", prepares.read_text()
    for change, said in (
        (
            {"image_processor_type": "MobileViTImageProcessor"},
            r"type = MobileViT; allowed are Bit,",
        ),
        ({"resample": 1}, r"resample = 1; allowed are nearest, bilinear"),
        ({"size": {"height": 32, "width": 48}}, "allowed are squares"),
        ({"do_pad": True}, "do_pad = True; allowed are False"),
        ({"do_resize": False}, "do_resize = False; allowed are True"),
        ({"do_center_crop": True, "crop_size": 48}, "crop_size is 48, more than size, 32"),
        ({"size": None}, "is missing, or not as transformers writes it"),
    ):
        changed(prepares, **change)
        with pytest.raises(EncoderError, match=said):
            space.shape_of((8, 8, 3))
        prepares.write_text(before)
    tensors = load_file(weights)
    save_file(dict(list(tensors.items())[1:]), weights, {"format": "pt"})
    with pytest.raises(EncoderError, match="it has not the weights of vit"):
        space.coder(CPU).numbers(IMAGES[:1])
    for change, said in (
        (
            {"model_type": "no_such", "auto_map": {"AutoModel": "x.Y"}},
            "code in a folder is not",
        ),
        ({"model_type": "bert", "vocab_size": 9}, "it makes nothing of images of 32x32"),
    ):
        changed(config, **change)
        with pytest.raises(EncoderError, match=said):
            space.shape_of((8, 8, 3))


@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_a_folder_that_is_not_whole_is_refused(tmp_path, monkeypatch, kind):
    folder = tmp_path / "x"
    space = SpaceConfig(name="features", encoder=str(folder))
    with pytest.raises(EncoderError, match=r"no such folder\. Allowed are efficientnet_lite0, and"):
        space.resolved()
    folder.mkdir()
    with pytest.raises(EncoderError, match=r"config\.json cannot be read"):
        space.resolved()
    key = {"timm": "architecture", "transformers": "model_type"}[kind]
    (folder / "config.json").write_text("{}")
    with pytest.raises(EncoderError, match="it has neither architecture,"):
        space.resolved()
    (folder / "config.json").write_text(json.dumps({key: "x"}))
    if kind == "transformers":
        with pytest.raises(
            EncoderError, match=r"preprocessor_config\.json is missing: it says how"
        ):
            space.resolved()
        (folder / "preprocessor_config.json").write_text("{}")
    with pytest.raises(EncoderError, match=r"safetensors is missing: name a folder that has conf"):
        space.resolved()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(EncoderError, match=r"pytorch_model\.bin is a pickle, which may execute"):
        space.resolved()
    (folder / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EncoderError, match=f"a model of {kind}.*: pip install {kind}"):
        space.resolved()
