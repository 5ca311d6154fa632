"""Analytic learning: what sums over all images learnt say, beside a classifier that is trained.

Ridge regression on fixed features needs two sums over the images, from which no image can be read,
and which do not depend on the tasks that the images came in: what is computed after the last task
is what all images at once would give (Zhuang et al. 2022, ACIL, arXiv 2205.14922; McDonnell et al.
2023, RanPAC, arXiv 2307.02251). Features here are maps of random filters. What is computed is added
to the logits of the trained classifier, which has seen images of this task and replay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from gppdm_pipeline.algorithm.classifier.moments import ridge_by_gcv, with_moments
from gppdm_pipeline.algorithm.classifier.network import accuracy, as_classified
from gppdm_pipeline.algorithm.classifier.networks import trained_part
from gppdm_pipeline.algorithm.classifier.random_maps import RandomMaps, random_filters
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.images.labelled import LabelledImages

_BATCH = 128


class AnalyticConfig(BaseModel):
    """How many features sums are kept of, and what they count for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    filters: Annotated[int, Field(ge=0, le=500)] = 0
    """f random filters, which make 32 f numbers of an image; a state keeps the square of as many
    numbers of four bytes (60: 15 MB). 0: no sums."""
    weight: Annotated[float, Field(gt=0)] = 32.0
    """What they are multiplied with before they are added to logits; alone they lie about between 0
    and 1."""

    @property
    def on(self) -> bool:
        """Whether any sums are kept."""
        return self.filters > 0


def check_maps(setting: str, image_shape: tuple[int, int, int]) -> None:
    """Refuse vectors.

    Args:
        setting: that asks for filters.
        image_shape: (height, width, channels).

    Raises:
        ValueError: naming the setting, and what would do.
    """
    if image_shape[:2] == (1, 1):
        raise ValueError(
            f"{setting} is of images, over which filters go; what is learnt are vectors of "
            f"{image_shape[2]} numbers: sums of these are of method=ranpac (a generator's "
            "analytic.filters is 0 then)"
        )


def with_analytic(
    state: LearnerState,
    train: LabelledImages,
    validation: LabelledImages,
    settings: AnalyticConfig,
    context: Context,
) -> tuple[LearnerState, StageLog]:
    """The state with a task's real images added to its sums, and what these say in its classifier.

    Args:
        state: its `classes` are the outputs of its classifier, which has been trained.
        train: this task's real images, not added before.
        validation: images to report an accuracy on; may be empty.
        settings: with filters.
        context: seed, device, progress.

    Returns:
        The state, and the log: metric `validation_accuracy`.
    """
    assert state.classifier is not None
    trained = trained_part(state.classifier)
    train = as_classified(train, trained.config, context)
    state, exact = computed(state, train, settings.filters, context)
    both = {
        "image_shape": [*train.image_shape],
        "classes": len(state.classes),
        "weight": settings.weight,
        "trained": trained.config,
        "computed": exact.config,
    }
    tensors = {f"trained.{name}": tensor for name, tensor in trained.tensors.items()}
    tensors |= {f"computed.{name}": tensor for name, tensor in exact.tensors.items()}
    return with_accuracy(state, Weights(both, tensors), validation, context)


def with_accuracy(
    state: LearnerState, classifier: Weights, validation: LabelledImages, context: Context
) -> tuple[LearnerState, StageLog]:
    """The state with this classifier, and the log: metric `validation_accuracy`, of some images."""
    state = replace(state, classifier=classifier)
    known = accuracy(state, validation, context) if len(validation) else None
    return state, StageLog({} if known is None else {"validation_accuracy": known})


def computed(
    state: LearnerState, images: LabelledImages, filters: int, context: Context
) -> tuple[LearnerState, Weights]:
    """The state with images added to its sums, and what these say: a linear layer on random maps.

    Args:
        state: its `classes` are the outputs.
        images: real ones, not added before.
        filters: f, the same in every task.
        context: seed, progress.
    """
    shape = images.image_shape
    config = {"image_shape": [*shape], "filters": filters, "classes": len(state.classes)}
    noise = random_filters(filters, shape[2], context.fixed_generator("analytic"))
    maps = RandomMaps(shape, filters)
    maps.filters.copy_(noise)

    @torch.no_grad()
    def lift(x: Tensor) -> Tensor:
        pictures = x.unflatten(1, (shape[2], *shape[:2]))
        return torch.cat([maps(part) for part in pictures.split(_BATCH)])

    state, moments = with_moments(state, images, context, lift=lift, products=torch.float32)
    weight, bias = ridge_by_gcv(moments)
    tensors = {"maps.filters": noise}
    tensors |= {"head.weight": weight.float().contiguous(), "head.bias": bias.float()}
    return state, Weights(config, tensors)
