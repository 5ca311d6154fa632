"""A conditional VAE: the cheap generator.

Kingma & Welling 2014 (arXiv 1312.6114), with the class given to encoder and decoder (Sohn et al.
2015, "Learning structured output representation using deep conditional generative models").
b images a batch; (c, h, w) channels, height, width; d latent dimensions; x what the VAE is shown:
pixels in [0, 1], or vectors of about unit scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gppdm_pipeline.algorithm.classifier.growth import load_grown, tensors_of
from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.fitting.batches import PIXELS, Pixels
from gppdm_pipeline.algorithm.fitting.graphs import on, rate
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.fitting.loop import Budget, Moving, Objective, fit
from gppdm_pipeline.algorithm.fitting.scale import scale_of
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.algorithm.vae_networks import Vae, vae_class
from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.images.labelled import IN_MEMORY, LabelledImages, Room

DRAWING_BATCH = 1024


class VaeConfig(Config):
    """Architecture and budget of the VAE."""

    width: Annotated[int, Field(ge=8, le=512, multiple_of=8)] = 32
    """Channels at half the resolution; doubled at a quarter of it. Of vectors, which an MLP learns,
    a sixteenth of its hidden units."""
    latent_dim: Annotated[int, Field(ge=1)] = 32
    kl_weight: Annotated[float, Field(gt=0)] = 1.0
    """Of the divergence from the prior; 1 is the evidence lower bound."""
    steps: Annotated[int, Field(ge=1)] = 1000
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-3


def negative_elbo(vae: Vae, x: Tensor, rows: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Kingma & Welling 2014, eq. 10, per image: reconstruction, and divergence from N(0, 1).

    Args:
        vae: the model.
        x: float32 [b, c, h, w].
        rows: int64 [b], classes.
        noise: float32 [b, d], of the latents.
    """
    mean, log_variance = vae.encode(x, rows)
    reconstruction = vae.distance(vae.decode(mean + (log_variance / 2).exp() * noise, rows), x)
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
    return reconstruction / len(x), divergence / len(x)


def decoder_distance(vae: Vae, teacher: Vae, z: Tensor, rows: Tensor) -> Tensor:
    """How far the decoder is from what an earlier one says, summed over the latents.

    Args:
        vae: the one that learns.
        teacher: the earlier one.
        z: latents of the prior, float32 [m, d].
        rows: int64 [m], classes that both know.
    """
    with torch.no_grad():
        x = teacher.said(teacher.decode(z, rows))
    return vae.distance(vae.decode(z, rows), x)


class _Vae(Objective):
    """Negative evidence lower bound of images, and distance from the VAE before on held classes.

    `rows` are the images' classes; `held` those that have no image, which the teacher knows.
    """

    def __init__(
        self,
        vae: Vae,
        images: Pixels,
        rows: Tensor,
        config: VaeConfig,
        teacher: Vae | None,
        held: Tensor,
    ) -> None:
        self._vae, self._images, self._rows, self._config = vae, images, rows, config
        self._teacher, self._held = teacher, held
        classes = vae.decoder_labels.num_embeddings
        self.beside = max(1, config.batch_size * len(held) // classes) if teacher else 0
        self.from_images = config.batch_size - self.beside

    def drawn(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Images, classes, noise; and latents with classes that are held, if there are any."""
        device, width = batch.device, self._vae.decoder_labels.embedding_dim
        noise = torch.randn(len(batch), width, generator=generator, device=device)
        shown = self._vae.shown(self._images[batch]), self._rows[batch], noise
        if not self.beside:
            return shown
        count = (self.beside,)
        chosen = torch.randint(len(self._held), count, generator=generator, device=device)
        z = torch.randn(*count, width, generator=generator, device=device)
        return *shown, z, self._held[chosen]

    def losses(self, drawn: Sequence[Tensor]) -> dict[str, Tensor]:
        """`reconstruction_loss`, `divergence` and, if classes are held, `distillation_loss`."""
        x, rows, noise, *latents = drawn
        reconstruction, divergence = negative_elbo(self._vae, x, rows, noise)
        losses = {"reconstruction_loss": reconstruction, "divergence": divergence}
        if self._teacher:
            z, held = latents
            distance = decoder_distance(self._vae, self._teacher, z, held) / self.beside
            share = len(x) / self.from_images  # of a part, which may have another of the latents
            losses["distillation_loss"] = distance / share
        return losses

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """Images and latents count alike."""
        total = losses["reconstruction_loss"] + self._config.kl_weight * losses["divergence"]
        if self._teacher:
            distance = self.beside * losses["distillation_loss"]
            total = (self.from_images * total + distance) / self._config.batch_size
        return total


def fit_vae(
    state: LearnerState, config: VaeConfig, images: LabelledImages, context: Context
) -> tuple[LearnerState, StageLog]:
    """Train the VAE of `state` on `images`, classes drawn equally often.

    Old classes that are not among the images are held by distillation: the decoder learns to say
    what the one before says to the same latents.

    Args:
        state: with the current task begun; it starts from the VAE of the task before.
        config: architecture and budget.
        images: of the new classes, and replay of old ones if they shall be learnt again from it.
        context: seed, task, device, progress.

    Returns:
        The state with the new VAE, and the log: curves `reconstruction_loss`, `divergence` and, if
        there are such classes, `distillation_loss`.
    """
    vae = _grown(state, config, context).to(context.device).train()
    rows = _rows(state, images.labels.tolist(), context)
    held = _rows(state, [k for k in state.classes if k not in images.classes], context)
    teacher = build_vae(state).to(context.device) if len(held) else None
    given = scale_of(state, context.device).given
    objective = _Vae(vae, Pixels(images.images, context.device, given), rows, config, teacher, held)
    parameters, device = list(vae.parameters()), context.device
    optimiser = torch.optim.Adam(parameters, lr=rate(config.learning_rate, device), **on(device))
    budget = Budget(config.steps, objective.from_images)
    log = fit(objective, Moving(parameters, optimiser), rows, budget, context, "train_generator")
    shape = {"image_shape": list(state.image_shape or ()), "width": config.width}
    shape |= {"latent_dim": config.latent_dim, "classes": len(state.classes)}
    weights = Weights(shape, tensors_of(vae))
    return replace(state, extras={**state.extras, "vae": weights}), log


@torch.no_grad()
def draw_from_vae(
    state: LearnerState, classes: Sequence[int], per_class: int, context: Context, stage: str
) -> LabelledImages:
    """Draw `per_class` images of each of `classes`: z from N(0, 1), x the decoder's means.

    Args:
        state: with a VAE that knows the classes.
        classes: any it knows.
        per_class: how many of each, at least 1.
        context: seed, task, device, progress.
        stage: names the random numbers, and the bar.

    Returns:
        Images as they are stored (uint8 or float16), class after class.
    """
    vae = build_vae(state).to(context.device)
    latent_dim = vae.decoder_labels.embedding_dim
    labels = torch.tensor(classes).repeat_interleave(per_class)
    rows = _rows(state, labels.tolist(), context)
    assert state.image_shape is not None
    generator, scale, done = context.generator(stage), scale_of(state, context.device), 0
    room = Room((len(rows), *state.image_shape), scale.dtype)
    with context.progress(len(rows), stage) as bar:
        for part in rows.split(DRAWING_BATCH):
            z = torch.randn(len(part), latent_dim, generator=generator, device=rows.device)
            stored = context.team.in_parts(
                lambda z, rows: vae.stored(vae.decode(z, rows), scale), z, part
            )
            room.put(done, stored.permute(0, 2, 3, 1).cpu().numpy())
            done += len(part)
            bar.advance(len(part))
    return LabelledImages(room.images, labels.numpy())


@torch.no_grad()
def reconstruction_residuals(
    state: LearnerState, images: LabelledImages, context: Context
) -> Tensor:
    """What the VAE leaves out of images: float32 [n, c, h, w], in units that a classifier is given.

    Of all of them, or of as many, drawn at random, as `IN_MEMORY` bytes hold.
    """
    most = max(1, IN_MEMORY // (4 * math.prod(images.image_shape)))
    if len(images) > most:
        generator = context.generator("texture")
        drawn = torch.randperm(len(images), generator=generator, device=context.device)
        images = images.select(drawn[:most].cpu().numpy())
    vae = build_vae(state).to(context.device)
    rows = _rows(state, images.labels.tolist(), context)
    scale, parts = scale_of(state, context.device), []
    pixels = Pixels(images.images, context.device, scale.given)

    def left_out(part: Tensor) -> Tensor:
        x = pixels[part]
        mean, _ = vae.encode(vae.shown(x), rows[part])
        said = vae.given(vae.decode(mean, rows[part]))
        return scale.numbers(x) - scale.numbers(said)

    for part in torch.arange(len(rows), device=rows.device).split(DRAWING_BATCH):
        parts.append(context.team.in_parts(left_out, part))
    return torch.cat(parts)


def build_vae(state: LearnerState) -> Vae:
    """The VAE of a state, in evaluation mode, on the CPU."""
    weights, encoded = state.extras["vae"], scale_of(state, CPU) is not PIXELS
    vae = vae_class(weights.config["image_shape"], encoded)(**weights.config)
    vae.load_state_dict(weights.tensors)
    return vae.eval().requires_grad_(False)


def _rows(state: LearnerState, labels: Sequence[int], context: Context) -> Tensor:
    row_of = {label: row for row, label in enumerate(state.classes)}
    return torch.tensor([row_of[k] for k in labels], dtype=torch.long, device=context.device)


def _grown(state: LearnerState, config: VaeConfig, context: Context) -> Vae:
    shape = state.image_shape
    assert shape is not None
    with context.initialisation("vae"):
        vae = vae_class(shape, scale_of(state, CPU) is not PIXELS)(
            shape, config.width, config.latent_dim, len(state.classes)
        )
    if "vae" in state.extras:
        load_grown(vae, state.extras["vae"].tensors)
    return vae
