"""Feature extractors that come from elsewhere: a package has the network and its weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gppdm_pipeline.evaluation.replay_quality import EvaluationConfig, Extractor
from gppdm_pipeline.spaces.encoders import efficientnet

_BATCH = 64
_SIDE = 224  # what EfficientNet-Lite0 was trained on


def build_extractors(config: EvaluationConfig, device: torch.device) -> dict[str, Extractor]:
    """The extractors that `config` asks for, by name, without the oracle.

    Raises:
        EncoderError: if a package is missing.
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
