"""Sizes and colours: every rule against pixels worked out by hand."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from gppdm_pipeline.streams import conversion
from gppdm_pipeline.streams.conversion import Conversion, UndecodableError


def file(array, kind="PNG", **options):
    stream = BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(stream, kind, **options)
    return stream.getvalue()


def ramp(height, width):
    return np.arange(height * width, dtype=np.uint8).reshape(height, width)


def test_as_is_keeps_every_bit_and_the_number_of_channels():
    grey, colour = (
        ramp(5, 7),
        np.stack([ramp(5, 7)] * 3, axis=-1) + np.array([0, 90, 180], np.uint8),
    )
    np.testing.assert_array_equal(Conversion().decode(file(grey))[..., 0], grey)
    np.testing.assert_array_equal(Conversion().decode(file(colour)), colour)
    assert Conversion().convert(colour) is colour
    bits = Image.fromarray(np.eye(4, dtype=bool))
    np.testing.assert_array_equal(Conversion().decode(file(bits))[..., 0], np.eye(4) * 255)


def test_colours():
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 200
    grey = Conversion(colour="grey")
    for pixels in (grey.decode(file(red)), grey.convert(red)):
        assert pixels.shape == (2, 2, 1)
        assert (pixels == round(0.299 * 200)).all()
    rgb = Conversion(colour="rgb").convert(ramp(2, 2)[..., None])
    np.testing.assert_array_equal(rgb, np.repeat(ramp(2, 2)[..., None], 3, axis=-1))
    palette = Image.fromarray(red).convert("P", palette=Image.Palette.ADAPTIVE)
    np.testing.assert_array_equal(Conversion().decode(file(palette)), red)


def test_what_is_transparent_shows_the_pad_value():
    clear = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    clear.putpixel((1, 0), (10, 20, 30, 0))
    pixels = Conversion(pad_value=255).decode(file(clear))
    assert pixels.tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert Conversion().decode(file(Image.new("LA", (1, 1), (77, 0)))).tolist() == [[[0]]]


def test_smaller_is_the_mean_of_areas():
    pixels = ramp(4, 8)[..., None]
    expected = pixels.reshape(2, 2, 4, 2, 1).astype(float).mean(axis=(1, 3))
    got = Conversion(resize=(2, 4)).convert(pixels)
    assert np.abs(got - expected).max() <= 0.5
    assert got.shape == (2, 4, 1)


def test_crop_keeps_the_middle_pad_keeps_all_and_stretch_changes_proportions():
    wide = np.zeros((4, 8, 1), np.uint8)
    wide[:, 2:6] = 100
    crop = Conversion(resize=4, fit="crop").convert(wide)
    np.testing.assert_array_equal(crop, np.full((4, 4, 1), 100))
    pad = Conversion(resize=8, fit="pad", pad_value=7).convert(wide)
    np.testing.assert_array_equal(pad[2:6], wide)
    assert (pad[:2] == 7).all() and (pad[6:] == 7).all()
    stretch = Conversion(resize=4, fit="stretch").convert(wide)
    np.testing.assert_array_equal(stretch[0, :, 0], [0, 100, 100, 0])
    tall = Conversion(resize=4, fit="pad", pad_value=9).convert(
        wide.transpose(1, 0, 2).repeat(3, 2)
    )
    assert tall.shape == (4, 4, 3)
    assert (tall[:, 0] == 9).all() and (tall[:, 3] == 9).all()


def test_larger_is_bilinear_and_keeps_the_range():
    got = Conversion(resize=8).convert(np.array([[[0], [200]], [[0], [200]]], np.uint8))[0, :, 0]
    assert got[0] == 0 and got[-1] == 200
    assert (np.diff(got.astype(int)) >= 0).all()
    assert 0 < got[3] < got[4] < 200


def test_images_are_turned_as_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    data = file(np.zeros((2, 6, 3), np.uint8), "JPEG", exif=exif)
    assert Conversion().decode(data).shape == (6, 2, 3)


NOISE = file(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no image at all", "no image"),
        (b"", "no image"),
        (NOISE[: len(NOISE) // 2], "truncated|broken|incomplete"),
        (file(Image.open(BytesIO(NOISE)), "JPEG")[:-200], "truncated"),
        (file(np.full((2, 2), 60_000, np.uint16)), "more than 8 bits a channel"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
    ],
)
def test_what_cannot_be_decoded_says_why(data, message):
    with pytest.raises(UndecodableError, match=message):
        Conversion().decode(data)


def test_decompression_bombs_are_refused(monkeypatch):
    data = file(ramp(20, 10))
    monkeypatch.setattr(conversion, "MOST_PIXELS", 199)
    with pytest.raises(UndecodableError, match="10 x 20 pixels, which is more than the 199"):
        Conversion().decode(data)
    for most in (150, 50):  # Pillow warns of the first, and refuses the second itself
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(UndecodableError, match="more than the 199 pixels that"):
            Conversion().decode(data)


@pytest.mark.parametrize(
    "options",
    [{"resize": 0}, {"resize": (4, 0)}, {"fit": "zoom"}, {"pad_value": 256}, {"colour": "bgr"}],
)
def test_wrong_rules_are_refused(options):
    with pytest.raises(ValidationError):
        Conversion.model_validate(options)
