"""What is done to images before a network of a folder sees them, as the folder says.

The shorter side, or both, are resized as Pillow does it, without its rounding to bytes; the middle
is cropped; colours are scaled.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gppdm_pipeline.pretrained.folder import CONFIG, PREPROCESSOR, EncoderError, Pretrained, read

_MODES = {"nearest": "nearest-exact", "bilinear": "bilinear", "bicubic": "bicubic"}
_RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_SQUASHING = ("Beit", "DINOv3ViT", "DeiT", "Pvt", "Segformer", "Siglip", "ViT")
_KEEPING = ("Bit", "CLIP", "ConvNext", "MobileNetV1", "MobileNetV2")
"""Image processors of transformers that do nothing else: a size that is one number is of both
sides, or of the shorter one."""
_LARGE = 384  # from here on ConvNeXT's images are not cropped


@dataclass(frozen=True)
class Preparation:
    """How images are prepared.

    Attributes:
        side: of what comes out, pixels.
        resize: pixels to which images are resized first, at least as many.
        squashes: whether both sides are, or the shorter one, with the longer one in proportion.
        mode: of the interpolation.
        scale: that bytes are multiplied by.
        mean, std: of each colour, in these numbers.
        rounds: whether an odd margin is rounded to even, as torchvision does, or down.
    """

    side: int
    resize: int
    squashes: bool
    mode: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rounds: bool

    def __call__(self, images: Tensor) -> Tensor:
        """Uint8 [n, h, w, 1 or 3] -> float32 [n, 3, side, side]."""
        x = images.permute(0, 3, 1, 2).float().expand(-1, 3, -1, -1)
        size = self._resized(x.shape[2], x.shape[3])
        if x.shape[2:] != size:
            smooth = self.mode != "nearest-exact"
            x = nn.functional.interpolate(x, size, mode=self.mode, antialias=smooth)
            x = x.clamp(0, 255)
        top, left = (self._margin(each) for each in size)
        x = x[:, :, top : top + self.side, left : left + self.side] * self.scale
        mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (self.mean, self.std))
        return ((x - mean) / std).contiguous(memory_format=torch.channels_last)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.squashes:
            return self.resize, self.resize
        short = min(height, width)
        return self.resize * height // short, self.resize * width // short

    def _margin(self, size: int) -> int:
        space = (size - self.side) / 2
        return round(space) if self.rounds else int(space)


def preparation_of(known: Pretrained, side: int | None) -> Preparation:
    """What the folder says.

    Args:
        known: a network in a folder.
        side: pixels of what comes out; None: the network's own.

    Raises:
        EncoderError: naming what is not known, and what is.
    """
    try:
        return (_of_timm if known.kind == "timm" else _of_transformers)(known, side)
    except (AttributeError, KeyError, TypeError) as error:
        name = CONFIG if known.kind == "timm" else PREPROCESSOR
        raise EncoderError(
            f"{known.folder / name}: {error} is missing, or not as {known.kind} writes it. Write "
            "the folder again."
        ) from error


def _of_timm(known: Pretrained, side: int | None) -> Preparation:
    """As timm.data.create_transform makes it of the same settings."""
    config = known.config
    config = config.get("pretrained_cfg", config)
    file = known.folder / CONFIG
    channels, height, width = config.get("input_size", (3, 224, 224))
    if channels != 3 or height != width:
        raise EncoderError(
            f"{file}: input_size = {config['input_size']}; allowed are squares of 3 colours"
        )
    crop = config.get("crop_mode") or "center"
    _allowed(file, "crop_mode", crop, ("center", "squash"))
    mode = config.get("interpolation", "bilinear")
    _allowed(file, "interpolation", mode, _MODES)
    side = side or height
    return Preparation(
        side=side,
        resize=math.floor(side / (config.get("crop_pct") or 0.875)),
        squashes=crop == "squash",
        mode=_MODES[mode],
        scale=1 / 255,
        mean=tuple(config.get("mean", (0.485, 0.456, 0.406))),
        std=tuple(config.get("std", (0.229, 0.224, 0.225))),
        rounds=True,
    )


def _of_transformers(known: Pretrained, side: int | None) -> Preparation:
    """As the image processor of the same settings does it."""
    file = known.folder / PREPROCESSOR
    config = read(file, known.setting)
    kind = _kind(config)
    _allowed(file, "image_processor_type", kind, (*_KEEPING, *_SQUASHING))
    for key, value in (("do_resize", True), ("do_pad", False), ("do_flip_channel_order", False)):
        _allowed(file, key, config.get(key) or (value and key not in config), (value,))
    size = config["size"]
    resize = _number(size)
    squashes = kind in _SQUASHING if isinstance(size, int) else "shortest_edge" not in size
    crop = config.get("do_center_crop", "crop_size" in config) and kind != "ConvNext"
    own = _number(config["crop_size"]) if crop else resize
    if own > resize:
        raise EncoderError(
            f"{file}: crop_size is {own}, more than size, {resize}: borders are not made"
        )
    side = side or own
    resize, squashes = resize * side // own, squashes or kind == "ConvNext"
    if kind == "ConvNext" and side < _LARGE:
        resize, squashes = int(side / config.get("crop_pct", 224 / 256)), False
    mode = _RESAMPLE.get(config.get("resample", 2), str(config.get("resample")))
    _allowed(file, "resample", mode, _MODES)
    normalises = config.get("do_normalize", True)
    scale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    return Preparation(
        side=side,
        resize=resize,
        squashes=squashes,
        mode=_MODES[mode],
        scale=scale,
        mean=tuple(config["image_mean"]) if normalises else (0.0, 0.0, 0.0),
        std=tuple(config["image_std"]) if normalises else (1.0, 1.0, 1.0),
        rounds=False,
    )


def _kind(config: Mapping[str, Any]) -> str:
    """Of the image processor, without what says how it computes."""
    name = str(config.get("image_processor_type") or config.get("feature_extractor_type"))
    for end in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        name = name.removesuffix(end)
    return name


def _number(size: int | Mapping[str, int]) -> int:
    """Pixels of a size, whose sides are the same."""
    if isinstance(size, int):
        return size
    found = {value for value in size.values() if value is not None}
    if len(found) != 1:
        raise EncoderError(f"size = {dict(size)} in {PREPROCESSOR}; allowed are squares")
    return found.pop()


def _allowed(file: Path, key: str, value: Any, allowed: Collection[Any]) -> None:
    if value not in allowed:
        raise EncoderError(
            f"{file}: {key} = {value}; allowed are {', '.join(map(str, allowed))}. Prepare images "
            "so by another file, or use another model."
        )
