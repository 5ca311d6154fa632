"""The settings of the space in which a stream is learnt, and what must not be set together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.spaces.own import OwnConfig

EFFICIENTNET = "efficientnet_lite0"
_SIDE = 128
KEYS: dict[str, tuple[str, ...]] = {
    "pixels": (),
    "features": ("encoder", "side", "sha256"),
    "latents": ("autoencoder", "weights", "own", "images", "download", "side", "sha256"),
}
"""What is set of each space besides its name."""


class SpaceSettings(Config):
    """Which space it is.

    Attributes:
        name: pixels: the images themselves. features: vectors of a frozen encoder. latents: maps of
            an autoencoder, which are decoded to be seen.
        encoder: of features: efficientnet_lite0, of the extra `efficientnet`, or the folder of a
            model of timm or transformers, of the extra `encoders`.
        autoencoder: of latents: own, trained by the run itself; taef2; the folder of an
            AutoencoderKL or AutoencoderTiny of diffusers; or the name of one on the hub.
        weights: of taef2: the folder with its two files. Of own, the run says where it lies.
        own: of own: architecture and budget.
        images: of own: where it learns from, images without labels; None: the first task's.
        download: whether a name on the hub may be fetched.
        side: pixels to which images are resized for what encodes them; None: of EfficientNet 128,
            of a folder's model its own, of latents as they are.
        sha256: of the encoder's or autoencoder's files; found when the experiment is resolved, and
            recorded.
    """

    name: Literal["features", "latents", "pixels"] = "pixels"
    encoder: str = EFFICIENTNET
    autoencoder: str | None = None
    weights: Path | None = None
    own: OwnConfig = OwnConfig()
    images: Path | None = None
    download: bool = False
    side: Annotated[int, Field(ge=32, le=1024, multiple_of=32)] | None = None
    sha256: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_the_side_of_features(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("name") != "features":
            return values
        if values.get("encoder", EFFICIENTNET) != EFFICIENTNET:
            return values
        return {**values, "side": _SIDE if values.get("side") is None else values["side"]}

    @model_validator(mode="after")
    def _is_used(self) -> SpaceSettings:
        for key in sorted(self.model_fields_set - {"name"}):
            changed = getattr(self, key) != type(self).model_fields[key].default
            if changed and key not in KEYS[self.name]:
                fitting = [name for name, keys in KEYS.items() if key in keys]
                raise ValueError(
                    f"space.{key} is for {' and '.join(fitting)}: set "
                    f"space.name={' or '.join(fitting)}, or leave it out"
                )
        if self.name == "latents" and self.autoencoder is None:
            raise ValueError(
                "latents are of an autoencoder: set space.autoencoder to taef2 or to the folder of "
                "one of diffusers"
            )
        if self.trains and (self.side is not None or self.sha256 is not None):
            raise ValueError(
                "space.side and space.sha256 are not of an autoencoder of one's own, which learns "
                "images as they are: leave them out"
            )
        if not self.trains and self.images is not None:
            raise ValueError(
                "space.images is what an autoencoder of one's own learns from: set it "
                "with space.autoencoder=own, or leave it out"
            )
        if not self.trains and (self.weights is not None) != (self.autoencoder == "taef2"):
            raise ValueError(
                "space.weights is the folder of taef2's files, encoder.safetensors and "
                "decoder.safetensors: set it with space.autoencoder=taef2, and with no other"
            )
        return self

    @property
    def encodes(self) -> bool:
        """Whether images are learnt as something else than pixels."""
        return self.name != "pixels"

    @property
    def trains(self) -> bool:
        """Whether the autoencoder is one of the run's own."""
        return self.autoencoder == "own"

    @property
    def shows(self) -> bool:
        """Whether there are pictures of what is learnt."""
        return self.name != "features"

    @property
    def decodes(self) -> bool:
        """Whether these are made of what is learnt, which are no pictures themselves."""
        return self.encodes and self.shows
