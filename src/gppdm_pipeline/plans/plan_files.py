"""A plan as its file says it: streams, variants, and which differences are told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.configuration.params import TypedLoader

Setting = bool | int | float | str | list[str] | list[int] | None


class PlannedStream(Config):
    """A benchmark, how its preset is changed, and the seeds."""

    benchmark: str
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    params: dict[str, Setting] = Field(default_factory=dict)


class Plan(Config):
    """Streams, variants and seeds to run.

    Attributes:
        baseline: the variant that the others' paired differences are taken to.
        streams: by name.
        variants: by name; their settings, the method among them.
        differences: pairs of variants whose paired difference has a table of its own.
        slopes: whether tables have the Frechet distance gained per generation.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    baseline: str
    streams: dict[str, PlannedStream]
    variants: dict[str, dict[str, Setting]]
    differences: tuple[tuple[str, str], ...] = ()
    slopes: bool = False

    @model_validator(mode="after")
    def _names_are_of_variants(self) -> Plan:
        named = [("baseline", self.baseline)]
        named += [("differences:", name) for pair in self.differences for name in pair]
        for key, name in named:
            if name not in self.variants:
                raise ValueError(
                    f"{key} {name!r} is no variant: use one of {', '.join(self.variants)}"
                )
        if nameless := [name for name, own in self.variants.items() if "method" not in own]:
            raise ValueError(f"variants without a method: {', '.join(nameless)}; give each one")
        return self


def read_plan(file: Path) -> Plan:
    """The plan in a YAML file.

    Raises:
        click.ClickException: saying what is wrong where.
    """
    try:
        return Plan.model_validate(yaml.load(file.read_text(encoding="utf-8"), TypedLoader))
    except (ValidationError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise click.ClickException(f"{file} is no plan: {error}") from error
