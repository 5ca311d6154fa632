"""Images without labels that an autoencoder of one's own learns from."""

import logging

import numpy as np
import pytest
from PIL import Image

from gppdm_pipeline.spaces.encoders import EncoderError
from gppdm_pipeline.spaces.own import images_like
from gppdm_pipeline.spaces.space import SpaceConfig
from gppdm_pipeline.streams.conversion import Conversion
from gppdm_pipeline.streams.errors import SourceError


def test_images_of_a_folder_get_the_shape_of_the_streams(tmp_path, caplog):
    for number, size in enumerate([(8, 8), (20, 10), (5, 9)]):
        Image.new("RGB", size, (100, 150, 200)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"none")
    with caplog.at_level(logging.WARNING):
        found = images_like(tmp_path, (8, 8, 3), Conversion())
    assert found.shape == (3, 8, 8, 3)
    assert (found == (100, 150, 200)).all()
    assert "1 damaged images are left out" in caplog.text
    assert images_like(tmp_path, (4, 6, 1), Conversion()).shape == (3, 4, 6, 1)
    np.savez(tmp_path / "some.npz", images=np.full((4, 8, 8), 7, np.uint8))
    assert (images_like(tmp_path / "some.npz", (8, 8, 1), Conversion()) == 7).all()


def test_where_there_is_no_image_it_is_told(tmp_path):
    with pytest.raises(SourceError, match=r"Set space\.images to another one"):
        images_like(tmp_path, (8, 8, 3), Conversion())
    (tmp_path / "x.png").write_bytes(b"none")
    with pytest.raises(EncoderError, match="no image in it can be read"):
        images_like(tmp_path, (8, 8, 3), Conversion())
    with pytest.raises(ValueError, match=r"set it with space\.autoencoder=own"):
        SpaceConfig(name="latents", autoencoder="x", images=tmp_path)
