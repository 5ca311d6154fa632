"""Settings in layers, and what is wrong with them, told so that it can be put right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gppdm_pipeline.wording import nearest

Path = tuple[str, ...]
Model = TypeVar("Model", bound=BaseModel)


class ConfigurationError(ValueError):
    """The configuration is not valid; the message is the whole story."""


@dataclass(frozen=True)
class Layer:
    """Settings from one place.

    Attributes:
        values: nested, as the user wrote them.
        locate: where a setting of this layer was written, for messages.
    """

    values: Mapping[str, Any]
    locate: Callable[[Path], str]


def merged(
    layers: Sequence[Layer],
    section: str,
    shared: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: {},
    alternatives: Sequence[Sequence[str]] = (),
) -> Any:
    """The section of all layers, each on top of the one before.

    Args:
        layers: the last wins.
        section: a key at the top level; what it holds should be a mapping.
        shared: what goes into the section of all that a layer says, below what its section says.
        alternatives: groups of keys of the section. A layer that sets one takes back what those
            below it set of the other groups.
    """
    result: Any = {}
    for layer in layers:
        result = _merge(result, shared(layer.values))
        own = layer.values.get(section)
        result = _merge(_without_others(result, own, alternatives), {} if own is None else own)
    return result


def _without_others(below: Any, own: Any, alternatives: Sequence[Sequence[str]]) -> Any:
    if not isinstance(below, Mapping) or not isinstance(own, Mapping):
        return below
    chosen = [group for group in alternatives if any(own.get(key) is not None for key in group)]
    others = {key for group in alternatives if chosen and group not in chosen for key in group}
    return {key: value for key, value in below.items() if key not in others}


def _merge(below: Any, above: Any) -> Any:
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    if "reader" in above and above["reader"] != below.get("reader", above["reader"]):
        return above  # another reader has other settings: those of the one below are not meant
    return {**below, **{key: _merge(below.get(key), value) for key, value in above.items()}}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def choose(
    key: str, allowed: Iterable[str], layers: Sequence[Layer], default: str | None = None
) -> str:
    """The value of a key, which must be one of `allowed`.

    Args:
        key: with dots below the top level.
        allowed: its values.
        layers: the last that has it wins.
        default: what it is where no layer has it; None: it has to be set.

    Raises:
        ConfigurationError: if it is another one, or not set.
    """
    path = tuple(key.split("."))
    for layer in reversed(layers):
        if has(layer.values, path):
            value: Any = layer.values
            for part in path:
                value = value[part]
            return one_of(key, value, allowed, layer.locate(path))
    if default is not None:
        return default
    raise ConfigurationError(f"{key} is not set. Allowed: {', '.join(sorted(allowed))}.")


def one_of(key: str, value: Any, allowed: Iterable[str], where: str) -> str:
    """The value, which must be one of `allowed`.

    Raises:
        ConfigurationError: if it is another one; it says what is allowed, and what is near.
    """
    if str(value) in allowed:
        return str(value)
    raise ConfigurationError(
        f"{key} = {value} ({where}): there is no such {key}{_near(str(value), allowed)} "
        f"Allowed: {', '.join(sorted(allowed))}."
    )


def has(values: Any, path: Path) -> bool:
    """Whether nested mappings hold something at `path`."""
    for part in path:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


class Problems:
    """Collects what is wrong in several sections, so that all of it can be told at once."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        """Start with none; `layers` say where a setting was written."""
        self._layers = layers
        self._messages: dict[str, None] = {}  # in order, each once

    def validate(
        self,
        kind: type[Model],
        values: Any,
        places: Sequence[Path] = ((),),
        elsewhere: Mapping[str, str] | None = None,
        together: bool = True,
        context: Mapping[str, Any] | None = None,
    ) -> Model | None:
        """The validated model, or None and one problem more.

        Args:
            kind: what the values should be.
            values: a section's.
            places: the keys below which these settings may have been written; the section first.
            elsewhere: keys that may be meant by an unknown one, and how to write them.
            together: whether settings that do not go together are a problem, each being right.
            context: what the model's validators are told besides.
        """
        try:
            return kind.model_validate(values, context=context)
        except ValidationError as error:
            by_path: dict[Path, list[ErrorDetails]] = {}
            for detail in error.errors():
                by_path.setdefault(_path(values, detail), []).append(detail)
            for path, details in by_path.items():
                if not (path or together) and details[0]["type"] == "value_error":
                    continue
                spellings = [place + path for place in places if place + path]
                message = self._describe(kind, spellings, details, elsewhere or {})
                self._messages[message] = None
            return None

    def section(
        self,
        kind: type[Model],
        name: str,
        alternatives: Sequence[Sequence[str]] = (),
        context: Mapping[str, Any] | None = None,
    ) -> Model | None:
        """What the layers say in a section; `alternatives` as of `merged`, `context` as above."""
        values = merged(self._layers, name, alternatives=alternatives)
        return self.validate(kind, values, [(name,)], context=context)

    def check(self) -> None:
        """Raise ConfigurationError if there was any."""
        if self._messages:
            raise ConfigurationError(
                "\n".join(["The configuration is not valid.", *self._messages])
            )

    def _describe(
        self,
        kind: type[BaseModel],
        spellings: Sequence[Path],
        details: Sequence[ErrorDetails],
        elsewhere: Mapping[str, str],
    ) -> str:
        written, origin = self._find(spellings)
        key, detail = ".".join(written), details[0]
        if detail["type"] == "missing":
            return f"{key} is not set."
        value = "" if isinstance(detail["input"], Mapping) else f" = {detail['input']}"
        where = f"{key}{value} ({origin})"
        if detail["type"] != "extra_forbidden":
            ways = dict.fromkeys(map(_plainly, details))
            return f"{where}: {' or '.join(way.rstrip('.') for way in ways)}."
        parent = "".join(f"{part}." for part in written[:-1])
        allowed = {name: f"{parent}{name}" for name in _fields(kind, detail["loc"][:-1])}
        candidates = {**elsewhere, **allowed}
        near = nearest(written[-1], candidates)
        hint = f"; did you mean {candidates[near]}?" if near else "."
        names = {*allowed, *(name for name, full in elsewhere.items() if name == full)}
        return f"{where}: unknown key{hint} Allowed: {', '.join(sorted(names))}."

    def _find(self, spellings: Sequence[Path]) -> tuple[Path, str]:
        """The key as the user wrote it (in the section, or in one that is shared), and where."""
        for layer in reversed(self._layers):
            for spelling in spellings:
                if has(layer.values, spelling):
                    return spelling, layer.locate(spelling)
        return spellings[0], "not written anywhere"


def _path(values: Any, detail: ErrorDetails) -> Path:
    """Pydantic's location without the names of union members, which no user wrote."""
    path: list[str] = []
    for part in detail["loc"]:
        if isinstance(values, Mapping) and part in values:
            values = values[part]
            path.append(str(part))
        elif detail["type"] == "missing" and part == detail["loc"][-1]:
            path.append(str(part))
    return tuple(path)


_PLAIN = {
    "tuple_type": "must be a list",
    "path_type": "must be a path: put true, 1.0 and the like in quotes if they are names",
    "string_pattern_mismatch": "must begin with a letter (a to z) or digit, and hold nothing "
    "besides these but '.', '_' and '-'",
}


def _plainly(detail: ErrorDetails) -> str:
    if detail["type"] in _PLAIN:
        return _PLAIN[detail["type"]]
    if detail["type"] == "union_tag_invalid":
        there = detail["ctx"]
        tags = re.findall("'([^']*)'", there["expected_tags"])
        near = _near(there["tag"], tags)
        return f"{there['discriminator']} must be one of {there['expected_tags']}{near}"
    message = re.sub("^(Value error, |Input |String )", "", detail["msg"]).replace("should", "must")
    allowed = re.findall("'([^']*)'", str(detail.get("ctx", {}).get("expected", "")))
    value = detail["input"]
    if detail["type"] == "string_type" and isinstance(value, bool | date | None):
        return (
            f"{message}: YAML reads yes, no, on, off, true and false, null and ~, and dates as "
            "other than text; put the name in quotes."
        )
    return message.rstrip(".") + _near(str(value), allowed)


def _near(value: str, allowed: Iterable[str]) -> str:
    near = nearest(value, allowed)
    return f"; did you mean {near}?" if near else "."


def _fields(kind: type[BaseModel], location: Sequence[str | int]) -> Iterator[str]:
    """The keys allowed at a location; a part that is no field is the tag of a union's member."""
    kinds = [kind]
    for part in map(str, location):
        fields = [k.model_fields[part] for k in kinds if part in k.model_fields]
        if fields:
            kinds = [model for field in fields for model in _models(field.annotation)]
        else:
            kinds = [k for k in kinds if part in {f.default for f in k.model_fields.values()}]
    for model in kinds:
        yield from model.model_fields


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
