"""What all settings of a user have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Config(BaseModel):
    """Settings that do not change, and have no others than those that they name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unwritten: ClassVar[Mapping[str, Any]] = {}
    """What is left out of a record, by name, where it has this value: a setting that came later,
    so that runs recorded before it keep their fingerprints."""

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        left_out = self.unwritten.items()
        return {name: value for name, value in values.items() if (name, value) not in left_out}
