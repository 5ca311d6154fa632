"""A page: a file that opens anywhere, offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@dataclass(frozen=True)
class Table:
    """A table with a title, and what to know of it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def page_of(**content: Any) -> str:
    """The template's page: title, subtitle, tiles, warnings, tables, figures, listings."""
    environment = Environment(
        loader=PackageLoader("gppdm_pipeline.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(content)
