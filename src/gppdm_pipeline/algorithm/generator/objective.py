"""What the denoiser is trained to say: to images with noise, and what the one before says of them.

The denoising loss is that of Ho et al. 2020 (arXiv 2006.11239, eq. 14). Generative distillation
(Masip et al. 2023, arXiv 2311.14028): a replayed image is a single draw from the old denoiser; what
the old denoiser says to it is all that it knows there, without the noise of a draw, at every tau.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gppdm_pipeline.algorithm.condition.table import Conditions, ConditionTable
from gppdm_pipeline.algorithm.diffusion.network import Denoiser
from gppdm_pipeline.algorithm.diffusion.process import Noisy, Process
from gppdm_pipeline.algorithm.fitting.batches import Pixels
from gppdm_pipeline.algorithm.fitting.graphs import rows_where
from gppdm_pipeline.algorithm.fitting.loop import Objective


class Shown(NamedTuple):
    """b images as a step shows them.

    Attributes:
        x: float32 [b, c, h, w], with noise.
        tau: int64 [b], how much.
        target: float32 [b, c, h, w], what the network should say to it.
        rows: int64 [b], of the table of conditions.
        kept: bool [b], whose label is told.
        taught: bool [b], whose target the teacher says.
    """

    x: Tensor
    tau: Tensor
    target: Tensor
    rows: Tensor
    kept: Tensor
    taught: Tensor


@dataclass(frozen=True)
class Teacher:
    """The denoiser of the task before.

    Attributes:
        denoiser: in evaluation mode, on the images' device.
        weight: share of its answer in the target, 0 to 1. The gradient is that of the sum of both
            losses, weighted (1 - weight) and weight: squared distances from two targets differ from
            the one from their mean by a constant.
    """

    denoiser: Denoiser
    weight: float

    @torch.no_grad()
    def targets(self, noisy: Noisy, conditions: Conditions, taught: Tensor) -> Tensor:
        """What the network should say, float32 [b, c, h, w].

        It takes one pass, over taught images alone; on CUDA over all (see `rows_where`).

        Where the condition is dropped, the teacher is asked without one, too. Over old images it
        then gives the mean over old classes, and together with new images' own targets the network
        learns the mean over all.

        Args:
            noisy: the batch, with targets from the noise.
            conditions: of the batch.
            taught: bool [b], which images it is asked about: replayed ones. Real images, of a class
                that has come back too, keep their targets.
        """
        old = rows_where(taught)
        if not len(old):
            return noisy.target
        answer = self.denoiser(noisy.x[old], noisy.tau[old], conditions.of(old))
        weights = self.weight * taught[old, None, None, None]
        return noisy.target.index_copy(0, old, noisy.target[old].lerp(answer, weights))


class Examples(NamedTuple):
    """What the denoiser learns from: n images, on the training's device.

    Attributes:
        images: real and replayed ones.
        rows: int64 [n], each image's row in the table of conditions.
        replayed: bool [n], which of them are.
    """

    images: Pixels
    rows: Tensor
    replayed: Tensor


class DenoisingObjective(Objective):
    """The denoising loss over real and replayed images.

    Args:
        denoiser: that learns.
        table: of conditions; its new prototypes learn.
        examples: the images.
        process: noise and prediction.
        label_dropout: share of images shown without condition.
        teacher: says the targets of replayed images, if there is one.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        table: ConditionTable,
        examples: Examples,
        process: Process,
        label_dropout: float,
        teacher: Teacher | None = None,
    ) -> None:
        self._denoiser, self._table, self._examples = denoiser, table, examples
        self._process, self._dropout, self._teacher = process, label_dropout, teacher

    def drawn(self, batch: Tensor, generator: torch.Generator) -> Shown:
        """Images with noise, some without their label."""
        images, rows, replayed = self._examples
        noisy = self._process.noised(images[batch], generator)
        chance = torch.rand(len(batch), generator=generator, device=batch.device)
        return Shown(*noisy, rows[batch], chance >= self._dropout, replayed[batch])

    def losses(self, drawn: Sequence[Tensor]) -> dict[str, Tensor]:
        """`denoiser_loss`: the mean squared error of what the denoiser says."""
        x, tau, target, rows, kept, taught = drawn
        conditions = self._table(rows, kept)
        if self._teacher:
            target = self._teacher.targets(Noisy(x, tau, target), conditions, taught)
        return {"denoiser_loss": nn.functional.mse_loss(self._denoiser(x, tau, conditions), target)}
