"""Training with differential privacy: DP-SGD (Abadi et al. 2016, arXiv 1607.00133), by Opacus.

Every image is in a step's batch by a draw of its own (Poisson sampling); each image's gradient, of
all that moves together, is cut to a norm C; Gaussian noise of standard deviation sigma C is added
to their sum. Whatever is made of that, by any optimiser, tells of no image more than the accountant
says. It holds if nothing of an image's loss depends on the other images of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from gppdm_pipeline.configuration.base import Config

if TYPE_CHECKING:
    from gppdm_pipeline.algorithm.fitting.loop import Objective

_AT_A_TIME = 64  # images, each of which has a gradient of its own in memory
_MORE_ORDERS = (1.01, 1.03, 80, 128, 256, 512, 1024)
"""Of Renyi divergence, beside Opacus' own ones: little and much noise are told best by these."""
_LEAST = 0.3  # sigma, below which epsilon is in the hundreds


class PrivateConfig(Config):
    """How much a training may tell of a single image."""

    noise_multiplier: Annotated[float, Field(ge=0)] = 0.0
    """sigma: the noise's standard deviation over `max_grad_norm`; 0: training is not private."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """C: the norm at most of one image's gradient."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """At which epsilon is told: far below one over the number of images."""
    secret: bool = False
    """Whether all that is random in the training comes from the operating system, and not from the
    seed, which whoever knows it could use to take the noise away. No second run gives the same."""

    @property
    def on(self) -> bool:
        """Whether training is private."""
        return self.noise_multiplier > 0

    @field_validator("noise_multiplier")
    @classmethod
    def _promises_something(cls, value: float) -> float:
        if 0 < value < _LEAST:
            raise ValueError(
                f"{value:g} is so little noise that nothing is promised; use 0, which is not "
                f"private, or {_LEAST} at least (1 is usual)"
            )
        return value


class Spent(NamedTuple):
    """What a training has told: steps of a Gaussian mechanism on a Poisson sample.

    Attributes:
        noise_multiplier: sigma.
        sample_rate: q, of the image that is drawn most often.
        steps: how many.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int


@dataclass(frozen=True)
class Private:
    """What makes a training private.

    Attributes:
        config: noise and norm.
        network: holds all that moves.
    """

    config: PrivateConfig
    network: nn.Module

    def spends(
        self, labels: Tensor, steps: int, batch_size: int, weights: Tensor | None = None
    ) -> Spent:
        """What a training of so many steps tells; the rest as of `sampling_rates`."""
        rates = sampling_rates(labels, batch_size, weights)
        return Spent(self.config.noise_multiplier, float(rates.max()), steps)


def epsilon_of(spent: Iterable[Spent], delta: float) -> float:
    """Epsilon of trainings one after the other, all on the same images, by Opacus' accountant.

    Of Renyi differential privacy (Mironov et al. 2019, arXiv 1908.10530), for images that are added
    or removed.
    """
    from opacus.accountants import RDPAccountant  # noqa: PLC0415 (an extra; takes seconds)

    accountant = RDPAccountant()
    accountant.history = [tuple(each) for each in spent]
    orders = sorted([*RDPAccountant.DEFAULT_ALPHAS, *_MORE_ORDERS])
    return float(accountant.get_epsilon(delta, alphas=orders))


def sampling_rates(labels: Tensor, batch_size: int, weights: Tensor | None = None) -> Tensor:
    """How likely each image is to be in a batch, so that `batch_size` are expected.

    Classes come equally often, or by their weights, as of `balanced_indices`. How many images a
    class has is thereby told.

    Args:
        labels: int64 [n], the class of each image, 0 <= label < k.
        batch_size: expected; less where a class has too few images.
        weights: float32 [k], how often each class comes in proportion; None: all alike.

    Returns:
        float32 [n], at most 1.
    """
    counts = labels.bincount()
    shares = (counts > 0).float() if weights is None else weights[: len(counts)] * (counts > 0)
    rates = batch_size * shares / shares.sum() / counts.clamp_min(1)
    return rates[labels].clamp_max(1)


def poisson_batches(
    labels: Tensor,
    steps: int,
    batch_size: int,
    generator: torch.Generator,
    weights: Tensor | None = None,
) -> list[Tensor]:
    """Which images each step sees: each image by a draw of its own, none of them perhaps.

    Args:
        labels: as of `sampling_rates`.
        steps: number of batches.
        batch_size: as of `sampling_rates`.
        generator: on the labels' device.
        weights: as of `sampling_rates`.

    Returns:
        Of each step, int64 of any number, indices into the images.
    """
    rates = sampling_rates(labels, batch_size, weights)
    drawn = (torch.rand(len(rates), generator=generator, device=rates.device) for _ in range(steps))
    return [(chance < rates).nonzero().squeeze(1) for chance in drawn]


class PrivateGradients:
    """Sets the gradient of a batch: of its images' cut gradients the sum, with noise, over b.

    Args:
        private: noise, norm, and what moves.
        objective: whose losses of an image depend on no other image.
        optimiser: of all that moves and requires gradients.
        expected: b, images of a batch on average.
        generator: of the noise, on the parameters' device.
    """

    def __init__(
        self,
        private: Private,
        objective: Objective,
        optimiser: Optimizer,
        expected: int,
        generator: torch.Generator,
    ) -> None:
        from opacus.optimizers import DPOptimizer  # noqa: PLC0415 (an extra; takes seconds)

        self._expected, self._network = expected, _LossesOf(private.network, objective)
        free = self._network.named_parameters()
        self._free = {name: p for name, p in free if p.requires_grad and p.numel()}
        self._noisy = DPOptimizer(
            optimiser,
            noise_multiplier=private.config.noise_multiplier,
            max_grad_norm=private.config.max_grad_norm,
            expected_batch_size=expected,
            generator=generator,
            secure_mode=private.config.secret,
        )

    def __call__(self, drawn: Sequence[Tensor]) -> dict[str, Tensor]:
        """The losses, summed over the images over b; `drawn` is as an objective's, any number."""
        self._noisy.zero_grad(set_to_none=True)
        found: dict[str, Tensor] = {}
        for part in zip(*(tensor.split(_AT_A_TIME) for tensor in drawn), strict=True):
            gradients, losses = self.of_each(part)
            for name, parameter in self._free.items():
                parameter.grad_sample = gradients[name]  # type: ignore[attr-defined]
            self._noisy.clip_and_accumulate()
            for name, loss in losses.items():
                found[name] = found.get(name, 0) + loss.sum() / self._expected
        self._noisy.add_noise()
        self._noisy.scale_grad()
        return found

    def of_each(self, drawn: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Each image's gradient, by parameter [b, ...], and losses, by name [b]."""
        now = {name: parameter.detach() for name, parameter in self._free.items()}
        if not len(drawn[0]):
            none = {name: value.new_zeros(0, *value.shape) for name, value in now.items()}
            return none, {}

        def total(values: dict[str, Tensor], *image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            found: tuple[Tensor, dict[str, Tensor]] = functional_call(self._network, values, image)
            return found

        each = vmap(grad_and_value(total, has_aux=True), in_dims=(None, *[0] * len(drawn)))
        with sdpa_kernel(SDPBackend.MATH):  # of the others, vmap knows none
            gradients, (_, losses) = each(now, *drawn)
        return gradients, losses


class _LossesOf(nn.Module):
    """What is minimised of one image, and its losses, as a function of all that a network holds."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network, self._objective = network, objective

    def forward(self, *image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Of what was drawn of it, without the axis of the batch."""
        losses = self._objective.losses([tensor[None] for tensor in image])
        return self._objective.total(losses), losses
