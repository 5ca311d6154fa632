"""How weights are moved: Muon for matrices, AdamW for the rest.

Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"): the step of a
matrix is its averaged gradient with every singular value made about 1, so that directions of which
gradients speak rarely are learnt as fast as the loud ones. A convolution's kernel is the matrix of
[outputs, inputs x height x width].

torch.optim.Muon does the same to matrices alone, one after the other, in bfloat16, which few
processors have, and reads its rate on the host, which a recorded step cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gppdm_pipeline.algorithm.fitting.graphs import on, rate
from gppdm_pipeline.algorithm.fitting.threads import together

MOMENTUM = 0.95
_ITERATIONS = 5
_ROUNDING = 1e-5
"""Norm below which a gradient is taken for rounding: of queries and keys where there is one token,
and a softmax of one thing is 1, it is 1e-10, and made as long as all others it would move them."""
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic, as Jordan et al. tuned them


class Group(NamedTuple):
    """Parameters that are moved alike.

    Attributes:
        params: of one device.
        lr: the rate at its peak.
        weight_decay: decoupled, as AdamW's.
        matrices: whether they are moved by Muon.
    """

    params: Sequence[Tensor]
    lr: float
    weight_decay: float
    matrices: bool = False


class Muon(torch.optim.AdamW):
    """AdamW, but for groups with `matrices: True`, whose parameters move by Muon.

    Every singular value of such a step is about the rate times sqrt(max(1, rows / columns)),
    whatever the gradient's size. All matrices of one shorter side are orthogonalised at once. A
    gradient of theirs is spent by a step.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group.get("matrices"):
                self._move(group)
        super().step()
        return loss

    def _move(self, group: dict[str, Any]) -> None:
        moving = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not moving:
            return
        gradients = [parameter.grad for parameter in moving]
        momenta = [self._momentum(parameter) for parameter in moving]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        torch._foreach_lerp_(gradients, momenta, MOMENTUM)  # Nesterov
        rate, kept = group["lr"], 1 - group["lr"] * group["weight_decay"]
        alike: dict[int, dict[torch.Size, list[Tensor]]] = {}  # by shorter side, by shape
        for parameter in moving:
            shape = parameter.flatten(1).shape
            alike.setdefault(min(shape), {}).setdefault(shape, []).append(parameter)

        @torch.no_grad()
        def move(by_shape: dict[torch.Size, list[Tensor]]) -> None:
            stacks = [
                torch.stack([parameter.grad.flatten(1) for parameter in parameters])  # type: ignore[union-attr]
                for parameters in by_shape.values()
            ]
            for parameters, stack in zip(by_shape.values(), orthogonalised(stacks), strict=True):
                rows, columns = stack.shape[1:]
                steps = stack * (rate * max(1, rows / columns) ** 0.5)
                torch._foreach_mul_(parameters, kept)
                torch._foreach_sub_(
                    parameters,
                    [
                        step.reshape(parameter.shape)
                        for parameter, step in zip(parameters, steps, strict=True)
                    ],
                )

        together(move, list(alike.values()), moving[0].device)
        for parameter in moving:
            parameter.grad = None

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
            state["step"] = torch.zeros(())  # AdamW asks every state that is loaded for it
        momentum: Tensor = state["momentum"]
        return momentum


def orthogonalised(stacks: Sequence[Tensor]) -> list[Tensor]:
    """U V^T of U S V^T, about: every singular value is brought to between 0.7 and 1.2.

    Five times X <- (a I + b X X^T + c (X X^T)^2) X in place of a decomposition (Newton and Schulz's
    way, with the coefficients of Jordan et al. 2024). All these factors are polynomials of the
    first X X^T, and commute: they are multiplied with each other, which are small, and X once; and
    all matrices of one shorter side go through the iteration together. A singular value of less
    than about a thousandth of the matrix's norm gets less than 0.7, and so do all of a matrix of
    norm below 1e-5.

    Args:
        stacks: of matrices, float32 [n, rows, columns] each; their shorter sides are the same.

    Returns:
        As many of the same shapes, float32.
    """
    a, b, c = _COEFFICIENTS
    wide = [stack if stack.shape[1] <= stack.shape[2] else stack.mT for stack in stacks]
    gram = torch.cat([torch.bmm(x, x.mT) for x in wide])
    norm = gram.diagonal(dim1=1, dim2=2).sum(1).sqrt().clamp_min(_ROUNDING)[:, None, None]
    gram = gram / norm.square()
    product = 1 / norm
    for left in reversed(range(_ITERATIONS)):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = torch.bmm(factor, product) if left < _ITERATIONS - 1 else factor * product
        if left:
            gram = torch.bmm(torch.bmm(factor, gram), factor)
    found = zip(stacks, wide, product.split([len(x) for x in wide]), strict=True)
    return [
        torch.bmm(part, x) if x is stack else torch.bmm(stack, part) for stack, x, part in found
    ]


def optimiser_of(groups: Sequence[Group], device: torch.device) -> torch.optim.Optimizer:
    """Muon for groups of matrices, AdamW for the others; groups without parameters are left out."""
    given = [{**group._asdict(), "lr": rate(group.lr, device)} for group in groups if group.params]
    return Muon(given, **{"fused": device.type != "mps", **on(device)})
