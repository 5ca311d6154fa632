"""Adapters: what a later task adds to the weights of the first one, for its own classes alone.

W(c) = W_0 + B A for the classes c of a task, W_0 for those of the first one: B [out_features, r]
and A [r, in_features] of every linear layer (Hu et al. 2021, LoRA, arXiv 2106.09685) and of every
convolution, whose kernel is the matrix of [outputs, inputs x height x width]; biases and norms
differ freely. No other class's weights depend on B and A: whatever an optimiser does to them, what
is said to other classes stays the same to the bit.

diffusers' own adapters (PEFT's) compute W_0 x + B (A x), two small products more a layer; as a
function of B and A the weight is made once a step, which takes three quarters of the time.

What learns in place of A is sqrt(in_features) A, whose numbers are of about unit size as A's are of
1 / sqrt(in_features): AdamW moves every number by about its rate, and A, moved as far as that,
grows out of proportion within some hundred steps (Hayou et al. 2024, LoRA+, arXiv 2402.12354).
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gppdm_pipeline.algorithm.diffusion.network import DenoiserConfig
from gppdm_pipeline.algorithm.state import Weights

Rank = Annotated[int, Field(ge=1)] | Literal["full"]
_UP, _DOWN = "up", "down"  # B and A, as files call them


class AdapterConfig(BaseModel):
    """How large the adapters of later tasks are, and how they learn.

    By AdamW, in as many steps as `denoiser.steps` says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: Rank = 4
    """r of every layer, or full: a copy of all weights for each task (experts)."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-2
    batch_size: Annotated[int, Field(ge=2)] = 32
    """Images of a step; all of them are of the task's own classes."""
    start: Literal["previous", "anew"] = "previous"
    """Whether a task's adapter begins as the task before's has ended, or as nothing (B = 0)."""

    @model_serializer(mode="wrap")
    def _without_what_is_as_it_was(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {k: v for k, v in values.items() if k != "start" or v != "anew"}

    def learning(self, denoiser: DenoiserConfig) -> DenoiserConfig:
        """The denoiser's settings with these in their places."""
        own = {"learning_rate": self.learning_rate, "batch_size": self.batch_size}
        return denoiser.model_copy(update={"optimiser": "adamw", **own})


class LowRankUpdate(nn.Module):
    """W = W_0 + B A: a weight as a function of B and sqrt(in_features) A.

    Args:
        start: W_0, float32 [out_features, ...], a matrix when all behind the first are one.
        up: B to begin with, float32 [out_features, r].
        down: A to begin with, float32 [r, in_features].
    """

    start: Tensor

    def __init__(self, start: Tensor, up: Tensor, down: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start)
        self.unit = 1 / math.sqrt(down.shape[1])
        self._beginning = up, down / self.unit

    def forward(self, up: Tensor, down: Tensor) -> Tensor:
        """B, sqrt(in_features) A -> W, in float32 whatever surrounds it."""
        with torch.autocast(up.device.type, enabled=False):
            start = self.start.flatten(1)
            return torch.addmm(start, up, down, alpha=self.unit).view_as(self.start)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """What stands for B and A where a task begins."""
        return self._beginning


def attach(
    unet: nn.Module, rank: Rank, generator: torch.Generator, start: Weights | None = None
) -> None:
    """Let nothing of a network learn but an adapter.

    Args:
        unet: with the trunk's weights.
        rank: r, where a layer's matrix has as much; "full": all weights learn.
        generator: of A, on the CPU.
        start: an adapter of the same rank to begin with; None: the trunk, B = 0.
    """
    if rank != "full":
        for name, layer in _layers(unet).items():
            layer.weight.requires_grad_(False)
            weight = layer.weight.detach()
            rows, columns = weight.flatten(1).shape
            r = min(rank, rows, columns)
            bound = 1 / math.sqrt(columns)
            up, down = torch.zeros(rows, r), torch.empty(r, columns)
            down.uniform_(-bound, bound, generator=generator)
            if start is not None:
                up, down = (start.tensors[f"{name}.{part}"].float() for part in (_UP, _DOWN))
            update = LowRankUpdate(weight.clone(), up.to(weight), down.to(weight))
            parametrize.register_parametrization(layer, "weight", update)
            for factor in _factors(layer):
                factor.requires_grad_(True)
    if start is None:
        return
    with torch.no_grad():
        for name, parameter in _free(unet).items():
            parameter.add_(start.tensors[name].to(parameter))


def adapter_of(unet: nn.Module, trunk: Weights, rank: Rank) -> Weights:
    """The adapter that a network has learnt since it was attached.

    Args:
        unet: of `attach`, after training.
        trunk: what it began as.
        rank: as it was attached with.

    Returns:
        `<layer>.up` and `<layer>.down` for each low-rank update, and under their own names what
        free parameters differ by from the trunk's: float16, on the CPU.
    """
    tensors = {
        name: parameter.detach().cpu() - trunk.tensors[name]
        for name, parameter in _free(unet).items()
    }
    for name, layer in _layers(unet).items():
        if parametrize.is_parametrized(layer, "weight"):
            up, down = (factor.detach().cpu() for factor in _factors(layer))
            tensors[f"{name}.{_UP}"] = up
            tensors[f"{name}.{_DOWN}"] = down / math.sqrt(down.shape[1])
    return Weights({"rank": rank}, {name: kept.half() for name, kept in tensors.items()})


def merged(trunk: Weights, adapter: Weights | None) -> Weights:
    """The weights that an adapter's classes are drawn with; the trunk's own without one.

    Args:
        trunk: W_0 and all else.
        adapter: of `adapter_of`; None: of the first task's classes.
    """
    if adapter is None:
        return trunk
    found: dict[str, Tensor] = dict(trunk.tensors)
    for name, tensor in adapter.tensors.items():
        layer, _, part = name.rpartition(".")
        if part == _UP:
            weight = found[f"{layer}.weight"]
            down = adapter.tensors[f"{layer}.{_DOWN}"].float()
            update = tensor.float() @ down
            found[f"{layer}.weight"] = weight + update.view_as(weight)
        elif part != _DOWN:
            found[name] = found[name] + tensor.float()
    return Weights(trunk.config, found)


def adapter_shapes(unet: nn.Module, rank: Rank) -> dict[str, list[int]]:
    """By name, the shapes of what an adapter of such a network holds; its weights may be plain."""
    found = {name: list(parameter.shape) for name, parameter in unet.named_parameters()}
    if rank == "full":
        return found
    for name, layer in _layers(unet).items():
        rows, columns = layer.weight.flatten(1).shape
        r = min(rank, rows, columns)
        del found[f"{name}.weight"]
        found |= {f"{name}.{_UP}": [rows, r], f"{name}.{_DOWN}": [r, columns]}
    return found


def _layers(unet: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def _factors(layer: nn.Module) -> list[nn.Parameter]:
    """B and sqrt(in_features) A of a layer that has them."""
    return [layer.get_parameter(f"parametrizations.weight.original{i}") for i in range(2)]


def _free(unet: nn.Module) -> dict[str, nn.Parameter]:
    """What learns as it is."""
    return {
        name: parameter
        for name, parameter in unet.named_parameters()
        if ".parametrizations." not in name
    }
