"""Whether the files of a state hold the tensors of its networks, and no others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import load
from torch import nn

from gppdm_pipeline.algorithm.classifier.networks import untrained
from gppdm_pipeline.algorithm.diffusion.adapters import adapter_shapes
from gppdm_pipeline.algorithm.diffusion.network import network_class

UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"

Shapes = dict[str, list[int]]


def misfits(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """What does not fit: the file's name, and what of it.

    Args:
        manifest: of a state.
        files: by name, as they were written.
    """
    for name, expected in _expected(manifest, files).items():
        found = {key: list(value.shape) for key, value in load(files[name]).items()}
        for key in sorted({*expected, *found}):
            if expected.get(key) != found.get(key):
                shapes = f"{found.get(key, 'missing')}, expected {expected.get(key, 'none')}"
                yield name, f"{key} is {shapes}"


def without_private(config: Mapping[str, Any]) -> dict[str, Any]:
    """A network's settings without those that diffusers keeps for itself."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _expected(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Shapes]:
    """By file."""
    found: dict[str, Shapes] = {}
    with torch.device("meta"):  # shapes without memory
        if manifest["classifier"] is not None:
            found["classifier.safetensors"] = _of(untrained(manifest["classifier"]))
        if f"denoiser/{UNET_WEIGHTS}" in files:
            config = without_private(json.loads(files["denoiser/config.json"]))
            unet = network_class(config).from_config(config)
            found[f"denoiser/{UNET_WEIGHTS}"] = _of(unet)
            for name in files:
                if name.startswith("adapters/") and name.endswith(".json"):
                    weights = name.replace("config.json", "weights.safetensors")
                    found[weights] = adapter_shapes(unet, json.loads(files[name]))
    return found


def _of(network: nn.Module) -> Shapes:
    return {key: list(value.shape) for key, value in network.state_dict().items()}
