"""Samplers: from noise to images, by a function that sees the clean image in a noisy one.

A sampler is called with (clean, x, fresh) and returns x_0. It knows neither network nor
condition: `clean(x, level)` is x_0 as the denoiser sees it in x at a noise level.

Notation: b images; x the noisy images at step tau; abar_tau the cumulated signal share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gppdm_pipeline.algorithm.diffusion.network import DIFFUSION_STEPS
from gppdm_pipeline.algorithm.diffusion.process import Level, Process
from gppdm_pipeline.algorithm.fitting.batches import PIXELS

if TYPE_CHECKING:
    from diffusers import DPMSolverMultistepScheduler

Clean = Callable[[Tensor, Level], Tensor]
"""(x float32 [b, c, h, w], its noise level) -> x_0, likewise."""
Fresh = Callable[[], Tensor]
"""Draws new noise, float32 [b, c, h, w], of the images that a sampler is called with."""
Sampler = Callable[[Clean, Tensor, Fresh], Tensor]
"""(clean, noise float32 [b, c, h, w], fresh) -> images, likewise."""
LogLikelihood = Callable[[Tensor], Tensor]
"""x float32 [b, c, h, w] -> log p(y | x) of each image's class, [b]."""


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


@dataclass(frozen=True)
class Step:
    """From tau to an earlier step.

    q(x_before | x_tau, x_0) = N(of_clean x_0 + of_noisy x_tau, variance): Ho et al. 2020 (arXiv
    2006.11239), eq. 7, with alpha = abar_tau / abar_before, since steps between are left out.
    """

    of_clean: Tensor
    of_noisy: Tensor
    variance: Tensor

    @classmethod
    def between(cls, share: Tensor, before: Tensor) -> Step:
        """From abar_tau to abar_before, each a scalar."""
        alpha = share / before
        beta = 1 - alpha
        return cls(
            before.sqrt() * beta / (1 - share),
            alpha.sqrt() * (1 - before) / (1 - share),
            beta * (1 - before) / (1 - share),
        )


@dataclass(frozen=True)
class GuidedAncestral:
    """DDPM's ancestral sampler over some of the steps, guided by a classifier's gradient.

    Dhariwal & Nichol 2021 (arXiv 2105.05233), algorithm 1, which DDGR (Gao & Liu 2023, ICML)
    replays with: the mean moves by scale x variance x grad_x log p(y | x).

    Attributes:
        process: its noise schedule.
        steps: evaluations of the denoiser, spread evenly over all.
        log_likelihood: of each image's class.
        scale: of its gradient; 0 is plain ancestral sampling.
        bounded: keeps x_0 where images are, float32 [b, c, h, w] -> likewise.
    """

    process: Process
    steps: int
    log_likelihood: LogLikelihood
    scale: float
    bounded: Callable[[Tensor], Tensor] = PIXELS.bounded

    def __call__(self, clean: Clean, x: Tensor, fresh: Fresh) -> Tensor:
        """From noise to images, float32 [b, c, h, w]."""
        shares = self.process.shares
        taus = torch.linspace(DIFFUSION_STEPS - 1, 0, self.steps, device=x.device).round().long()
        for i, tau in enumerate(taus):
            share = shares[tau]
            before = shares[taus[i + 1]] if i + 1 < self.steps else torch.ones_like(share)
            seen = self.bounded(clean(x, self.process.level(tau)))
            step = Step.between(share, before)
            x = self.mean(step, x, seen)
            x = x + step.variance.sqrt() * fresh()
        return x

    def mean(self, step: Step, x: Tensor, clean: Tensor) -> Tensor:
        """Mu + scale x variance x grad_x log p(y | x_tau).

        Args:
            step: where it leads.
            x: float32 [b, c, h, w].
            clean: the denoiser's x_0, likewise.
        """
        with torch.enable_grad():
            inputs = x.detach().requires_grad_()
            likelihood = self.log_likelihood(inputs).sum()
            (gradient,) = torch.autograd.grad(likelihood, inputs)
        return step.of_clean * clean + step.of_noisy * x + self.scale * step.variance * gradient
