"""What one training step of the denoiser minimises."""

from __future__ import annotations

import torch
from torch import Tensor

from gppdm_pipeline.algorithm.condition import ConditionTable
from gppdm_pipeline.algorithm.denoiser import (
    Denoiser,
    DenoiserConfig,
    denoising_loss,
    loss_weights,
    noisy_batch,
    signal_shares,
)
from gppdm_pipeline.algorithm.distillation import Teacher
from gppdm_pipeline.algorithm.nearest_label import NearestLabel
from gppdm_pipeline.algorithm.pixels import Pixels


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

    def losses(
        self,
        denoiser: Denoiser,
        table: ConditionTable,
        batch: Tensor,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """The terms whose sum is minimised, scalars by name.

        Args:
            denoiser: that learns.
            table: of conditions; its new prototypes learn.
            batch: int64 [b], indices into the images.
            generator: of steps, noise and dropped labels.

        Returns:
            `denoiser_loss` and, if there is a pull, `nearest_label_loss`.
        """
        config, rows = self._config, self._rows[batch]
        noisy = noisy_batch(self._images[batch], self._shares, config.prediction, generator)
        drawn = torch.rand(len(batch), generator=generator, device=batch.device)
        kept = drawn >= config.label_dropout
        shared, which, prototypes = table.shared(rows, kept)
        target = noisy.target
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
