"""The diffusion process: how images are noised, what a prediction says of them, and the way back.

A sampler, which goes the way back, is called with (clean, x, fresh) and returns x_0. It knows
neither network nor condition: `clean(x, level)` is x_0 as the denoiser sees it in x at a level.

Notation: b images a batch; (c, h, w) = channels, height, width of an image; tau in 0..T-1 a
diffusion step, abar_tau the cumulated signal share (Ho et al. 2020, arXiv 2006.11239, eq. 4:
x_tau = sqrt(abar) x_0 + sqrt(1 - abar) noise).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from gppdm_pipeline.algorithm.diffusion.network import DIFFUSION_STEPS, DenoiserConfig

if TYPE_CHECKING:
    from diffusers import DPMSolverMultistepScheduler


class Noisy(NamedTuple):
    """Noised images.

    Attributes:
        x: float32 [b, c, h, w], x_tau.
        tau: int64 [b].
        target: float32 [b, c, h, w], what the network should say to them.
    """

    x: Tensor
    tau: Tensor
    target: Tensor


class Level(NamedTuple):
    """A noise level: x_tau = signal x_0 + sigma noise.

    Attributes:
        tau: int64, a scalar or one of each image.
        signal: float32, sqrt(abar_tau), a scalar or [b, 1, 1, 1].
        sigma: float32, sqrt(1 - abar_tau), likewise.
    """

    tau: Tensor
    signal: Tensor
    sigma: Tensor

    def noised(self, images: Tensor, noise: Tensor) -> Tensor:
        """x_tau of images x_0, all float32 [b, c, h, w]."""
        return self.signal * images + self.sigma * noise


class Process:
    """The noise schedule, and what the network predicts.

    Args:
        config: `noise_schedule` and `prediction`.
        device: of images and noise.
        independent: whether how much noise an image gets has to do with no other image.

    Attributes:
        shares: abar, float32 [T].
    """

    def __init__(
        self, config: DenoiserConfig, device: torch.device, *, independent: bool = False
    ) -> None:
        from diffusers import DDPMScheduler  # noqa: PLC0415 (takes two seconds)

        self._epsilon, self._independent = config.prediction == "epsilon", independent
        self.schedule: dict[str, Any] = {
            "num_train_timesteps": DIFFUSION_STEPS,
            "beta_schedule": config.noise_schedule,
        }
        self.shares: Tensor = DDPMScheduler(**self.schedule).alphas_cumprod.to(device)

    def level(self, tau: Tensor) -> Level:
        """The noise level at step tau, a scalar."""
        return Level(tau, self.shares[tau].sqrt(), (1 - self.shares[tau]).sqrt())

    def noised(self, images: Tensor, generator: torch.Generator) -> Noisy:
        """Noise a batch at steps spread evenly over all, which have lower variance than others.

        Args:
            images: x_0, float32 [b, c, h, w], of about unit scale.
            generator: on the images' device.
        """
        b, device = len(images), images.device
        if self._independent:
            part = torch.rand(b, generator=generator, device=device)
        else:
            offset = torch.rand((), generator=generator, device=device)
            part = (torch.randperm(b, generator=generator, device=device) + offset) / b
        tau = (part * DIFFUSION_STEPS).long().clamp_max(DIFFUSION_STEPS - 1)
        noise = torch.randn(images.shape, generator=generator, device=device)
        signal = self.shares[tau].sqrt()[:, None, None, None]
        sigma = (1 - self.shares[tau]).sqrt()[:, None, None, None]
        level = Level(tau, signal, sigma)
        return Noisy(level.noised(images, noise), tau, self.target(images, noise, level))

    def target(self, images: Tensor, noise: Tensor, level: Level) -> Tensor:
        """What the network should say to x_0 with noise: the noise or v, float32 [b, c, h, w]."""
        return noise if self._epsilon else level.signal * noise - level.sigma * images

    def clean(self, x: Tensor, output: Tensor, level: Level) -> Tensor:
        """x_0 as the network sees it: float32 [b, c, h, w].

        Args:
            x: x_tau, likewise.
            output: what the network says to it, likewise.
            level: its noise.
        """
        if self._epsilon:
            return (x - level.sigma * output) / level.signal
        return level.signal * x - level.sigma * output


Clean = Callable[[Tensor, Level], Tensor]
"""(x float32 [b, c, h, w], its noise level) -> x_0, likewise."""
Fresh = Callable[[], Tensor]
"""Draws new noise, float32 [b, c, h, w], of the images that a sampler is called with."""
Sampler = Callable[[Clean, Tensor, Fresh], Tensor]
"""(clean, noise float32 [b, c, h, w], fresh) -> images, likewise."""


def solver_of(process: Process, prediction: str) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ with steps even in the logarithm of the noise.

    Args:
        process: its noise schedule.
        prediction: what a step is given: "sample" (x_0), "v_prediction" or "epsilon".
    """
    from diffusers import DPMSolverMultistepScheduler  # noqa: PLC0415 (takes two seconds)

    return DPMSolverMultistepScheduler(
        **process.schedule,
        prediction_type=prediction,
        timestep_spacing="linspace",
        use_lu_lambdas=True,
    )


@dataclass(frozen=True)
class Multistep:
    """DPM-Solver++(2M): Lu et al. 2022, arXiv 2211.01095. It draws no random numbers of its own.

    Steps are evenly spread in the logarithm of the noise: with steps evenly spread in tau, the
    spread of fine detail is lost (on Gaussians of standard deviation 0.1, 15 steps: 0.06).

    Attributes:
        process: its noise schedule.
        steps: evaluations of the denoiser.
        sigma_max: the noise level sqrt((1 - abar) / abar) that the steps begin at, the nearest
            below; None: the end of the schedule.
        images: float32 [b, c, h, w], what is noised and drawn anew (SDEdit, Meng et al. 2021,
            arXiv 2108.01073); None: nothing.
        signal: abar, the share of signal that noise leaves of them; the solver begins at its first
            step that has as much or more.
    """

    process: Process
    steps: int
    sigma_max: float | None = None
    images: Tensor | None = None
    signal: float = 0.0

    def __call__(self, clean: Clean, x: Tensor, fresh: Fresh) -> Tensor:
        """From noise to images, float32 [b, c, h, w]."""
        solver = solver_of(self.process, "sample")
        first = self._set_steps(solver, x.device)
        if self.images is not None:
            noisiest = math.sqrt((1 - self.signal) / self.signal)
            first = max(first, int((solver.sigmas[: len(solver.timesteps) - 1] > noisiest).sum()))
            share = float(1 / (1 + solver.sigmas[first] ** 2))
            x = math.sqrt(share) * self.images + math.sqrt(1 - share) * x
        solver.set_begin_index(
            first
        )  # it looks its place up by tau, and rounded tau may come twice
        for tau, sigma in zip(solver.timesteps[first:], solver.sigmas[first:-1], strict=True):
            signal = 1 / ((sigma**2 + 1) ** 0.5)
            seen = clean(x, Level(tau, signal, sigma * signal))
            x = solver.step(seen, tau, x, return_dict=False)[0]
        return x

    def _set_steps(self, solver: DPMSolverMultistepScheduler, device: torch.device) -> int:
        """Set the solver's steps, and say which is the first at or below `sigma_max`.

        There are as many in all as it takes for `steps` from there, the last included.
        """
        first = 0
        solver.set_timesteps(self.steps, device=device)
        while self.sigma_max is not None and int((solver.sigmas > self.sigma_max).sum()) > first:
            first += 1
            solver.set_timesteps(self.steps + first, device=device)
        return first
