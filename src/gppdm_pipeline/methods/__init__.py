"""The methods, by name. To add one: a file beside this, and a line in METHODS."""

from __future__ import annotations

import difflib

from gppdm_pipeline.methods.base import Method, learn_task
from gppdm_pipeline.methods.finetune import Finetune
from gppdm_pipeline.methods.gppdm import Gppdm
from gppdm_pipeline.methods.joint import Joint

METHODS: dict[str, type[Method]] = {
    "finetune": Finetune,
    "gppdm": Gppdm,
    "joint": Joint,
}


def method_class(name: str) -> type[Method]:
    """The method called `name`.

    Raises:
        ValueError: if there is none, with the nearest right spelling.
    """
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name.lower(), METHODS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"method is {name!r}; allowed are {', '.join(sorted(METHODS))}{hint}")


__all__ = ["METHODS", "Method", "learn_task", "method_class"]
