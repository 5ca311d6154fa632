"""Where and with which random numbers a stage computes: the only place that knows.

Loops get a `Context` handed in; nothing in the algorithm asks for a device, a seed or a terminal.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gppdm_pipeline.algorithm.disk.checkpoints import (
    Checkpoints,
    DrawnOnce,
    no_checkpoints,
    not_kept,
)
from gppdm_pipeline.algorithm.team import ALONE, Team


class ProgressBar(Protocol):
    """The progress of one loop."""

    def advance(self, n: int = 1, **metrics: float) -> None:
        """`n` more of the announced total are done; `metrics` are their latest values."""


class Progress(Protocol):
    """Opens a bar of `total` units under a title."""

    def __call__(self, total: int, title: str) -> AbstractContextManager[ProgressBar]:
        """The bar, open for as long as the context is."""


CPU = torch.device("cpu")
Precision = Literal["float32", "bfloat16"]
Decode = Callable[[NDArray[Any]], NDArray[np.uint8]]
"""float16 [n, h, w, c] -> uint8 [n, h', w', c']."""


class _SilentBar:
    def advance(self, n: int = 1, **metrics: float) -> None:
        """Say nothing."""


@contextmanager
def silent(total: int, title: str) -> Iterator[ProgressBar]:
    """The progress that shows nothing: the default for library use."""
    yield _SilentBar()


@dataclass(frozen=True)
class Context:
    """What a stage needs besides its data.

    Attributes:
        seed: of the whole run, >= 0.
        task: the number of the task being learnt, from 1.
        device: where tensors live while a stage computes; states are always kept on the CPU.
        progress: opens progress bars.
        checkpoints: keep what a loop needs to go on after it was stopped.
        precision: of the networks' large products (see `autocast`).
        drawn: keeps images that are the same in every task.
        team: the ranks that all compute this stage, of which this process is one.
        decode: makes pictures of what is stored, where an autoencoder has made that.
    """

    seed: int
    task: int
    device: torch.device = CPU
    progress: Progress = silent
    checkpoints: Checkpoints = no_checkpoints
    precision: Precision = "float32"
    drawn: DrawnOnce = not_kept
    team: Team = ALONE
    decode: Decode | None = None

    def generator(self, stage: str) -> torch.Generator:
        """A fresh generator on the device that depends on (seed, task, stage) and nothing else."""
        generator = torch.Generator(self.device)
        generator.manual_seed(self._seed_of(stage))
        return generator

    def fixed_generator(self, name: str) -> torch.Generator:
        """A fresh generator on the CPU that depends on (seed, name): the same in every task."""
        return replace(self, task=0, device=CPU).generator(name)

    @contextmanager
    def initialisation(self, stage: str) -> Iterator[None]:
        """Seed the weights that modules draw while they are built.

        torch's layers initialise from the global generator only; it is put back afterwards.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed_of(stage))
            yield

    def _seed_of(self, stage: str) -> int:
        entropy = [self.seed, self.task, zlib.crc32(stage.encode())]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Inside, matrix products and convolutions are of this precision (torch.autocast).

    Weights, optimiser, losses, prototypes, tokens and bases stay float32 or better.
    """
    # No weight is used twice in a pass; threads would share what is kept.
    enabled = precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def resolve_device(name: str) -> torch.device:
    """The device called `name`.

    Args:
        name: "auto" (the first of CUDA, MPS and CPU that is there), "cpu", "cuda" or "mps".

    Raises:
        ValueError: if the name is another one, or the device is not there.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if name not in available:
        raise ValueError(f"device is {name!r}; allowed are auto, {', '.join(sorted(available))}")
    if not available[name]:
        raise ValueError(f"device is {name!r}, which this machine does not have; use device=auto")
    return torch.device(name)
