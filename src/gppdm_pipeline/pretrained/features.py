"""A folder's network as one that makes vectors of images: how long they are, and the network."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from gppdm_pipeline.pretrained import timm_models, transformers_models
from gppdm_pipeline.pretrained.folder import CONFIG, EncoderError, Pretrained, hash_of, on_trial
from gppdm_pipeline.pretrained.preparation import preparation_of


def numbers(known: Pretrained, side: int | None) -> int:
    """How many numbers a vector has; weights are not read.

    Args:
        known: a network in a folder.
        side: pixels of what it is given; None: its own.

    Raises:
        EncoderError: if it has no such network, or that gives no vector of such images.
    """
    side = preparation_of(known, side).side
    return _numbers(known, side, hash_of(known.folder / CONFIG))


@cache
def _numbers(known: Pretrained, side: int, _: str) -> int:
    with on_trial(
        f"{known.folder}: it makes nothing of images of {side}x{side}",
        f"Leave space.side out, or name a model of images in {known.setting}.",
    ):
        if known.kind == "transformers":
            network = transformers_models.untrained(known, side)
        else:
            network = timm_models.untrained(known)
            _resize(network, side, known)
        found = network.eval()(torch.zeros(2, 3, side, side))
    if not isinstance(found, torch.Tensor) or found.ndim != 2:
        raise EncoderError(
            f"{known.folder / CONFIG}: the model gives {_shape(found)} of two images, and not one "
            f"vector of each. Name one that pools its features in {known.setting}."
        )
    return found.shape[1]


def _shape(found: object) -> str:
    return str(list(found.shape)) if isinstance(found, torch.Tensor) else type(found).__name__


def network_of(known: Pretrained, side: int) -> nn.Module:
    """The network with its weights: float32 [n, 3, side, side], prepared -> [n, d].

    Raises:
        EncoderError: if the folder has not its weights.
    """
    if known.kind == "transformers":
        network = transformers_models.trained(known, side)
    else:
        network = timm_models.trained(known)
        _resize(network, side, known)
    return network.float().eval().requires_grad_(False)


def _resize(network: nn.Module, side: int, known: Pretrained) -> None:
    """Let weights of timm that depend on the side be of this one."""
    if side != preparation_of(known, None).side:
        timm_models.resize(network, (side, side))
