"""The diffusion process: how images are noised, and what is seen of them through a prediction.

Notation: b images a batch; (c, h, w) = channels, height, width of an image; tau in 0..T-1 a
diffusion step, abar_tau the cumulated signal share (Ho et al. 2020, arXiv 2006.11239, eq. 4:
x_tau = sqrt(abar) x_0 + sqrt(1 - abar) noise).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gppdm_pipeline.algorithm.diffusion.network import DIFFUSION_STEPS, DenoiserConfig


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
