"""The space in which a stream is learnt: its settings, and what it makes of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.pretrained.features import numbers
from gppdm_pipeline.pretrained.folder import EncoderError, Pretrained
from gppdm_pipeline.pretrained.preparation import preparation_of
from gppdm_pipeline.spaces.autoencoders import Description, described
from gppdm_pipeline.spaces.coder import Coder, Decoding
from gppdm_pipeline.spaces.encoders import REQUIREMENTS, fingerprint
from gppdm_pipeline.spaces.settings import EFFICIENTNET, KEYS, SpaceSettings
from gppdm_pipeline.spaces.store import Store
from gppdm_pipeline.streams.folders.looks import SIDE
from gppdm_pipeline.streams.prepared import cache_folder

PLACES = ("autoencoder", "encoder", "weights", "download")
"""Settings that say where an encoder or autoencoder lies; its hash says what it is."""
COPY = "autoencoder"
"""The folder of the run's own autoencoder, and of a copy of any beside a state elsewhere."""
_NUMBERS = 1280
Shape = tuple[int, int, int]


class SpaceConfig(SpaceSettings):
    """In what a stream is learnt."""

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
            what = EFFICIENTNET if known is None else str(known.folder)
            raise EncoderError(
                f"space.sha256 = {self.sha256}: the weights of {what} that are installed "
                f"have {found}. Install those that were used; to learn with these, leave "
                "space.sha256 out."
            )
        update: dict[str, Any] = {"sha256": found}
        if self.weights is not None:
            update["weights"] = self.weights.resolve()
        elif known is not None and Path(str(getattr(self, self._key))).is_dir():
            update[self._key] = str(known.folder)
        return self.model_copy(update=update)

    def identity(self) -> dict[str, Any]:
        """What decides the result, and where it lies; nothing for pixels, as before."""
        left_out = {"download", *(("weights", "sha256") if self.trains else ("own", "images"))}
        values = self.model_dump(mode="json", include={"name", *KEYS[self.name]} - left_out)
        return {"space": values} if self.encodes else {}

    def shape_of(self, image_shape: Shape) -> Shape:
        """The (height, width, channels) in which images of this shape are learnt.

        Raises:
            EncoderError: if the autoencoder or the encoder does not take such images.
        """
        known = self._description
        if known is None:
            return (1, 1, _NUMBERS) if self.encodes else image_shape
        if isinstance(known, Pretrained):
            return 1, 1, numbers(known, self.side)
        return known.shape_of(image_shape, self.side)

    def side_of_images(self) -> int:
        """Of how many pixels a side images are of use, where their size is left to them.

        Raises:
            EncoderError: if the encoder's folder does not say.
        """
        if self.name != "features":
            return SIDE
        known = self._description
        if isinstance(known, Pretrained):
            return preparation_of(known, self.side).resize
        assert self.side is not None
        return self.side

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

    @property
    def _key(self) -> str:
        """The setting that says where files lie."""
        if not self.decodes:
            return "encoder"
        return "weights" if self.autoencoder in ("own", "taef2") else "autoencoder"

    def at(self, folder: Path) -> SpaceConfig:
        """The same with the files in `folder`, if there are some, and are there or will be."""
        lies = self.decodes or self.encoder != EFFICIENTNET
        if not lies or not (self.trains or folder.is_dir()):
            return self
        where = folder if self._key == "weights" else str(folder)
        return self.model_copy(update={self._key: where})

    def of_state(self, folder: Path, encoder: str | None) -> SpaceConfig:
        """The same with what encodes for a state: in a copy beside it, or where it was.

        Args:
            folder: of the state.
            encoder: the hash of the run's own autoencoder, if it has one.
        """
        beside = folder.parent / self.copy_name
        if not self.trains:
            return self.at(beside)
        found = self.model_copy(update={"sha256": encoder})
        return found.at(beside if beside.is_dir() else folder.parents[1] / COPY)

    @property
    def copy_name(self) -> str:
        """The folder of a copy of what encodes, beside a state that went elsewhere."""
        return "encoder" if self.name == "features" else COPY

    def is_like(self, other: SpaceConfig) -> bool:
        """Whether the same is learnt in both, wherever an autoencoder lies."""
        mine, theirs = (each.model_dump(exclude={*PLACES}) for each in (self, other))
        return mine == theirs

    @property
    def files(self) -> list[Path]:
        """Of an autoencoder, or of a folder's encoder; none, where there is no such."""
        return [] if self._description is None else self._description.files

    def coder(self, device: torch.device) -> Coder:
        """What encodes and decodes, where images are not learnt as they are."""
        return Coder(self._description, self.side, device)

    @property
    def requirements(self) -> tuple[str, ...]:
        """The packages that a published model needs for it, as pip takes them."""
        if self.name != "features":
            return ()
        known = self._description
        return tuple(known.requirements) if isinstance(known, Pretrained) else REQUIREMENTS

    @property
    def _description(self) -> Description | Pretrained | None:
        if self.name == "features" and self.encoder != EFFICIENTNET:
            return Pretrained.at(self.encoder, "space.encoder", EFFICIENTNET)
        if self.autoencoder is None:
            return None
        if self.trains and not self.is_there:  # not yet
            factor, nowhere = 2**self.own.halvings, self.weights or Path()
            return Description("AutoencoderTiny", nowhere, factor, self.own.channels, 3)
        where = str(self.weights) if self.trains else self.autoencoder
        return described(where, self.weights, self.download)
