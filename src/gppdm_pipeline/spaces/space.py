"""The space in which a stream is learnt: its settings, and what it makes of images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.spaces.encoders import Encoder, EncoderError, fingerprint
from gppdm_pipeline.spaces.store import Codes, Store
from gppdm_pipeline.streams.prepared import cache_folder

_NUMBERS = 1280


class SpaceConfig(BaseModel):
    """In what a stream is learnt.

    Attributes:
        name: pixels: the images themselves. features: vectors of a frozen encoder.
        encoder: of features; efficientnet_lite0 is of the extra `efficientnet`.
        side: of features: pixels to which images are resized for the encoder.
        sha256: of the encoder's weights; found when the experiment is resolved, and recorded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["features", "pixels"] = "pixels"
    encoder: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    side: Annotated[int, Field(ge=32, le=1024, multiple_of=32)] = 128
    sha256: str | None = None

    @model_validator(mode="after")
    def _is_used(self) -> SpaceConfig:
        given = sorted(self.model_fields_set - {"name"})
        if self.name == "pixels" and any(getattr(self, key) != _DEFAULTS[key] for key in given):
            keys = ", ".join(f"space.{key}" for key in given)
            raise ValueError(f"{keys} is for features: set space.name=features, or leave it out")
        return self

    @property
    def encodes(self) -> bool:
        """Whether images are learnt as something else than pixels."""
        return self.name != "pixels"

    def resolved(self) -> SpaceConfig:
        """With the hash of the encoder that is there.

        Raises:
            EncoderError: if it cannot be had, or is another than `sha256` says.
        """
        if not self.encodes:
            return self
        found = fingerprint()
        if self.sha256 not in (None, found):
            raise EncoderError(
                f"space.sha256 = {self.sha256}: the weights of {self.encoder} that are installed "
                f"have {found}. Install those that were used; to learn with these, leave "
                "space.sha256 out."
            )
        return self.model_copy(update={"sha256": found})

    def identity(self) -> dict[str, Any]:
        """What decides the result; nothing for pixels, whose runs are as they were before."""
        return {"space": self.model_dump(mode="json")} if self.encodes else {}

    def shape_of(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The (height, width, channels) in which images of this shape are learnt."""
        return (1, 1, _NUMBERS) if self.encodes else image_shape

    def encoded(
        self, parts: Sequence[LabelledImages], device: torch.device
    ) -> list[LabelledImages]:
        """Images as they are learnt; each is encoded once, and then lies in the cache.

        Args:
            parts: uint8 images.
            device: where the encoder computes.

        Returns:
            The images themselves in pixels; of features float16 [n, 1, 1, 1280], with the images'
            own shape. Labels as given.

        Raises:
            EncoderError: if the encoder cannot be had, gives numbers that float16 does not hold,
                or the cache cannot be written.
        """
        if not self.encodes:
            return list(parts)
        coder = Coder(self, device)
        folder = cache_folder() / f"encoded-{str(self.resolved().sha256)[:16]}-{self.side}"
        store = Store(folder, (1, 1, _NUMBERS))
        return [
            LabelledImages(store.codes(part.images, coder.codes), part.labels, part.image_shape)
            for part in parts
        ]


_DEFAULTS = {name: field.default for name, field in SpaceConfig.model_fields.items()}


class Coder:
    """What encodes images; it loads the encoder when there is something to encode.

    Args:
        config: of the space, features.
        device: where the encoder computes.

    Attributes:
        config: as given.
    """

    def __init__(self, config: SpaceConfig, device: torch.device) -> None:
        self.config, self._device = config, device

    @cached_property
    def encoder(self) -> Encoder:
        """What makes float32 vectors."""
        return Encoder(self._device)

    def vectors(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Uint8 [n, h, w, 1 or 3] -> float32 [n, 1, 1, 1280].

        Raises:
            EncoderError: if the encoder cannot be had.
        """
        return self.encoder.vectors(images, self.config.side)[:, None, None]

    def codes(self, images: NDArray[np.uint8]) -> Codes:
        """As they are kept: uint8 [n, h, w, 1 or 3] -> float16 [n, 1, 1, 1280].

        Raises:
            EncoderError: if the encoder cannot be had, or gives numbers that float16 does not hold.
        """
        codes = self.vectors(images).astype(np.float16)
        if not np.isfinite(codes).all():
            raise EncoderError(
                f"space.encoder = {self.config.encoder}: it gives numbers that float16 does not "
                "hold. Compute in float32 on the CPU (device=cpu), or install its weights again."
            )
        return codes
