"""What one training step of the denoiser minimises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gppdm_pipeline.algorithm.condition.table import ConditionTable
from gppdm_pipeline.algorithm.diffusion.network import (
    Denoiser,
    DenoiserConfig,
    NoisyBatch,
    denoising_loss,
    loss_weights,
    noisy_batch,
    signal_shares,
)
from gppdm_pipeline.algorithm.fitting.batches import Pixels
from gppdm_pipeline.algorithm.generator.distillation import Teacher
from gppdm_pipeline.algorithm.generator.nearest_label import NearestLabel


class Drawn(NamedTuple):
    """b images as a step shows them.

    Attributes:
        batch: int64 [b], which they are.
        rows: int64 [b], of the table of conditions.
        x: float32 [b, c, h, w], with noise.
        tau: int64 [b], how much.
        target: float32 [b, c, h, w], what the network should say to it.
        kept: bool [b], whose label is told.
    """

    batch: Tensor
    rows: Tensor
    x: Tensor
    tau: Tensor
    target: Tensor
    kept: Tensor


class Objective:
    """The denoising loss (Ho et al. 2020, arXiv 2006.11239, eq. 14), and what is added to it.

    Args:
        images: n of them, real and replayed.
        rows: int64 [n], each image's row in the table of conditions.
        config: prediction, weighting, label dropout.
        teacher: says the targets of replayed images, if there is one.
        pull: towards old labels, if there is one.
    """

    def __init__(
        self,
        images: Pixels,
        rows: Tensor,
        config: DenoiserConfig,
        teacher: Teacher | None = None,
        pull: NearestLabel | None = None,
    ) -> None:
        self._images, self._rows, self._config = images, rows, config
        self._teacher, self._pull = teacher, pull
        self._shares = signal_shares(config, images.device)
        self._weights = loss_weights(config, self._shares)

    def drawn(self, batch: Tensor, generator: torch.Generator) -> Drawn:
        """The batch as it is shown.

        Args:
            batch: int64 [b], indices into the images.
            generator: of steps, noise and dropped labels.
        """
        prediction = self._config.prediction
        noisy = noisy_batch(self._images[batch], self._shares, prediction, generator)
        chance = torch.rand(len(batch), generator=generator, device=batch.device)
        kept = chance >= self._config.label_dropout
        return Drawn(batch, self._rows[batch], noisy.x, noisy.tau, noisy.target, kept)

    @property
    def whole(self) -> bool:
        """Whether a batch cannot be cut: the pull is a mean over some of its images."""
        return self._pull is not None

    def losses(
        self, denoiser: Denoiser, table: ConditionTable, drawn: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """The terms whose sum is minimised: means over the images, scalars by name.

        Args:
            denoiser: that learns.
            table: of conditions; its new prototypes learn.
            drawn: a batch, or a part of one, as of `Drawn`.

        Returns:
            `denoiser_loss` and, if there is a pull, `nearest_label_loss`.
        """
        batch, rows, x, tau, target, kept = drawn
        noisy = NoisyBatch(x, tau, target)
        shared, which, prototypes = table.shared(rows, kept)
        if self._teacher:
            target = self._teacher.targets(noisy, shared[which], prototypes, batch)
        output = denoiser(noisy.x, noisy.tau, shared, prototypes, which)
        weights = None if self._weights is None else self._weights[noisy.tau]
        losses = {"denoiser_loss": denoising_loss(output, target, weights)}
        if self._pull:
            losses["nearest_label_loss"] = self._pull.loss(
                denoiser, noisy, shared[which], prototypes, output, rows, kept
            )
        return losses
