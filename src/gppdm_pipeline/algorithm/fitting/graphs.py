"""A training step that a CUDA device is given whole.

Networks this small are done with a kernel before the next one is launched. A step whose shapes are
always the same is recorded once as a graph of its kernels, and then launched as one (Gray 2019,
"Getting started with CUDA graphs", NVIDIA). Its random numbers are those that it would draw anyway.
Other devices take each step as it comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Tensor], dict[str, Tensor]]
"""Trains on a batch, int64 [b]; returns its losses, scalars by name."""

_UNRECORDED = 3  # steps in which an optimiser, cuDNN and cuBLAS get what they keep


def recorded(step: Step, generator: torch.Generator) -> Step:
    """`step`, or on CUDA what replays it.

    Args:
        step: of shapes that do not depend on what is in a batch; it does not wait for the device.
            What it changes it changes in place, and the optimiser in it is made `on(device)`.
        generator: of all random numbers in it; its device is the training's.
    """
    return _Recorded(step, generator) if generator.device.type == "cuda" else step


def on(device: torch.device) -> dict[str, Any]:
    """Arguments of an optimiser of `torch.optim` whose step may be recorded."""
    return {"fused": True, "capturable": True} if device.type == "cuda" else {}


def rate(value: float, device: torch.device) -> Tensor | float:
    """A learning rate, as a tensor where a recorded step has to see it change."""
    return torch.tensor(value, device=device) if device.type == "cuda" else value


def rows_where(mask: Tensor) -> Tensor:
    """Int64, the rows of bool [b] that are true; on CUDA all b, for how many is not known there.

    Whoever takes them weights what comes of them by the mask.
    """
    if mask.device.type == "cuda":
        return torch.arange(len(mask), device=mask.device)
    return mask.nonzero().squeeze(1)


class _Recorded:
    def __init__(self, step: Step, generator: torch.Generator) -> None:
        self._step, self._generator = step, generator
        self._stream = torch.cuda.Stream(generator.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._taken = 0

    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        self._taken += 1
        if self._taken <= _UNRECORDED:
            return self._aside(batch)
        if self._graph is None:
            self._graph = self._record(batch)
        self._batch.copy_(batch)
        self._graph.replay()
        return {name: loss.clone() for name, loss in self._losses.items()}

    def _aside(self, batch: Tensor) -> dict[str, Tensor]:
        """On the stream of the recording, where autograd has to have met the parameters."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            losses = self._step(batch)
        current.wait_stream(self._stream)
        return losses

    def _record(self, batch: Tensor) -> torch.cuda.CUDAGraph:
        graph, self._batch = torch.cuda.CUDAGraph(), batch.clone()
        graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph, stream=self._stream):
            self._losses = self._step(self._batch)
        return graph
