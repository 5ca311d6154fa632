"""What heads on a frozen encoder's features reach when all classes come at once.

    python benchmarks/features_at_once.py <images.npz>

Methods that keep sums have the same classifier after the last task of any stream; joint training is
their upper bound. The file has the arrays train_images, train_labels, test_images, test_labels, as
the reader `npz` wants them. Prints accuracy on the test images, and CPU seconds after encoding.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method
from gppdm_pipeline.spaces.space import SpaceConfig

SETTINGS: tuple[dict[str, Any], ...] = (
    {"name": "nearest_mean"},
    {"name": "joint", "classifier": {"steps": 2000}},
    {"name": "slda"},
    {"name": "ranpac", "features": 2000, "strength": 30},
    {"name": "ranpac"},
)


def main(file: str) -> None:
    """Print a line for each of SETTINGS."""
    torch.set_num_threads(1)
    arrays = np.load(file, allow_pickle=False)
    pixels = [
        LabelledImages(arrays[f"{part}_images"], arrays[f"{part}_labels"].astype(np.int64))
        for part in ("train", "test")
    ]
    space = SpaceConfig(name="features").resolved()
    train, test = space.encoded(pixels, torch.device("cpu"))
    for settings in SETTINGS:
        method, start = Method.model_validate(settings), time.process_time()
        none = LabelledImages.empty(train.image_shape)
        _, log = method.train_classifier(LearnerState.empty(), train, test, none, Context(0, 1))
        accuracy, seconds = log.metrics["validation_accuracy"], time.process_time() - start
        print(f"{settings}: {100 * accuracy:.2f} %, {seconds:.1f} CPU s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
