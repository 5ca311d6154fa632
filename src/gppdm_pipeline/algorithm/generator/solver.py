"""What draws: the solver, from noise or from images, and what may stand in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.process import Process
from gppdm_pipeline.algorithm.diffusion.samplers import Multistep, Sampler
from gppdm_pipeline.algorithm.generator.gaussians import OfGaussians
from gppdm_pipeline.algorithm.generator.parts import GeneratorSettings, ReplayConfig
from gppdm_pipeline.algorithm.state import LearnerState


class Begun(Protocol):
    """Images at which drawing begins: `Pixels`, or such as are made when they are asked for."""

    @property
    def device(self) -> torch.device:
        """Where they are."""

    def __len__(self) -> int: ...

    def __getitem__(self, batch: Tensor) -> Tensor:
        """Int64 [b], indices -> float32 [b, c, h, w]."""


class Samplers(Protocol):
    """Gives the images at each slice of all that are drawn their sampler."""

    @property
    def random(self) -> bool:
        """Whether samplers draw random numbers, so that a batch cannot be cut for threads."""

    def of(self, process: Process, piece: slice) -> Sampler:
        """The sampler of some of the images."""


@dataclass(frozen=True)
class Solver:
    """DPM-Solver++ from noise, or from images with noise.

    Attributes:
        config: its steps.
        images: what is noised and drawn anew, if anything is.
        signal: abar, the share of it that is left.
    """

    config: ReplayConfig
    images: Begun | None = None
    signal: float = 0.0
    random: ClassVar[bool] = False

    def of(self, process: Process, piece: slice) -> Multistep:
        """As `Samplers`."""
        begun = None
        if self.images is not None:
            device = self.images.device
            begun = self.images[torch.arange(len(self.images), device=device)[piece]]
        steps, sigma_max = self.config.sampler_steps, self.config.sigma_max
        return Multistep(process, steps, sigma_max, begun, self.signal)


def solver_of_classes(
    state: LearnerState,
    labels: NDArray[np.int64],
    numbers: NDArray[np.int64],
    settings: GeneratorSettings,
    context: Context,
) -> Solver:
    """The solver that the settings describe: from noise, or from the classes' Gaussians.

    Args:
        state: with a generator that knows the classes.
        labels: int64 [n], the class of each image that is to be drawn.
        numbers: int64 [n], which of its class each is.
        settings: of the generator.
        context: seed, device.
    """
    if not settings.replay.gaussians:
        return Solver(settings.replay)
    begun = OfGaussians(state, labels, numbers, context)
    return Solver(settings.replay, begun, settings.replay.gaussians)
