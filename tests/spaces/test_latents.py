"""Autoencoders: latents are finite, of the right shape and the same again; pictures are theirs."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.reference import tiny_autoencoder

from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.spaces import autoencoders, taef2
from gppdm_pipeline.spaces.autoencoders import Autoencoder, described
from gppdm_pipeline.spaces.coder import Coder
from gppdm_pipeline.spaces.encoders import EncoderError
from gppdm_pipeline.spaces.space import SpaceConfig

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (19, 32, 32, 3), np.uint8)
KINDS = ("AutoencoderKL", "AutoencoderTiny", "taef2")


def space_of(kind, folder, **changes):
    if kind == "taef2":
        where = {"autoencoder": "taef2", "weights": tiny_autoencoder.taef2(folder)}
    else:
        where = {"autoencoder": str(tiny_autoencoder.made(folder, kind))}
    return SpaceConfig(name="latents", **where, **changes)


def labelled(images):
    return LabelledImages(images, np.arange(len(images)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_space_of_latents_keeps_its_contract(kind, tmp_path):
    space = space_of(kind, tmp_path / "autoencoder")
    shape = (4, 4, 32) if kind == "taef2" else (8, 8, 4)
    assert space.shape_of((32, 32, 3)) == shape
    (codes,) = space.encoded([labelled(IMAGES)], CPU)
    assert codes.images.shape == (19, *shape)
    assert codes.images.dtype == np.float16
    assert np.isfinite(codes.images).all()
    assert codes.images.std() > 0.01
    assert codes.picture_shape == (32, 32, 3)
    pictures = space.pictures(codes, (32, 32, 3), CPU)
    assert pictures.images.shape == IMAGES.shape
    assert pictures.images.dtype == np.uint8
    assert (pictures.labels == codes.labels).all()
    assert pictures.images.std() > 0
    # Not another time than once, and alone as among others.
    coder = space.coder(CPU)
    np.testing.assert_array_equal(coder.codes(IMAGES), coder.codes(IMAGES))
    alone = coder.numbers(IMAGES[-1:])
    np.testing.assert_allclose(alone, coder.numbers(IMAGES)[-1:], atol=1e-5)
    assert space.pictures(labelled(codes.images[:0]), (32, 32, 3), CPU).images.shape[0] == 0


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny"])
def test_latents_are_those_that_diffusers_gives(kind, tmp_path):
    import diffusers  # noqa: PLC0415 (takes two seconds)

    folder = tiny_autoencoder.made(tmp_path / "x", kind)
    network = getattr(diffusers, kind).from_pretrained(folder, low_cpu_mem_usage=False).eval()
    x = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        if kind == "AutoencoderTiny":
            expected = network.encode(x).latents
            shown = network.decode(expected).sample
        else:
            mean = network.encode(x).latent_dist.mean
            expected, shown = (mean - 0.5) * 2, network.decode(mean).sample
    coder = Coder(described(str(folder), None, False), None, CPU)
    found = coder.numbers(IMAGES)
    np.testing.assert_allclose(np.moveaxis(found, -1, 1), expected.numpy(), atol=1e-4)
    pictures = coder.pictures(found, (32, 32, 3))
    bytes_of = ((shown + 1) * 127.5).clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(pictures - bytes_of).max() <= 0.51  # rounded to bytes


def test_taef2_is_kept_finite_and_near_zero(tmp_path):
    folder = tiny_autoencoder.taef2(tmp_path / "taef2")
    tensors = load_file(folder / "encoder.safetensors")
    tensors["14.bias"] = torch.full((32,), 60000.0).half()
    save_file(tensors, folder / "encoder.safetensors")
    space = SpaceConfig(name="latents", autoencoder="taef2", weights=folder)
    (codes,) = space.encoded([labelled(IMAGES[:2])], CPU)
    assert (codes.images == taef2.BOUND).all()


def test_what_float16_does_not_hold_is_refused(tmp_path):
    folder = tiny_autoencoder.made(tmp_path / "kl", scaling_factor=1e9)
    space = SpaceConfig(name="latents", autoencoder=str(folder))
    with pytest.raises(EncoderError, match="numbers that float16 does not hold"):
        space.encoded([labelled(IMAGES[:2])], CPU)


def test_images_of_other_sizes_and_grey_ones(tmp_path):
    space = space_of("AutoencoderKL", tmp_path / "kl", side=64)
    small = np.random.default_rng(1).integers(0, 256, (3, 9, 11, 1), np.uint8)
    assert space.shape_of((9, 11, 1)) == (16, 16, 4)
    (codes,) = space.encoded([labelled(small)], CPU)
    assert codes.image_shape == (16, 16, 4)
    assert space.pictures(codes, (9, 11, 1), CPU).images.shape == (3, 9, 11, 1)
    as_they_are = SpaceConfig(name="latents", autoencoder=str(tmp_path / "kl"))
    with pytest.raises(EncoderError, match=r"images of 9x11 .* 4 times smaller.*space\.side=32"):
        as_they_are.shape_of((9, 11, 1))
    grey = SpaceConfig(
        name="latents", autoencoder=str(tiny_autoencoder.made(tmp_path / "grey", colours=1))
    )
    assert grey.shape_of((8, 8, 1)) == (2, 2, 4)
    with pytest.raises(EncoderError, match="images have 3 channels, and the autoencoder takes 1"):
        grey.shape_of((8, 8, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_the_hash_is_of_weights_and_settings(kind, tmp_path):
    space = space_of(kind, tmp_path / "one").resolved()
    assert space.resolved() == space
    other = space_of(kind, tmp_path / "moved").resolved()
    assert other != space
    assert other.is_like(space)
    files = sorted((tmp_path / "moved").iterdir())
    for file in files:
        before = file.read_bytes()
        file.write_bytes(before + b" ")
        with pytest.raises(EncoderError, match=r"space\.sha256 = .* that were used"):
            other.resolved()
        file.write_bytes(before)
    files[-1].unlink()
    with pytest.raises(EncoderError, match=f"{files[-1].name} is missing"):
        other.resolved()


def test_what_cannot_be_loaded_is_told(tmp_path):
    with pytest.raises(EncoderError, match=r"no such folder.*space\.download=true"):
        described("someone/something", None, False)
    folder = tiny_autoencoder.made(tmp_path / "kl")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_class_name": "VQModel"}))
    with pytest.raises(EncoderError, match="_class_name = 'VQModel'; allowed are AutoencoderKL"):
        described(str(folder), None, False)
    (folder / "config.json").write_text(json.dumps(config))
    weights = folder / autoencoders.WEIGHTS
    tensors = load_file(weights)
    save_file(dict(list(tensors.items())[1:]), weights)
    with pytest.raises(EncoderError, match="it lacks"):
        Autoencoder(described(str(folder), None, False), CPU)
    files = tiny_autoencoder.taef2(tmp_path / "taef2")
    (files / "encoder.safetensors").write_bytes((files / "decoder.safetensors").read_bytes())
    with pytest.raises(EncoderError, match="has not the weights of TAEF2"):
        Autoencoder(described("taef2", files, False), CPU)
    (folder / "config.json").write_text("{")
    with pytest.raises(EncoderError, match=r"config\.json cannot be read"):
        described(str(folder), None, False)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "latents"}, "set space.autoencoder to taef2"),
        ({"name": "latents", "autoencoder": "taef2"}, "space.weights is the folder of taef2"),
        ({"name": "latents", "autoencoder": "x", "weights": "y"}, "and with no other"),
        ({"name": "features", "autoencoder": "x"}, "space.autoencoder is for latents"),
        ({"side": 64}, "space.side is for features and latents"),
    ],
)
def test_settings_of_another_space_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        SpaceConfig(**settings)
