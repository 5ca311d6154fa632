"""Generative distillation: the denoiser of the task before says what old classes' targets are.

Masip et al. 2023, "Continual learning of diffusion models with generative distillation", arXiv
2311.14028. A replayed image is a single draw from the old denoiser; what the old denoiser says to
it is all that it knows there, without the noise of a draw, at every step tau.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gppdm_pipeline.algorithm.diffusion.network import Denoiser, NoisyBatch
from gppdm_pipeline.algorithm.fitting.graphs import rows_where


@dataclass(frozen=True)
class Teacher:
    """The denoiser of the task before, and which images it is asked about.

    Attributes:
        denoiser: in evaluation mode, on the images' device.
        replayed: bool [n]; real images, of a class that has come back too, keep their targets.
        weight: share of its answer in the target, 0 to 1. The gradient is that of the sum of both
            losses, weighted (1 - weight) and weight: squared distances from two targets differ from
            the one from their mean by a constant.
    """

    denoiser: Denoiser
    replayed: Tensor
    weight: float

    @torch.no_grad()
    def targets(
        self, noisy: NoisyBatch, tokens: Tensor, prototypes: Tensor | None, batch: Tensor
    ) -> Tensor:
        """What the network should say, float32 [b, c, h, w].

        It takes one pass, over replayed images alone; on CUDA over all (see `rows_where`).

        Where the condition is dropped, the teacher is asked without one, too. Over old images it
        then gives the mean over old classes, and together with new images' own targets the network
        learns the mean over all.

        Args:
            noisy: the batch, with targets from the noise.
            tokens: its condition, float32 [b, tokens, d].
            prototypes: likewise, float32 [b, c, h, w] or None.
            batch: int64 [b], which images it is of.
        """
        replayed = self.replayed[batch]
        old = rows_where(replayed)
        if not len(old):
            return noisy.target
        images = None if prototypes is None else prototypes[old]
        answer = self.denoiser(noisy.x[old], noisy.tau[old], tokens[old], images)
        weights = self.weight * replayed[old, None, None, None]
        return noisy.target.index_copy(0, old, noisy.target[old].lerp(answer, weights))
