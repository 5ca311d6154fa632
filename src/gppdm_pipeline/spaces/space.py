"""The space in which a stream is learnt: its settings, and what it makes of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.spaces.autoencoders import Description, described
from gppdm_pipeline.spaces.coder import Coder, Decoding
from gppdm_pipeline.spaces.encoders import EncoderError, fingerprint
from gppdm_pipeline.spaces.own import OwnConfig
from gppdm_pipeline.spaces.store import Store
from gppdm_pipeline.streams.prepared import cache_folder

PLACES = ("autoencoder", "weights", "download")
"""Settings that say where an autoencoder lies; its hash says what it is."""
COPY = "autoencoder"
"""The folder of a copy of the autoencoder, beside a state that went elsewhere."""
_NUMBERS, _SIDE = 1280, 128
Shape = tuple[int, int, int]


class SpaceConfig(BaseModel):
    """In what a stream is learnt.

    Attributes:
        name: pixels: the images themselves. features: vectors of a frozen encoder. latents: maps of
            an autoencoder, which are decoded to be seen.
        encoder: of features; efficientnet_lite0 is of the extra `efficientnet`.
        autoencoder: of latents: own, trained by the run itself; taef2; the folder of an
            AutoencoderKL or AutoencoderTiny of diffusers; or the name of one on the hub.
        weights: of taef2: the folder with its two files. Of own, the run says where it lies.
        own: of own: architecture and budget.
        images: of own: where it learns from, images without labels; None: the first task's.
        download: whether a name on the hub may be fetched.
        side: pixels to which images are resized for what encodes them; None: of features 128, of
            latents as they are.
        sha256: of the encoder's or autoencoder's files; found when the experiment is resolved, and
            recorded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["features", "latents", "pixels"] = "pixels"
    encoder: Literal["efficientnet_lite0"] = "efficientnet_lite0"
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
        return {**values, "side": _SIDE if values.get("side") is None else values["side"]}

    @model_validator(mode="after")
    def _is_used(self) -> SpaceConfig:
        for key in sorted(self.model_fields_set - {"name"}):
            changed = getattr(self, key) != type(self).model_fields[key].default
            if changed and key not in _KEYS[self.name]:
                fitting = [name for name, keys in _KEYS.items() if key in keys]
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

    def resolved(self) -> SpaceConfig:
        """With the hash of the encoder that is there, and its folder as an absolute path.

        Raises:
            EncoderError: if it cannot be had, or is another than `sha256` says.
        """
        if not self.encodes:
            return self
        if self.trains and not self.is_there:
            if self.sha256 is None:  # it has not been trained yet
                return self
            raise EncoderError(
                f"{self.weights} is missing, the autoencoder that the run has trained. Put it "
                "back, or learn again: overwrite=true."
            )
        known = self._description
        found = fingerprint() if known is None else known.fingerprint()
        if self.sha256 not in (None, found):
            what = self.encoder if known is None else str(known.folder)
            raise EncoderError(
                f"space.sha256 = {self.sha256}: the weights of {what} that are installed "
                f"have {found}. Install those that were used; to learn with these, leave "
                "space.sha256 out."
            )
        update: dict[str, Any] = {"sha256": found}
        if self.weights is not None:
            update["weights"] = self.weights.resolve()
        elif known is not None and Path(str(self.autoencoder)).is_dir():
            update["autoencoder"] = str(known.folder)
        return self.model_copy(update=update)

    def identity(self) -> dict[str, Any]:
        """What decides the result, and where it lies; nothing for pixels, as before."""
        left_out = {"download", *(("weights", "sha256") if self.trains else ("own", "images"))}
        values = self.model_dump(mode="json", include={"name", *_KEYS[self.name]} - left_out)
        return {"space": values} if self.encodes else {}

    def shape_of(self, image_shape: Shape) -> Shape:
        """The (height, width, channels) in which images of this shape are learnt.

        Raises:
            EncoderError: if the autoencoder does not take such images.
        """
        known = self._description
        if known is None:
            return (1, 1, _NUMBERS) if self.encodes else image_shape
        height, width, channels = (self.side or image_shape[0], self.side or image_shape[1],
                                   image_shape[2])  # fmt: skip
        if height % known.factor or width % known.factor:
            above = -(-max(height, width) // 32) * 32
            raise EncoderError(
                f"images of {height}x{width} cannot be halved as often as the autoencoder does: "
                f"its maps are {known.factor} times smaller. Let images be resized for it: "
                f"space.side={above}"
            )
        if channels > known.colours:
            raise EncoderError(
                f"images have {channels} channels, and the autoencoder takes {known.colours}: use "
                "another one, or stream.source.colour=grey"
            )
        return height // known.factor, width // known.factor, known.channels

    def encoded(
        self, parts: Sequence[LabelledImages], device: torch.device
    ) -> list[LabelledImages]:
        """Images as they are learnt; each is encoded once, and then lies in the cache.

        Args:
            parts: uint8 images.
            device: where the encoder computes.

        Returns:
            The images themselves in pixels; else float16 [n, *shape_of(...)], with the images'
            own shape. Labels as given.

        Raises:
            EncoderError: if the encoder cannot be had, gives numbers that float16 does not hold,
                or the cache cannot be written.
        """
        if not self.encodes:
            return list(parts)
        coder = self.coder(device)
        name = f"encoded-{str(self.resolved().sha256)[:16]}-{self.side or 'as_they_are'}"
        return [
            LabelledImages(
                Store(cache_folder() / name, self.shape_of(part.image_shape)).codes(
                    part.images, coder.codes
                ),
                part.labels,
                part.image_shape,
            )
            for part in parts
        ]

    def pictures(
        self, images: LabelledImages, shape: Shape, device: torch.device
    ) -> LabelledImages:
        """What images, as they are learnt, show; pixels show themselves.

        Args:
            images: as they are learnt, in a space that `shows`.
            shape: (height, width, channels) of the stream's images.
            device: where an autoencoder computes.
        """
        if not self.decodes:
            return images
        shown = self.coder(device).pictures(images.images, shape)
        return LabelledImages(shown, images.labels)

    def decoding(self, shape: Shape | None, device: torch.device) -> Decoding | None:
        """What makes pictures of this shape; None where nothing is decoded, or no shape is known.

        Args:
            shape: (height, width, channels) of the stream's images.
            device: where the autoencoder computes.
        """
        return Decoding(self.coder(device), shape) if self.decodes and shape else None

    def reconstructed(self, images: LabelledImages, device: torch.device) -> LabelledImages:
        """Images, uint8, encoded and shown again; in pixels they themselves."""
        (codes,) = self.encoded([images], device)
        return self.pictures(codes, images.image_shape, device)

    @property
    def is_there(self) -> bool:
        """Whether an autoencoder of the run's own has been trained."""
        return self.weights is not None and self.weights.is_dir()

    def at(self, folder: Path) -> SpaceConfig:
        """The same with the autoencoder's files in `folder`, if they are there or will be."""
        if not self.decodes or not (self.trains or folder.is_dir()):
            return self
        key = "weights" if self.autoencoder in ("own", "taef2") else "autoencoder"
        return self.model_copy(update={key: folder if key == "weights" else str(folder)})

    def of_state(self, folder: Path, encoder: str | None) -> SpaceConfig:
        """The same with the autoencoder of a state: in a copy beside it, or of its run.

        Args:
            folder: of the state.
            encoder: the hash of the run's own autoencoder, if it has one.
        """
        beside = folder.parent / COPY
        if not self.trains:
            return self.at(beside)
        found = self.model_copy(update={"sha256": encoder})
        return found.at(beside if beside.is_dir() else folder.parents[1] / COPY)

    def is_like(self, other: SpaceConfig) -> bool:
        """Whether the same is learnt in both, wherever an autoencoder lies."""
        mine, theirs = (each.model_dump(exclude={*PLACES}) for each in (self, other))
        return mine == theirs

    @property
    def files(self) -> list[Path]:
        """Of an autoencoder; none, where there is no such."""
        return [] if self._description is None else self._description.files

    def coder(self, device: torch.device) -> Coder:
        """What encodes and decodes, where images are not learnt as they are."""
        return Coder(self._description, self.side, device)

    @property
    def _description(self) -> Description | None:
        if self.autoencoder is None:
            return None
        if self.trains and not self.is_there:  # not yet
            factor, nowhere = 2**self.own.halvings, self.weights or Path()
            return Description("AutoencoderTiny", nowhere, factor, self.own.channels, 3)
        where = str(self.weights) if self.trains else self.autoencoder
        return described(where, self.weights, self.download)


_KEYS: dict[str, tuple[str, ...]] = {
    "pixels": (),
    "features": ("encoder", "side", "sha256"),
    "latents": ("autoencoder", "weights", "own", "images", "download", "side", "sha256"),
}
"""What is set of each space besides its name."""
