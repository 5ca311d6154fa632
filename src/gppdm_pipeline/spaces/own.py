"""Settings and images of an autoencoder of one's own (see `algorithm/autoencoder.py`)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.images.labelled import Room
from gppdm_pipeline.pretrained.folder import EncoderError
from gppdm_pipeline.streams.conversion import Conversion, UndecodableError
from gppdm_pipeline.streams.preparing import Image
from gppdm_pipeline.streams.unlabelled import unlabelled

logger = logging.getLogger(__name__)
_SETTING = "space.images"


class OwnConfig(Config):
    """An autoencoder of one's own: diffusers' AutoencoderTiny, trained on the first task's images.

    Attributes:
        width: channels of every layer.
        halvings: how often an image is halved.
        channels: of the latents.
        steps: of its training.
        batch_size: images in each.
        learning_rate: at its peak.
    """

    width: Annotated[int, Field(ge=8, le=256, multiple_of=8)] = 32
    halvings: Annotated[int, Field(ge=1, le=5)] = 2
    channels: Annotated[int, Field(ge=1, le=64)] = 8
    steps: Annotated[int, Field(ge=1)] = 2000
    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-3


def images_like(path: Path, shape: tuple[int, int, int], rule: Conversion) -> NDArray[np.uint8]:
    """Images without labels, brought to the size and colours of the stream's.

    Args:
        path: as `streams.unlabelled` takes it.
        shape: (height, width, channels).
        rule: how others get there; `resize` and `colour` are those of the shape.

    Returns:
        uint8 [n, *shape], without those that are damaged; many lie in a mapped file.

    Raises:
        SourceError: if there are none.
        EncoderError: if none can be read.
    """
    colour = "grey" if shape[2] == 1 else "rgb"
    rule = rule.model_copy(update={"resize": shape[:2], "colour": colour})
    room = Room((sum(1 for _ in unlabelled(path, _SETTING)), *shape))
    done = damaged = 0
    for _, image in unlabelled(path, _SETTING):
        try:
            room.put(done, _pixels(rule, image)[np.newaxis])
        except UndecodableError:
            damaged += 1
        else:
            done += 1
    if not done:
        raise EncoderError(f"{_SETTING} = {path}: no image in it can be read. Name another one.")
    if damaged:
        logger.warning("%s: %d damaged images are left out.", path, damaged)
    return room.images[:done]


def _pixels(rule: Conversion, image: Image) -> NDArray[np.uint8]:
    if isinstance(image, np.ndarray):
        return rule.convert(image[..., np.newaxis] if image.ndim == 2 else image)
    return rule.decode(image.read_bytes() if isinstance(image, Path) else image)
