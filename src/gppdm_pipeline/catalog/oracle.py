"""The oracle: the run's classifier, trained on all real training images of the benchmark at once.

It judges replay and gives the features in which replay is compared with real images. It is trained
once for a benchmark and a classifier, whatever the method and the seed, and is kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gppdm_pipeline.algorithm.classifier.network import (
    ClassifierConfig,
    fit_classifier,
    given_to_head,
    predict_logits,
)
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.disk.checkpoint_files import digest
from gppdm_pipeline.algorithm.disk.states import load_state, save_state
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.locks import locked
from gppdm_pipeline.methods.ranks import on_all_ranks
from gppdm_pipeline.streams.sources import fingerprint

_SEED = 0  # whatever the run's: runs of all seeds are measured with one oracle


@dataclass(frozen=True)
class OracleFolder:
    """Where oracles are kept; it need not exist, and can be removed."""

    path: Path


class TrainedOracle:
    """An oracle in memory.

    Attributes:
        state: its classifier is the oracle.
    """

    def __init__(self, state: LearnerState, device: torch.device) -> None:
        """`device` is where it computes."""
        assert state.classifier is not None
        self.state = state
        self._context = Context(_SEED, 1, device)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the head is given: uint8 [n, h, w, c] -> float32 [n, d]."""
        found = on_all_ranks(given_to_head, self._context, state=self.state, images=images)
        return found.cpu().numpy()

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Uint8 [n, h, w, c] -> labels int64 [n]."""
        logits = on_all_ranks(predict_logits, self._context, state=self.state, images=images)
        labels: NDArray[np.int64] = np.asarray(self.state.classes)[logits.argmax(1)]
        return labels


def trained_oracle(
    train: LabelledImages, config: ClassifierConfig, device: torch.device, cache: Path
) -> TrainedOracle:
    """The oracle of these images and settings, from the cache if it is there.

    Args:
        train: all training images of the benchmark.
        config: the run's classifier.
        device: where to compute.
        cache: a folder; each oracle is a state in it, named after a hash of images and settings.

    Raises:
        StateError: if the one that is there is damaged; naming it.
    """
    settings = config.model_dump(mode="json")
    data = fingerprint(train)
    folder = cache / digest(data, json.dumps(settings, sort_keys=True))[:16]
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache.with_name(f".{folder.name}.lock")):  # other runs at once wait for it
            if not folder.exists():
                _train(train, config, device, folder, {"classifier": settings, "data": data})
    return TrainedOracle(load_state(folder), device)


def _train(
    train: LabelledImages,
    config: ClassifierConfig,
    device: torch.device,
    folder: Path,
    made_with: dict[str, Any],
) -> None:
    state = LearnerState.empty().begin(1, train.classes, train.image_shape)
    none = LabelledImages.empty(train.image_shape)
    given = {"state": state, "config": config, "train": train, "validation": none}
    state, _ = on_all_ranks(fit_classifier, Context(_SEED, 1, device), **given)
    save_state(state, folder, made_with)
