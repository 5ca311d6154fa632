"""A pull of new classes towards the old class whose label is nearest.

Doan et al. 2023 (arXiv 2312.06710 v1), as in the code of its authors: what the denoiser says to a
noisy image of a new class, under its own label, is pulled towards what it says to the same under
the label of the old class that is nearest by the cosine of their embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gppdm_pipeline.algorithm.diffusion.network import Denoiser, NoisyBatch
from gppdm_pipeline.algorithm.fitting.graphs import rows_where


@dataclass(frozen=True)
class NearestLabel:
    """The pull, for the classes of a table.

    Attributes:
        nearest: int64 [k], for each row the row of the nearest old label; -1 for old classes.
        embeddings: float32 [k, d], of each row.
        noise_shares: float32 [T], how a squared difference of predictions at tau compares with one
            of noise: abar_tau for v (noise = sigma x + sqrt(abar) v), 1 for the noise itself.
        weight: of the term.
    """

    nearest: Tensor
    embeddings: Tensor
    noise_shares: Tensor
    weight: float

    @classmethod
    def between(
        cls,
        vectors: Tensor,
        embeddings: Tensor,
        old: int,
        shares: Tensor,
        prediction: str,
        weight: float,
    ) -> NearestLabel:
        """The pull from the rows at `old` and later to those before.

        Args:
            vectors: float64 [k, width], by which labels are near: as they were before they were
                fitted to the denoiser, which may turn neighbours round.
            embeddings: float32 [k, d], what the denoiser is told.
            old: how many rows, the first, are old classes; 1 at least.
            shares: abar, float32 [T].
            prediction: "v_prediction" or "epsilon".
            weight: of the term.
        """
        directions = nn.functional.normalize(vectors.to(embeddings.device), dim=1)
        nearest = torch.full((len(embeddings),), -1, device=embeddings.device)
        nearest[old:] = (directions[old:] @ directions[:old].T).argmax(1)
        of_noise = torch.ones_like(shares) if prediction == "epsilon" else shares
        return cls(nearest, embeddings, of_noise, weight)

    def loss(
        self,
        denoiser: Denoiser,
        noisy: NoisyBatch,
        tokens: Tensor,
        prototypes: Tensor | None,
        output: Tensor,
        rows: Tensor,
        kept: Tensor,
    ) -> Tensor:
        """Weight x mean over new classes' images of tau x mean square of the difference, a scalar.

        The old label takes the place of the new one; the prototype stays. Nothing learns from what
        is said with the old label. Images whose label is dropped do not count.

        Args:
            denoiser: the one that learns.
            noisy: the batch.
            tokens: its condition, float32 [b, tokens, d], the label first.
            prototypes: likewise, float32 [b, c, h, w] or None.
            output: what the denoiser said, float32 [b, c, h, w].
            rows: int64 [b], of the batch's classes.
            kept: bool [b], where the label is kept.
        """
        counts = (self.nearest[rows] >= 0) & kept
        new = rows_where(counts)
        if not len(new):
            return output.new_zeros(())
        tau = noisy.tau[new]
        with torch.no_grad():
            swapped = tokens[new].clone()
            swapped[:, 0] = self.embeddings[self.nearest[rows[new]]]
            images = None if prototypes is None else prototypes[new]
            nearest = denoiser(noisy.x[new], tau, swapped, images)
        difference: Tensor = (output[new] - nearest).square().mean((1, 2, 3))
        weights = counts[new] / counts.sum().clamp_min(1)
        loss: Tensor = (tau * self.noise_shares[tau] * difference * weights).sum()
        return self.weight * loss
