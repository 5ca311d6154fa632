"""Codes are made once for each image, and are kept by what is in it."""

import logging

import numpy as np
import pytest

from gppdm_pipeline.spaces import store as module
from gppdm_pipeline.spaces.encoders import EncoderError
from gppdm_pipeline.spaces.store import Store

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 1), np.uint8)
SHAPE = (1, 1, 2)


class Coder:
    """Mean and spread of each image; counts what it is given."""

    def __init__(self, most=100):
        self.seen, self._most = 0, most

    def __call__(self, images):
        if self.seen >= self._most:
            raise KeyboardInterrupt
        self.seen += len(images)
        return codes_of(images)


def codes_of(images):
    flat = images.reshape(len(images), -1).astype(np.float32)
    return np.stack([flat.mean(1), flat.std(1)], 1).astype(np.float16)[:, None, None]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(module, "SHARD", 2)


def test_each_image_is_encoded_once_whoever_asks(tmp_path):
    coder = Coder()
    first = Store(tmp_path, SHAPE).codes(IMAGES[:5], coder)
    np.testing.assert_array_equal(first, codes_of(IMAGES[:5]))
    assert coder.seen == 5
    mixed = IMAGES[[7, 3, 7, 0, 8]]
    np.testing.assert_array_equal(Store(tmp_path, SHAPE).codes(mixed, coder), codes_of(mixed))
    assert coder.seen == 7


def test_what_was_stopped_goes_on_from_the_last_shard(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path, SHAPE).codes(IMAGES, Coder(most=4))
    coder = Coder()
    np.testing.assert_array_equal(Store(tmp_path, SHAPE).codes(IMAGES, coder), codes_of(IMAGES))
    assert coder.seen == len(IMAGES) - 4


def test_a_damaged_shard_is_made_anew(tmp_path, caplog):
    Store(tmp_path, SHAPE).codes(IMAGES, Coder())
    file = min(tmp_path.glob("*.npy"))
    file.write_bytes(file.read_bytes()[:-3])
    coder = Coder()
    with caplog.at_level(logging.WARNING):
        found = Store(tmp_path, SHAPE).codes(IMAGES, coder)
    np.testing.assert_array_equal(found, codes_of(IMAGES))
    assert 0 < coder.seen <= 2
    assert file.name in caplog.text


def test_no_image_has_no_codes(tmp_path):
    assert Store(tmp_path, SHAPE).codes(IMAGES[:0], Coder()).shape == (0, *SHAPE)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(EncoderError, match=r"cache/x: encoded images cannot be written .*GPPDM"):
        Store(tmp_path / "cache" / "x", SHAPE).codes(IMAGES, Coder())
