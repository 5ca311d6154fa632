"""Class prototypes: one learnable image per class, frozen once its task is over.

They start from something of their class, learn by back-propagation through the denoising loss while
the class is current, and never move again (Doan et al. 2024, arXiv 2312.06710).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from gppdm_pipeline.algorithm.classifier.network import predict_logits
from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.fitting.batches import to_unit_range
from gppdm_pipeline.algorithm.fitting.scale import scale_of
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.images.labelled import IN_MEMORY, LabelledImages

PrototypeStart = Literal["most_confident", "least_confident", "class_mean", "noise"]


class PrototypeConfig(Config):
    """How prototypes start, learn and reach the denoiser."""

    unwritten: ClassVar = {"tokens": "plain"}

    route: Literal["concat", "tokens", "both", "none"] = "both"
    """To the denoiser: on the channel axis, as cross-attention tokens, both, or not at all."""
    start: PrototypeStart = "class_mean"
    learning_rate: Annotated[float, Field(ge=0, le=1)] = 1e-2
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    token_side: Annotated[int, Field(ge=1, le=16)] = 2
    """A prototype is cut into token_side x token_side patches, a token each."""
    tokens: Literal["plain", "turned"] = "plain"
    """As the one map gives them, nearly collinear between classes, as class means are; or turned by
    an isometry of each class's own, made from (seed, class), so that a new class's tokens lie
    almost wholly outside the span of old ones."""

    @property
    def concatenated(self) -> bool:
        """Whether prototypes enter on the channel axis."""
        return self.route in ("concat", "both")

    @property
    def shown_as_tokens(self) -> bool:
        """Whether prototypes enter as tokens."""
        return self.route in ("tokens", "both")

    @model_validator(mode="after")
    def _tokens_are_shown(self) -> PrototypeConfig:
        if self.tokens != "plain" and not self.shown_as_tokens:
            raise ValueError(
                f"prototypes.tokens is {self.tokens!r}, but prototypes.route is {self.route!r}, "
                "which has no such token; use route: tokens or both, or tokens: plain"
            )
        return self


def prototype_starts(
    start: PrototypeStart, train: LabelledImages, state: LearnerState, context: Context
) -> dict[int, Tensor]:
    """Where the prototypes of the classes in `train` begin.

    Args:
        start: the training image that the classifier is most (least) sure of, the mean of the
            class, or noise.
        train: images of the current classes.
        state: its classifier knows the current classes, if it is asked.
        context: seed, task, device.

    Returns:
        class -> float32 [c, h, w].
    """
    if start == "noise":
        # Of (seed, class) alone, so that the noise follows its class under any class order.
        height, width, channels = train.image_shape
        return {
            k: torch.randn(
                channels, height, width, generator=context.fixed_generator(f"prototype {k}")
            )
            for k in train.classes
        }
    scale = scale_of(state, CPU)
    if start == "class_mean":
        return {label: scale.given(mean[None])[0] for label, mean in _means(train, context)}
    logits = torch.from_numpy(predict_logits(state, train.images, context)).log_softmax(1)
    labels = torch.from_numpy(train.labels)
    sign = 1 if start == "most_confident" else -1
    starts = {}
    for k in train.classes:
        score = sign * logits[:, state.classes.index(k)]
        best = int(score.masked_fill(labels != k, -torch.inf).argmax())
        starts[k] = scale.given(to_unit_range(train.images[best : best + 1], CPU))[0]
    return starts


def _means(train: LabelledImages, context: Context) -> Iterator[tuple[int, Tensor]]:
    """Of each class's images, float32 [c, h, w]: as many rows of all of them at a time as fit."""
    height, width, channels = train.image_shape
    # In one tensor: small ones, made while large ones come and go, would keep their room from being
    # used again.
    means = torch.empty(len(train.classes), channels, height, width)
    for mean, label in zip(means, train.classes, strict=True):
        members = np.flatnonzero(train.labels == label)
        rows = max(1, IN_MEMORY // (4 * len(members) * width * channels))
        for top in range(0, height, rows):
            part = to_unit_range(train.images[members, top : top + rows], context.device)
            mean[:, top : top + rows] = part.cpu().mean(0)
    return zip(train.classes, (mean.clone() for mean in means), strict=True)
