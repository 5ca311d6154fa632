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

With rank full all weights learn, W(c) = W_0 + D, and of every matrix of D four bits a number can be
kept (`four_bits.py`): as many bytes as a low rank, and what Muon has learnt of every direction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gppdm_pipeline.algorithm.diffusion.four_bits import FourBits, packed, unpacked
from gppdm_pipeline.algorithm.diffusion.network import DenoiserConfig
from gppdm_pipeline.algorithm.state import Weights
from gppdm_pipeline.configuration.base import Config

Rank = Annotated[int, Field(ge=1)] | Literal["full"]
_UP, _DOWN = "up", "down"  # B and A, as files call them
_CODES, _STEP = "codes", "step"  # of a matrix in four bits
_WHOLE = ("conv_in.", "conv_out.", "proj_in.", "proj_out.", "time_embedding.", "gates.")
"""What is kept in 16 bits in any case: layers that meet pixels or the noise level, which are small
and by which all others go."""
_ATTENTION = ".attentions."  # of diffusers' U-Nets: what lies in a transformer block


class AdapterConfig(Config):
    """How large the adapters of later tasks are, and how they learn.

    In as many steps as `denoiser.steps` says: of a low rank by AdamW; full ones as the denoiser
    does, by `denoiser.optimiser`.
    """

    unwritten: ClassVar = {"start": "anew", "attention": True}

    rank: Rank = 4
    """r of every layer, or full: all weights learn for each task."""
    bits: Literal[16, 4] = 16
    """Of each number of a full adapter's matrices, as it is kept; other tensors, and low ranks, are
    kept in 16 bits (float16)."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-2
    """Of AdamW, at its peak, which moves low ranks; full ones have the denoiser's."""
    muon_learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-2
    """Of Muon, likewise, where it moves full ones: half of what a network that begins with nothing
    asks for."""
    batch_size: Annotated[int, Field(ge=2)] = 32
    """Images of a step; all of them are of the task's own classes."""
    attention: bool = True
    """Whether a U-Net's transformer blocks, self- and cross-attention with the layers around them,
    learn too; if not, they stay as the first task left them."""
    start: Literal["previous", "anew"] = "previous"
    """Whether a task's adapter begins as the task before's has ended, or as nothing (B = 0)."""

    def learning(self, denoiser: DenoiserConfig) -> DenoiserConfig:
        """The denoiser's settings with these in their places."""
        own: dict[str, Any] = {"batch_size": self.batch_size}
        if self.rank == "full":
            own |= {"muon_learning_rate": self.muon_learning_rate}
        else:
            own |= {"optimiser": "adamw", "learning_rate": self.learning_rate}
        return denoiser.model_copy(update=own)


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
    unet: nn.Module,
    config: AdapterConfig,
    generator: torch.Generator,
    start: Weights | None = None,
) -> None:
    """Let nothing of a network learn but an adapter.

    Args:
        unet: with the trunk's weights.
        config: r, where a layer's matrix has as much, or all weights; which layers.
        generator: of A, on the CPU.
        start: an adapter of the same rank and layers to begin with; None: the trunk, B = 0.
    """
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(_learns(name, config.attention))
    if (rank := config.rank) != "full":
        for name, layer in _layers(unet, config.attention).items():
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
    free = _free(unet, config.attention)
    differs = _differences(start, {name: parameter.shape for name, parameter in free.items()})
    with torch.no_grad():
        for name, parameter in free.items():
            parameter.add_(differs[name].to(parameter))


def adapter_of(unet: nn.Module, trunk: Weights, config: AdapterConfig) -> Weights:
    """The adapter that a network has learnt since it was attached.

    Args:
        unet: of `attach`, after training.
        trunk: what it began as.
        config: with which it was attached.

    Returns:
        `<layer>.up` and `<layer>.down` for each low-rank update, and under their own names what
        free parameters differ by from the trunk's: float16, on the CPU. Of matrices in four bits,
        `<name>.codes` and `<name>.step` (see `four_bits.py`).
    """
    four = config.rank == "full" and config.bits == 4
    tensors: dict[str, Tensor] = {}
    for name, parameter in _free(unet, config.attention).items():
        differs = parameter.detach().cpu() - trunk.tensors[name]
        if four and _in_four_bits(name, differs.shape):
            kept = packed(differs.flatten(1))
            tensors |= {f"{name}.{_CODES}": kept.codes, f"{name}.{_STEP}": kept.step}
        else:
            tensors[name] = differs.half()
    for name, layer in _layers(unet, config.attention).items():
        if parametrize.is_parametrized(layer, "weight"):
            up, down = (factor.detach().cpu() for factor in _factors(layer))
            tensors[f"{name}.{_UP}"] = up.half()
            tensors[f"{name}.{_DOWN}"] = (down / math.sqrt(down.shape[1])).half()
    kind: dict[str, Any] = {"rank": config.rank}
    kind |= {"bits": 4} if four else {}
    kind |= {} if config.attention else {"attention": False}
    return Weights(kind, tensors)


def merged(trunk: Weights, adapter: Weights | None) -> Weights:
    """The weights that an adapter's classes are drawn with; the trunk's own without one.

    Args:
        trunk: W_0 and all else.
        adapter: of `adapter_of`; None: of the first task's classes.
    """
    if adapter is None:
        return trunk
    found: dict[str, Tensor] = dict(trunk.tensors)
    differs = _differences(adapter, {name: tensor.shape for name, tensor in found.items()})
    return Weights(
        trunk.config, found | {name: found[name] + each for name, each in differs.items()}
    )


def _differences(adapter: Weights, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """What an adapter adds to the parameters of `shapes`, float32 and of their shapes."""
    found: dict[str, Tensor] = {}
    for name, tensor in adapter.tensors.items():
        of, _, part = name.rpartition(".")
        if part == _UP and (weight := f"{of}.weight") in shapes:
            update = tensor.float() @ adapter.tensors[f"{of}.{_DOWN}"].float()
            found[weight] = update.view(shapes[weight])
        elif part == _CODES:
            kept = FourBits(tensor, adapter.tensors[f"{of}.{_STEP}"])
            found[of] = unpacked(kept, shapes[of][1:].numel()).view(shapes[of])
        elif name in shapes:
            found[name] = tensor.float()
    return found


def adapter_shapes(unet: nn.Module, config: Mapping[str, Any]) -> dict[str, list[int]]:
    """By name, the shapes of what an adapter of such a network holds; its weights may be plain.

    Args:
        unet: that it belongs to.
        config: of an adapter: its rank, the bits of its matrices, and which layers it has.
    """
    attention = config.get("attention", True)
    shapes = {name: list(p.shape) for name, p in unet.named_parameters()}
    found = {name: shape for name, shape in shapes.items() if _learns(name, attention)}
    if config["rank"] != "full":
        for name, layer in _layers(unet, attention).items():
            rows, columns = layer.weight.flatten(1).shape
            r = min(config["rank"], rows, columns)
            del found[f"{name}.weight"]
            found |= {f"{name}.{_UP}": [rows, r], f"{name}.{_DOWN}": [r, columns]}
    elif config.get("bits") == 4:
        for name, shape in [*found.items()]:
            if _in_four_bits(name, shape):
                rows, columns = shape[0], math.prod(shape[1:])
                del found[name]
                found |= {f"{name}.{_CODES}": [rows, (columns + 1) // 2], f"{name}.{_STEP}": [rows]}
    return found


def _learns(name: str, attention: bool) -> bool:
    return attention or _ATTENTION not in name


def _in_four_bits(name: str, shape: Sequence[int]) -> bool:
    return len(shape) > 1 and not name.startswith(_WHOLE)


def _layers(unet: nn.Module, attention: bool) -> dict[str, nn.Conv2d | nn.Linear]:
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and _learns(name, attention)
    }


def _factors(layer: nn.Module) -> list[nn.Parameter]:
    """B and sqrt(in_features) A of a layer that has them."""
    return [layer.get_parameter(f"parametrizations.weight.original{i}") for i in range(2)]


def _free(unet: nn.Module, attention: bool) -> dict[str, nn.Parameter]:
    """What learns as it is."""
    return {
        name: parameter
        for name, parameter in unet.named_parameters()
        if ".parametrizations." not in name and _learns(name, attention)
    }
