"""What is learnt, as pictures: themselves in pixels, decoded in latents.

Nodes decode what they show, the first images of each class alone, so that no picture is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gppdm_pipeline.algorithm.context import CPU, resolve_device
from gppdm_pipeline.algorithm.fitting.batches import from_unit_range, to_unit_range
from gppdm_pipeline.algorithm.fitting.scale import scale_of
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.evaluation.reconstruction import peak_signal_to_noise
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.pipelines.continual.nodes import Record
from gppdm_pipeline.spaces.space import SpaceConfig
from gppdm_pipeline.streams.scenario import StreamConfig

_RECONSTRUCTED = 20
"""Test images of each class, on which reconstruction is measured."""


def measure_reconstruction(
    space: SpaceConfig, device: str, pixels: LabelledImages, encoded: LabelledImages
) -> Record:
    """What the autoencoder keeps of a task's first test images of each class, in dB."""
    real, codes = (images.first_of_each(_RECONSTRUCTED) for images in (pixels, encoded))
    if not len(real):
        return {"decibels": None, "images": 0, "sha256": space.resolved().sha256}
    shown = space.pictures(codes, real.image_shape, resolve_device(device))
    decibels = round(peak_signal_to_noise(real.images, shown.images), 3)
    return {"decibels": decibels, "images": len(real), "sha256": space.resolved().sha256}


def real_pictures(
    space: SpaceConfig, stream: StreamConfig, tests: Sequence[LabelledImages]
) -> LabelledImages | None:
    """Test images, if any are given; where they are encoded, those of the stream."""
    if not tests:
        return None
    if not space.decodes:
        return LabelledImages.concatenate(tests)
    classes = {label for test in tests for label in test.classes}
    return stream.read("test").of_classes(classes)


def pictures_of(
    space: SpaceConfig, stream: StreamConfig, device: str, images: LabelledImages, per_class: int
) -> LabelledImages:
    """What the first images of each class show."""
    if not space.decodes:
        return images
    shape = stream.read("test").image_shape
    few = images.first_of_each(per_class) if len(images) else images
    return space.pictures(few, shape, resolve_device(device))


def prototypes_of(
    space: SpaceConfig, device: str, state: LearnerState
) -> tuple[dict[int, np.ndarray], ...]:
    """Each prototype as it started and as it was frozen: float32 [c, h, w] in [-1, 1]."""
    assert state.condition is not None
    found = []
    for tensors in (state.condition.starts, state.condition.prototypes):
        shown = dict(tensors)
        if space.decodes:
            shown = _decoded(space, device, state, shown)
        found.append({label: tensor.numpy() for label, tensor in shown.items()})
    return tuple(found)


def _decoded(
    space: SpaceConfig, device: str, state: LearnerState, tensors: dict[int, torch.Tensor]
) -> dict[int, torch.Tensor]:
    assert state.picture_shape is not None
    numbers = scale_of(state, CPU).numbers(torch.stack([*tensors.values()]))
    labels = np.array([*tensors], np.int64)
    codes = LabelledImages(from_unit_range(numbers, np.float16), labels)
    shown = space.pictures(codes, state.picture_shape, resolve_device(device))
    return dict(zip(tensors, to_unit_range(shown.images, CPU), strict=True))
