"""The sections that settings stand in, and what methods share of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, create_model

from gppdm_pipeline.algorithm.classifier.network import ClassifierConfig
from gppdm_pipeline.configuration.uses import USES
from gppdm_pipeline.evaluation.replay_quality import EvaluationConfig
from gppdm_pipeline.methods import METHODS, Method
from gppdm_pipeline.spaces.space import SpaceConfig
from gppdm_pipeline.streams.stream_config import StreamConfig


def sections_by_name() -> dict[str, type[BaseModel]]:
    """What each section may hold, by its name."""
    return {
        "stream": StreamConfig,
        "classifier": ClassifierConfig,
        "evaluation": EvaluationConfig,
        "space": SpaceConfig,
        **USES,
        **METHODS,
        "generator": _generator(),
    }


def _generator() -> type[BaseModel]:
    """What `generator` may hold: any setting of the methods that share it."""
    fields: dict[str, Any] = {
        name: (field.annotation, field)
        for kind in METHODS.values()
        for name, field in kind.model_fields.items()
        if kind.shares_generator and name not in Method.model_fields
    }
    return create_model("Generator", __config__=Method.model_config, **fields)


def shared(kind: type[Method], values: Mapping[str, Any]) -> dict[str, Any]:
    """What a layer says to a method in the sections that methods share."""
    generator = values.get("generator") if kind.shares_generator else None
    own = kind.model_fields.keys() - Method.model_fields
    given = generator if isinstance(generator, Mapping) else {}
    shared = {key: value for key, value in given.items() if key in own}
    return {**shared, **{key: values[key] for key in ("classifier",) if key in values}}
