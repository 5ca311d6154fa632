"""Gradient projection on cross-attention: old inputs keep their outputs.

For a linear layer y = W x, an update dW with dW M = 0 leaves W x unchanged for every x in the span
of the orthonormal columns of M [in_features, rank] (Saha et al. 2021, GPM, arXiv 2103.09762; on the
cross-attention of a diffusion model: Doan et al. 2024, arXiv 2312.06710).

Projecting gradients is not enough: Adam's scaling per element, momentum, decoupled weight decay
and clipping all leave the subspace. Here the weight itself is written as W_start + U (I - M M^T)
for the length of a task, so that whatever an optimiser does to U, the update stays orthogonal. The
bias that an output layer has in diffusers is free, as in the paper: it is W x that stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gppdm_pipeline.configuration.base import Config

LayerKind = Literal["q", "k", "v", "out"]
_SUFFIX = {"q": "attn2.to_q", "k": "attn2.to_k", "v": "attn2.to_v", "out": "attn2.to_out.0"}
# A direction that holds less than this share of the energy is rounding of float32 inputs.
_ROUNDING = 1e-12

Energy = Annotated[float, Field(gt=0, le=1)]


class ProjectionConfig(Config):
    """Which layers of every cross-attention are projected, and how much of the old inputs is kept.

    Energies are GPM's epsilon: the share of the squared norm of the old inputs that the basis
    holds; 1 is the whole span.
    """

    layers: tuple[LayerKind, ...] = ("q", "k", "v", "out")
    energy_q: Energy = 0.95
    energy_k: Energy = 1.0
    energy_v: Energy = 1.0
    energy_out: Energy = 0.95
    images_per_class: Annotated[int, Field(ge=1)] = 64
    """Replayed images that the denoiser runs on to see what the layers are fed."""

    def energy(self, kind: LayerKind) -> float:
        """The energy that layers of this kind keep."""
        return float(getattr(self, f"energy_{kind}"))


def cross_attention_layers(
    unet: nn.Module, kinds: Sequence[LayerKind]
) -> dict[str, tuple[LayerKind, nn.Linear]]:
    """Full module name -> (kind, layer), for every cross-attention layer of these kinds."""
    return {
        name: (kind, module)
        for name, module in unet.named_modules()
        for kind in kinds
        if name.endswith(_SUFFIX[kind]) and isinstance(module, nn.Linear)
    }


class OrthogonalUpdate(nn.Module):
    """W = W_start + U (I - M M^T): the weight as a function of the free parameter U.

    Args:
        start: W_start, float32 [out_features, in_features].
        basis: M, float32 [in_features, rank], orthonormal columns.
    """

    start: Tensor
    basis: Tensor

    def __init__(self, start: Tensor, basis: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start)
        self.register_buffer("basis", basis)

    def forward(self, update: Tensor) -> Tensor:
        """U -> W, in float32 whatever surrounds it: rounded products are not orthogonal."""
        with torch.autocast(update.device.type, enabled=False):
            weight: Tensor = _Projected.apply(update, self.start, self.basis)  # type: ignore[no-untyped-call]
            return weight

    def right_inverse(self, weight: Tensor) -> Tensor:
        """W_start -> U = 0, where a task begins."""
        return torch.zeros_like(weight)


class _Projected(torch.autograd.Function):
    """W_start + U (I - M M^T) as one node: what torch would record of it costs more than it."""

    @staticmethod
    def forward(ctx: Any, update: Tensor, start: Tensor, basis: Tensor) -> Tensor:
        ctx.save_for_backward(basis)
        return start + update - (update @ basis) @ basis.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (basis,) = ctx.saved_tensors
        return gradient - (gradient @ basis) @ basis.T, None, None


@contextmanager
def orthogonal_updates(unet: nn.Module, bases: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the layers named in `bases` can only change orthogonally to them.

    Take the parameters for the optimiser inside. Afterwards the layers are plain again, with the
    weights that they had come to.
    """
    layers = {name: unet.get_submodule(name) for name in bases}
    for name, layer in layers.items():
        start = layer.get_parameter("weight").detach().clone()
        parametrize.register_parametrization(
            layer, "weight", OrthogonalUpdate(start, bases[name].to(start))
        )
    try:
        yield
    finally:
        for layer in layers.values():
            parametrize.remove_parametrizations(layer, "weight")


def input_moments(layers: Mapping[str, nn.Module], run: Callable[[], None]) -> dict[str, Tensor]:
    """What layers are fed while `run` runs: sum of x x^T over all inputs x.

    Returns:
        layer name -> float64 [in_features, in_features]; R R^T without ever holding R.
    """
    moments: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def accumulate(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().flatten(0, -2)
            x = (x.cpu() if x.device.type == "mps" else x).double()  # MPS has no float64
            moments[name] = moments.get(name, 0) + x.T @ x

        return accumulate

    handles = [layer.register_forward_pre_hook(hook_for(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return moments


def share_outside(basis: Tensor | None, moment: Tensor) -> float:
    """What of inputs an update can act on that is orthogonal to `basis`: their energy outside it.

    Args:
        basis: M, [in_features, rank] with orthonormal columns, or None for no column.
        moment: R R^T of the inputs R, float64 [in_features, in_features]; not zero.

    Returns:
        1 - ||M^T R||^2 / ||R||^2, from 0 to 1.
    """
    if basis is None:
        return 1.0
    columns, products = basis.double().cpu(), moment.double().cpu()
    held = ((products @ columns) * columns).sum() / products.trace()
    return float((1 - held).clamp(0, 1))


def extend_basis(basis: Tensor | None, moment: Tensor, energy: float) -> Tensor:
    """Append the fewest directions so that the basis holds enough of new inputs (GPM, eq. 5-9).

    Args:
        basis: M, [in_features, rank] with orthonormal columns, or None for no column.
        moment: R R^T of the new inputs R, float64 [in_features, in_features].
        energy: epsilon; ||M M^T R||^2 + ||R'_k||^2 >= epsilon ||R||^2 holds afterwards, where
            R' = R - M M^T R.

    Returns:
        float32 [in_features, rank'], rank' >= rank; the first columns are the old ones.
    """
    moment = moment.double().cpu()
    old = moment.new_empty(len(moment), 0) if basis is None else basis.double().cpu()
    residual = moment - old @ (old.T @ moment)
    residual -= (residual @ old) @ old.T
    values, vectors = torch.linalg.eigh((residual + residual.T) / 2)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    total = moment.trace()
    held = total - values.sum() + torch.cat([values.new_zeros(1), values.cumsum(0)])
    enough = (held >= energy * total * (1 - _ROUNDING)).nonzero()
    fewest = int(enough[0]) if len(enough) else len(values)
    useful = int((values > _ROUNDING * total).sum())
    new = vectors[:, : min(fewest, useful, len(moment) - old.shape[1])]
    new = torch.linalg.qr(new - old @ (old.T @ new))[0]
    return torch.cat([old, new], dim=1).float()
