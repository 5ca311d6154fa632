"""Analytic learning: what sums over all images learnt say, beside a classifier that is trained.

Ridge regression on fixed features needs two sums over the images, which do not depend on the tasks
that these came in: what is computed after the last task is what all images at once would give
(Zhuang et al. 2022, ACIL, arXiv 2205.14922; McDonnell et al. 2023, RanPAC, arXiv 2307.02251).
Features here are maps of random filters. What is computed is added to the logits of the trained
classifier, which has seen images of this task and replay. Sums over many images tell little of one;
sums over few tell each (`leverages`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gppdm_pipeline.algorithm.classifier.moments import (
    moments_of,
    ridge_by_gcv,
    with_accuracy,
    with_moments,
)
from gppdm_pipeline.algorithm.classifier.network import (
    as_classified,
    given_to_head,
)
from gppdm_pipeline.algorithm.classifier.networks import computed_part, trained_part
from gppdm_pipeline.algorithm.classifier.random_maps import RandomMaps, random_filters
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.images.labelled import LabelledImages

logger = logging.getLogger(__name__)

NUMBERS = 32
"""That a filter makes of an image of four pixels a side or more."""
ENOUGH = 5
"""Images of a task for each number that sums are kept of, with which these tell little of one."""
_MOST = 60
_HEAVIEST, _OF_A_FILTER = 32.0, 3.0
_BATCH = 128
_SLIGHT = 1e-4
_NAME = "analytic"  # in a state's extras


class AnalyticConfig(Config):
    """How many features sums are kept of, and what they count for."""

    filters: Annotated[int, Field(ge=0, le=250)] | Literal["auto"] = 0
    """f random filters, which make 32 f numbers of an image. A state keeps the square of as many
    numbers of four bytes (60: 15 MB), and what a task computes of them takes f^3 (60: one second,
    250: one or two minutes). 0: no sums. auto: as many as the first task has enough images for,
    five for each number, and 60 at most."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """What they are multiplied with before they are added to logits; alone they lie about between 0
    and 1. None: 3 for each filter, 32 at most."""

    @model_validator(mode="before")
    @classmethod
    def _weighs(cls, values: Any) -> Any:
        """A number of filters has a weight, so that both are told."""
        filters = values.get("filters") if isinstance(values, Mapping) else None
        if not isinstance(filters, int) or not filters or values.get("weight") is not None:
            return values
        return {**values, "weight": weight_of(filters)}

    @property
    def on(self) -> bool:
        """Whether any sums are asked for."""
        return self.filters != 0

    def count(self, first: int) -> int:
        """f, where the first task has so many images."""
        if self.filters != "auto":
            return self.filters
        return min(_MOST, first // (ENOUGH * NUMBERS))


def weight_of(filters: int) -> float:
    """What the sums of so many filters count for, unless it is said."""
    return min(_HEAVIEST, _OF_A_FILTER * filters)


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
        The state, and the log: metric `validation_accuracy`. Where the first task had images
        enough for no filter, the state as it is.
    """
    assert state.classifier is not None
    trained = trained_part(state.classifier)
    train = as_classified(train, trained.config, context)
    filters = _count(state, len(train), settings, context)
    if not filters:
        return state, StageLog()
    state, exact = computed(state, train, filters, context)
    both = {
        "image_shape": [*train.image_shape],
        "classes": len(state.classes),
        "weight": settings.weight or weight_of(filters),
        "trained": trained.config,
        "computed": exact.config,
    }
    tensors = {f"trained.{name}": tensor for name, tensor in trained.tensors.items()}
    tensors |= {f"computed.{name}": tensor for name, tensor in exact.tensors.items()}
    return with_accuracy(state, Weights(both, tensors), validation, context)


def _count(state: LearnerState, images: int, settings: AnalyticConfig, context: Context) -> int:
    """How many filters a task has, which has so many images."""
    if settings.filters != "auto" or not state.classes_before(context.task):
        return settings.count(images)
    known = state.extras.get(_NAME)
    return 0 if known is None else len(known.tensors["filters"])


def computed(
    state: LearnerState, images: LabelledImages, filters: int, context: Context
) -> tuple[LearnerState, Weights]:
    """The state with images added to its sums, and what these say: a linear layer on random maps.

    Args:
        state: its `classes` are the outputs.
        images: real ones, not added before.
        filters: f, the same in every task.
        context: seed, progress.

    Raises:
        ValueError: if earlier tasks kept no sums, or those of another number of filters.
    """
    shape = images.image_shape
    maps = _maps_of(state, shape, filters, context)
    if len(images) < ENOUGH * maps.numbers:
        logger.warning(
            "Sums are kept of %d numbers of each image, and task %d has %d images, fewer than %d "
            "times as many: who has the states can tell which images these were. Use fewer "
            "filters, or none, where nobody may.",
            *(maps.numbers, context.task, len(images), ENOUGH),
        )

    @torch.no_grad()
    def lift(x: Tensor) -> Tensor:
        pictures = x.unflatten(1, (shape[2], *shape[:2]))
        return torch.cat([maps(part) for part in pictures.split(_BATCH)])

    state, moments = with_moments(state, images, context, lift=lift, products=torch.float32)
    weight, bias = ridge_by_gcv(moments)
    config = {"image_shape": [*shape], "filters": filters, "classes": len(state.classes)}
    tensors = {"maps.filters": maps.filters}
    state = replace(state, extras={**state.extras, _NAME: Weights({}, {"filters": maps.filters})})
    tensors |= {"head.weight": weight.float().contiguous(), "head.bias": bias.float()}
    return state, Weights(config, tensors)


def _maps_of(
    state: LearnerState, shape: tuple[int, int, int], filters: int, context: Context
) -> RandomMaps:
    """Those of the tasks before, or new ones in the first."""
    maps = RandomMaps(shape, filters)
    known = state.extras.get(_NAME)
    if known is None and state.classes_before(context.task):
        raise ValueError(
            f"analytic.filters is {filters}, but the tasks before task {context.task} kept no "
            "sums, so that their classes would be in none: learn them again with it, or use 0"
        )
    noise = random_filters(filters, shape[2], context.fixed_generator("analytic"))
    found = noise if known is None else known.tensors["filters"]
    if found.shape != maps.filters.shape:
        raise ValueError(
            f"the tasks before task {context.task} kept sums of {len(found)} filters of "
            f"{found.shape[1]} channels, not of {filters} of {shape[2]}: use as many"
        )
    maps.filters.copy_(found)
    return maps


def leverages(state: LearnerState, images: LabelledImages, context: Context) -> Tensor | None:
    """How far each image lies out of what a state has sums of; less for an image that is in them.

    phi' (G + lambda I)^-1 phi: what is in the sums pulls them its own way, so that one image in few
    is told from all others. It is what an attacker may ask of a state; learning does not.

    Args:
        state: after a task.
        images: n of its shape.
        context: its device and its team are used.

    Returns:
        float64 [n]; None if the state has no sums of products of what its classifier is given.
    """
    if "moments" not in state.extras or state.classifier is None:
        return None
    products = moments_of(state).products.double()
    part = computed_part(state.classifier)
    if part is None:
        return None
    numbers = given_to_head(replace(state, classifier=part), images.images, context).double().cpu()
    if numbers.shape[1] != len(products):
        return None
    slight = products.diagonal().mean() * _SLIGHT
    factor = torch.linalg.cholesky(products + slight * torch.eye(len(products)).double())
    solved: Tensor = torch.linalg.solve_triangular(factor, numbers.T, upper=False)
    return solved.square().sum(0)
