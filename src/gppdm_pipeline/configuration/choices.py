"""The settings at the top level: what is run, where, and what stays of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from gppdm_pipeline.algorithm.context import Precision
from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.configuration.budget import Budget

Retention = Literal["keep", "release"]


class Choices(Config):
    """The parameters at the top level.

    Attributes:
        benchmark: the preset that is used.
        method: in `gppdm_pipeline.methods.METHODS`.
        seed: of everything random.
        device: where to compute.
        precision: of the networks' large products, in training and sampling.
        variant: kept apart from the runs of other variants, under this name.
        overwrite: whether outputs of a run with other settings are removed first.
        checkpoint_seconds: how often a loop keeps what it needs to go on after it was stopped.
        budget: how long the whole stream may take; it decides the steps of trainings.
        retention: whether training and validation images stay once nothing needs them.
        retention_of_test: the same of test images.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    benchmark: Annotated[str, Field(pattern=r"^\w[\w .-]*$", max_length=100)]
    method: str
    seed: Annotated[int, Field(ge=0)] = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Precision = "float32"
    variant: (
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)] | None
    ) = None
    overwrite: bool = False
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30
    budget: Budget = None
    retention: Retention = "keep"
    retention_of_test: Retention = "keep"
