"""What `--params` holds: `a.b=1,c=x` as {"a": {"b": 1}, "c": "x"}, for every command alike.

A name that looks like a number stays as it was typed: a value is a number only if the number is
written so. `variant=1.10`, `010`, `1e3` and `2024-05-01` are text, which settings that are numbers
read as numbers all the same. `true`, `false` and `null` are what they are in YAML; quotes make them
text, and hold commas together; [a, b] is a list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from gppdm_pipeline.configuration.layers import ConfigurationError, flatten

_CONSTANTS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}
_OPENING, _CLOSING = "[{", "]}"


class TypedLoader(yaml.SafeLoader):
    """YAML whose plain scalars are read as `scalar` reads them; what is quoted is text."""


def _construct(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    return scalar(node.value) if node.style is None else node.value


for _tag in ("bool", "int", "float", "null", "timestamp", "str"):
    TypedLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _construct)


def scalar(text: str) -> Any:
    """A constant, a number if it is written as Python writes it, or the text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    for kind in (int, float):
        try:
            number = kind(text.replace("\N{MINUS SIGN}", "-"))
        except ValueError:
            continue
        if str(number) == text.replace("\N{MINUS SIGN}", "-"):
            return number
    return text


def parse(text: str) -> dict[str, Any]:
    """Nested settings of a text.

    Raises:
        ConfigurationError: naming the part that is no `key=value`, or a key that is given twice.
    """
    values: dict[str, Any] = {}
    for pair in filter(None, map(str.strip, _split(text))):
        key, equals, value = pair.partition("=")
        *parents, last = parts = key.strip().split(".")
        if not (equals and all(parts)):
            raise ConfigurationError(
                f"--params: {pair!r} is no key=value. Write a.b=1,c=x; a value with a comma goes "
                "in quotes."
            )
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                break
        if not isinstance(place, dict) or isinstance(place.get(last), dict):
            raise ConfigurationError(
                f"--params: {key.strip()} is given a value and, in the same command, parts. Leave "
                "one of them out."
            )
        if last in place:
            raise ConfigurationError(f"--params: {key.strip()} is given twice. Leave one out.")
        place[last] = _value(value.strip())
    return values


def written(values: Mapping[str, Any]) -> str:
    """The text that `parse` makes these settings of."""
    return ",".join(f"{key}={_text(value)}" for key, value in flatten(values).items())


def _text(value: Any) -> str:
    if isinstance(value, str):
        plain = re.fullmatch(r"[^\s,\[\]{}\"'](?:[^,\[\]{}\"']*[^\s,\[\]{}\"'])?", value)
        same = isinstance(scalar(value), str)
        return value if plain and same else json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return "null" if value is None else str(value)


def _value(text: str) -> Any:
    if text[:1] in {*_OPENING, '"', "'"}:
        try:
            return yaml.load(text, TypedLoader)
        except yaml.YAMLError:
            return text  # a path may begin so
    return scalar(text)


def _split(text: str) -> list[str]:
    """The parts between commas that are neither in brackets nor in quotes.

    Brackets and quotes without an end are part of a name, and hold nothing together.
    """
    parts, start, depth, quote = [], 0, 0, ""
    for at, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'" and text[:at].rstrip()[-1:] in ("=", ",", ":", *_OPENING):
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return text.split(",") if depth or quote else [*parts, text[start:]]
