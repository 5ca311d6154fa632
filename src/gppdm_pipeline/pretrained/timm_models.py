"""Models of timm, without their classifying head: pooled features."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from gppdm_pipeline.pretrained.folder import (
    CONFIG,
    WEIGHTS,
    EncoderError,
    Pretrained,
    check_packages,
)
from gppdm_pipeline.wording import nearest

_REFUSED = ("cache_dir", "checkpoint_path", "pretrained")
"""What arguments begin with by which a folder would have other files read than its own."""


def untrained(known: Pretrained) -> nn.Module:
    """The folder's architecture, on torch's default device: float32 [n, 3, h, w] -> [n, d].

    Raises:
        EncoderError: if timm has no such architecture, or does not take its arguments.
    """
    config = known.config
    where = f"{known.folder / CONFIG}: architecture = {config['architecture']}"
    return built(config["architecture"], config.get("model_args") or {}, where)


def built(architecture: str, arguments: Mapping[str, Any], where: str) -> nn.Module:
    """A model of timm without its head; its weights are noise.

    Args:
        architecture: its name.
        arguments: that it takes.
        where: it was named, for the message.

    Raises:
        EncoderError: if timm has no such architecture, or does not take its arguments.
    """
    check_packages("timm", where)
    import timm  # noqa: PLC0415 (an extra)

    if not timm.is_model(architecture):
        meant = nearest(architecture, timm.list_models())
        raise EncoderError(
            f"{where}: the timm that is installed ({timm.__version__}) has no such model"
            f"{f'; did you mean {meant}?' if meant else ''} timm.list_models() lists what it has."
        )
    refused = [name for name in arguments if name.startswith(_REFUSED)]
    if refused:
        raise EncoderError(
            f"{where}: model_args has {refused[0]}, which is not allowed. Remove it."
        )
    given = {**arguments, "num_classes": 0}
    try:
        network: nn.Module = timm.create_model(architecture, pretrained=False, **given)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise EncoderError(
            f"{where}: timm does not make it of {dict(arguments)}: {error}"
        ) from error
    return network


def trained(known: Pretrained) -> nn.Module:
    """The same with the folder's weights.

    Raises:
        EncoderError: as `untrained`, or if the weights are another model's.
    """
    network = untrained(known)
    load(network, load_file(known.folder / WEIGHTS), known)
    return network


def load(network: nn.Module, tensors: dict[str, Tensor], known: Pretrained) -> None:
    """Give a model its weights; those of a head, which it has not, are left out."""
    renamed = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    try:  # names of older versions become today's, as in timm's own loading
        tensors = renamed(tensors, network) if renamed else tensors
        lacking = network.load_state_dict(tensors, strict=False).missing_keys
    except (RuntimeError, KeyError) as error:
        lacking = [str(error).splitlines()[-1].strip()]
    if lacking:
        raise EncoderError(
            f"{known.folder / WEIGHTS}: it has not the weights of "
            f"{known.config['architecture']} ({', '.join(lacking[:3])}). Write the folder again."
        )


def resize(network: Any, size: tuple[int, int]) -> None:
    """Let a model take images of another (height, width), where its weights depend on it."""
    if hasattr(network, "set_input_size"):
        network.set_input_size(img_size=size)
