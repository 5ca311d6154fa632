"""Sampling guided by a classifier's gradient.

Dhariwal & Nichol 2021 (arXiv 2105.05233), algorithm 1, which DDGR (Gao & Liu 2023, ICML) replays
with: the ancestral sampler of DDPM (Ho et al. 2020, arXiv 2006.11239, eq. 6 and 7), over some of
the steps, whose mean is moved by scale x variance x grad_x log p(y | x).

Notation: b images; x the noisy images at step tau; abar_tau the cumulated signal share; y their
classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from gppdm_pipeline.algorithm.classifier.growth import tensors_of
from gppdm_pipeline.algorithm.classifier.network import ClassifierConfig, SmallConvNet, fit_network
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.network import (
    DIFFUSION_STEPS,
    DenoiserConfig,
    clean_images,
    noisy_batch,
    signal_shares,
)
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.images.labelled import LabelledImages

Variance = Literal["analytic", "small"]
"""Of a step, given the image: that of q (small; Ho et al. 2020, eq. 7), as if x_0 were known; or
that and what is not known of x_0 (analytic; see `residual_variance`)."""
LogLikelihood = Callable[[Tensor, Tensor], Tensor]
"""(x float32 [b, c, h, w], abar_tau float32 scalar) -> log p(y | x) of each image's class, [b]."""


@dataclass(frozen=True)
class Guide:
    """A classifier, and how hard it pulls.

    Attributes:
        network: float32 [b, c, h, w] -> logits [b, k]; the time-aware one takes c + 1 channels.
        columns: int64 [n], the output of each image that will be drawn.
        scale: of its gradient; 0 is plain ancestral sampling.
        time_aware: whether it is told the noise (see `with_noise_level`).
        variance: of the sampler's steps.
    """

    network: nn.Module
    columns: Tensor
    scale: float
    time_aware: bool
    variance: Variance = "small"

    def of(self, part: slice) -> LogLikelihood:
        """Log p(y | x) for the images at `part`."""
        columns = self.columns[part]

        def log_likelihood(x: Tensor, share: Tensor) -> Tensor:
            seen = with_noise_level(x, share.expand(len(x))) if self.time_aware else x
            logits: Tensor = self.network(seen)
            return logits.log_softmax(1).gather(1, columns[:, None]).squeeze(1)

        return log_likelihood


def with_noise_level(x: Tensor, shares: Tensor) -> Tensor:
    """Images [b, c, h, w] with a further channel of sqrt(abar_tau), shares [b]."""
    level = shares.sqrt()[:, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, level], dim=1)


@dataclass(frozen=True)
class Step:
    """From tau to an earlier step.

    q(x_before | x_tau, x_0) = N(of_clean x_0 + of_noisy x_tau, variance): Ho et al. 2020, eq. 7,
    with alpha = abar_tau / abar_before, since steps between the two are left out.
    """

    share: Tensor
    of_clean: Tensor
    of_noisy: Tensor
    variance: Tensor

    @classmethod
    def between(cls, share: Tensor, before: Tensor) -> Step:
        """From abar_tau to abar_before, each a scalar."""
        alpha = share / before
        beta = 1 - alpha
        return cls(
            share,
            before.sqrt() * beta / (1 - share),
            alpha.sqrt() * (1 - before) / (1 - share),
            beta * (1 - before) / (1 - share),
        )


def residual_variance(x: Tensor, clean: Tensor, share: Tensor) -> Tensor:
    """What x_tau leaves open of x_0, averaged over batch and pixels: a scalar in [0, 1].

    Bao et al. 2022 (Analytic-DPM, arXiv 2201.06503), theorem 1 with x_0 in [-1, 1]:
    (1 - abar) / abar (1 - E[noise said ^2]). The mean is taken over what is being drawn, not over
    training images, so that it costs nothing.

    Args:
        x: float32 [b, c, h, w].
        clean: the denoiser's x_0, likewise.
        share: abar_tau, a scalar.
    """
    noise = (x - share.sqrt() * clean) / (1 - share).sqrt()
    left = (1 - share) / share * (1 - noise.square().mean())
    return left.clamp(0, 1)


def guided_mean(
    step: Step, x: Tensor, clean: Tensor, log_likelihood: LogLikelihood, scale: float
) -> Tensor:
    """Mu + scale x variance x grad_x log p(y | x_tau): Dhariwal & Nichol 2021, algorithm 1.

    Args:
        step: where it leads.
        x: float32 [b, c, h, w].
        clean: the denoiser's x_0, likewise.
        log_likelihood: of each image's class.
        scale: of the gradient.
    """
    with torch.enable_grad():
        inputs = x.detach().requires_grad_()
        likelihood = log_likelihood(inputs, step.share).sum()
        (gradient,) = torch.autograd.grad(likelihood, inputs)
    return step.of_clean * clean + step.of_noisy * x + scale * step.variance * gradient


def ancestral(
    predict: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    shares: Tensor,
    prediction: str,
    sampler_steps: int,
    log_likelihood: LogLikelihood,
    scale: float,
    generator: torch.Generator,
    variance: Variance = "small",
) -> Tensor:
    """From noise to images, float32 [b, c, h, w].

    Args:
        predict: (x, tau) -> the denoiser's output.
        x: noise, float32 [b, c, h, w].
        shares: abar, float32 [T].
        prediction: "v_prediction" or "epsilon".
        sampler_steps: evaluations of the denoiser, spread evenly over the steps.
        log_likelihood: of each image's class.
        scale: of its gradient.
        generator: of the noise, on the images' device.
        variance: of the steps; small loses spread where steps are few.
    """
    taus = torch.linspace(DIFFUSION_STEPS - 1, 0, sampler_steps, device=x.device).round().long()
    for i, tau in enumerate(taus):
        share = shares[tau]
        before = shares[taus[i + 1]] if i + 1 < sampler_steps else torch.ones_like(share)
        clean = clean_images(x, predict(x, tau), share, prediction)
        step = Step.between(share, before)
        if variance == "analytic" and i + 1 < sampler_steps:
            more = step.of_clean**2 * residual_variance(x, clean, share)
            step = replace(step, variance=step.variance + more)
        x = guided_mean(step, x, clean, log_likelihood, scale)
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        x = x + step.variance.sqrt() * noise
    return x


def fit_guide(
    state: LearnerState,
    config: ClassifierConfig,
    denoiser: DenoiserConfig,
    images: LabelledImages,
    context: Context,
) -> tuple[LearnerState, StageLog]:
    """Train a classifier of noisy images that is told how noisy they are, anew in every task.

    Args:
        state: its `classes` are the outputs.
        config: of the classifier; the same architecture and budget.
        denoiser: its noise.
        images: of all classes, real and replayed.
        context: seed, task, device, progress.

    Returns:
        The state with the classifier as extra `guide`, and the log: curve `guide_loss`.
    """
    *size, channels = images.image_shape
    shape = {"image_shape": [*size, channels + 1], "width": config.width}
    shape |= {"classes": len(state.classes)}
    with context.initialisation("guide"):
        network = SmallConvNet((*size, channels + 1), config.width, len(state.classes))
    network.to(context.device)
    shares = signal_shares(denoiser, context.device)

    def noised(x: Tensor, generator: torch.Generator) -> Tensor:
        noisy = noisy_batch(x, shares, denoiser.prediction, generator)
        return with_noise_level(noisy.x, shares[noisy.tau])

    def objective(network: nn.Module, x: Tensor, outputs: Tensor) -> Tensor:
        return nn.functional.cross_entropy(network(x), outputs)

    log = fit_network(network, state, config, images, context, "train_guide", objective, noised)
    extras = {**state.extras, "guide": Weights(shape, tensors_of(network))}
    return replace(state, extras=extras), log
