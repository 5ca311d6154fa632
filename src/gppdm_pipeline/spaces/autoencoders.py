"""Autoencoders: images to latents, which are maps of few numbers, and back.

diffusers' AutoencoderKL and AutoencoderTiny, from a folder as `save_pretrained` writes it, and
TAEF2. Weights are safetensors, so that nothing in a file is executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gppdm_pipeline.pretrained.folder import EncoderError, fingerprint_of
from gppdm_pipeline.spaces import taef2

Kind = Literal["AutoencoderKL", "AutoencoderTiny", "taef2"]
Shape = tuple[int, int, int]
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
_WIDTHS = {"AutoencoderKL": "block_out_channels", "AutoencoderTiny": "encoder_block_out_channels"}


@dataclass(frozen=True)
class Description:
    """What is known of an autoencoder before its weights are read.

    Attributes:
        kind: its class.
        folder: of its files.
        factor: how many times smaller maps are than images, each way.
        channels: of maps.
        colours: channels of images, 1 or 3.
    """

    kind: Kind
    folder: Path
    factor: int
    channels: int
    colours: int

    @property
    def files(self) -> list[Path]:
        """What decides what it does."""
        names = taef2.FILES if self.kind == "taef2" else (CONFIG, WEIGHTS)
        return [self.folder / name for name in names]

    def fingerprint(self) -> str:
        """SHA-256 of its files: weights and settings.

        Raises:
            EncoderError: if one is missing.
        """
        self.check()
        return fingerprint_of(self.files)

    def shape_of(self, image_shape: Shape, side: int | None) -> Shape:
        """The (height, width, channels) of the maps of images.

        Args:
            image_shape: (height, width, channels).
            side: pixels to which they are resized; None: as they are.

        Raises:
            EncoderError: if it does not take such images.
        """
        height, width = (side or image_shape[0]), (side or image_shape[1])
        if height % self.factor or width % self.factor:
            above = -(-max(height, width) // 32) * 32
            raise EncoderError(
                f"images of {height}x{width} cannot be halved as often as the autoencoder does: "
                f"its maps are {self.factor} times smaller. Let images be resized for it: "
                f"space.side={above}"
            )
        if image_shape[2] > self.colours:
            raise EncoderError(
                f"images have {image_shape[2]} channels, and the autoencoder takes "
                f"{self.colours}: use another one, or stream.source.colour=grey"
            )
        return height // self.factor, width // self.factor, self.channels

    def check(self) -> None:
        """Raise EncoderError if one of its files is missing."""
        for file in self.files:
            if not file.is_file():
                raise EncoderError(
                    f"{file} is missing: name a folder that has {' and '.join(self._names)} in "
                    f"space.{'weights' if self.kind == 'taef2' else 'autoencoder'}"
                )

    @property
    def _names(self) -> list[str]:
        return [file.name for file in self.files]


def described(autoencoder: str, weights: Path | None, download: bool) -> Description:
    """The autoencoder of these settings.

    Args:
        autoencoder: taef2, a folder, or a name on the hub.
        weights: of taef2, the folder of its files.
        download: whether a name on the hub may be fetched.

    Raises:
        EncoderError: if it is not there, or is of another class.
    """
    if autoencoder == "taef2":
        assert weights is not None
        return Description("taef2", weights, taef2.FACTOR, taef2.CHANNELS, 3)
    folder = _folder(autoencoder, download)
    config = _config(folder / CONFIG)
    kind = config.get("_class_name")
    if kind not in _WIDTHS:
        raise EncoderError(
            f"{folder / CONFIG}: _class_name = {kind!r}; allowed are {' and '.join(_WIDTHS)} of "
            "diffusers. Name the folder of such an autoencoder in space.autoencoder."
        )
    widths, colours = config.get(_WIDTHS[kind], [64] * 4), config.get("in_channels", 3)
    if colours not in (1, 3) or colours != config.get("out_channels", 3):
        raise EncoderError(
            f"{folder / CONFIG}: in_channels = {colours}, out_channels = "
            f"{config.get('out_channels', 3)}; images have 1 or 3 channels, in and out"
        )
    channels = config.get("latent_channels", 4)
    return Description(kind, folder, 2 ** (len(widths) - 1), channels, colours)


def _folder(name: str, download: bool) -> Path:
    if Path(name).is_dir():
        return Path(name).resolve()
    if not download:
        raise EncoderError(
            f"space.autoencoder = {name}: there is no such folder. Name one that diffusers' "
            "save_pretrained has written; if it is a name on the hub, allow the network by "
            "space.download=true."
        )
    from huggingface_hub import snapshot_download  # noqa: PLC0415 (only where it is asked for)

    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS]))
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"space.autoencoder = {name}: the hub does not give it ({error}). Check the name and "
            "the network, or name a local folder."
        ) from error


def _config(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"{file} cannot be read ({error}): name a folder that diffusers' save_pretrained has "
            "written in space.autoencoder"
        ) from error
    return found if isinstance(found, Mapping) else {}


class Autoencoder:
    """An autoencoder that is ready to be used; it encodes without drawing random numbers.

    Args:
        description: which one.
        device: where it computes.

    Attributes:
        description: as given.
        network: its layers, on the device, in float32 and evaluation mode.

    Raises:
        EncoderError: if its files are not as they should be.
    """

    def __init__(self, description: Description, device: torch.device) -> None:
        description.check()
        self.description = description
        network = _network(description).eval().requires_grad_(False)
        self.network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def of(self, images: Tensor, side: int | None) -> Tensor:
        """The latents of one batch, with all that comes before the network.

        Args:
            images: uint8 [n, h, w, 1 or 3], on the device.
            side: pixels to which they are resized; None: as they are.

        Returns:
            float32 [n, channels, h / factor, w / factor].
        """
        x = images.permute(0, 3, 1, 2).float() / 255
        x = x.expand(-1, self.description.colours, -1, -1)
        if side is not None and x.shape[2:] != (side, side):
            x = nn.functional.interpolate(x, (side, side), mode="bicubic", antialias=True)
            x = x.clamp(0, 1)
        return self._encoded(x.contiguous(memory_format=torch.channels_last))

    def _encoded(self, x: Tensor) -> Tensor:
        """[0, 1] -> latents; of a posterior, its mean."""
        network: Any = self.network
        if self.description.kind == "taef2":
            return network.encode(x)  # type: ignore[no-any-return]
        given = network.encode(2 * x - 1)
        if self.description.kind == "AutoencoderTiny":
            return given.latents  # type: ignore[no-any-return]
        shift, scale = self._scaling
        return (given.latent_dist.mean - shift) * scale  # type: ignore[no-any-return]

    def pictures(self, latents: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """What latents show.

        Args:
            latents: float32 [n, channels, h, w], on the device.
            shape: (height, width, channels) of the pictures.

        Returns:
            uint8 [n, *shape].
        """
        x = self._decoded(latents.contiguous(memory_format=torch.channels_last))
        height, width, channels = shape
        if x.shape[2:] != (height, width):
            x = nn.functional.interpolate(x, (height, width), mode="bicubic", antialias=True)
        if channels == 1:
            x = x.mean(1, keepdim=True)
        return (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)

    def _decoded(self, latents: Tensor) -> Tensor:
        network: Any = self.network
        if self.description.kind == "taef2":
            return network.decode(latents)  # type: ignore[no-any-return]
        if self.description.kind == "AutoencoderKL":
            shift, scale = self._scaling
            latents = latents / scale + shift
        return network.decode(latents).sample / 2 + 0.5  # type: ignore[no-any-return]

    @property
    def _scaling(self) -> tuple[float, float]:
        """Shift and scale that bring latents to about unit scale, as diffusers' pipelines do."""
        config: Any = self.network.config
        return config.shift_factor or 0.0, config.scaling_factor


def _network(description: Description) -> nn.Module:
    if description.kind == "taef2":
        return taef2.read(description.folder)
    import diffusers  # noqa: PLC0415 (takes two seconds)

    level = diffusers.logging.get_verbosity()
    diffusers.logging.set_verbosity_error()  # its own configuration has settings it warns of
    try:
        network, told = getattr(diffusers, description.kind).from_pretrained(
            description.folder,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    finally:
        diffusers.logging.set_verbosity(level)
    if told["missing_keys"]:
        raise EncoderError(
            f"{description.folder / WEIGHTS}: it lacks {', '.join(told['missing_keys'][:3])}. "
            "Write the folder again with diffusers' save_pretrained."
        )
    module: nn.Module = network
    return module
