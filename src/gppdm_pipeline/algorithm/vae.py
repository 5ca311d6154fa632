"""A conditional convolutional VAE: the cheap generator.

Kingma & Welling 2014 (arXiv 1312.6114), with the class given to encoder and decoder (Sohn et al.
2015, "Learning structured output representation using deep conditional generative models").

Notation: b images a batch; (c, h, w) = channels, height, width; d = latent dimensions; x in [0, 1]
the pixels, which the decoder gives as the means of Bernoulli variables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from gppdm_pipeline.algorithm.classifier.growth import load_grown, tensors_of
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.disk.checkpoints import Training
from gppdm_pipeline.algorithm.fitting.batches import Pixels, balanced_indices
from gppdm_pipeline.algorithm.fitting.graphs import on, rate, recorded
from gppdm_pipeline.algorithm.fitting.log import LossRecorder, StageLog
from gppdm_pipeline.algorithm.fitting.schedule import warm_up_then_cosine
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.images.labelled import IN_MEMORY, LabelledImages, Room

DRAWING_BATCH = 1024


class VaeConfig(BaseModel):
    """Architecture and budget of the VAE."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: Annotated[int, Field(ge=8, le=512, multiple_of=8)] = 32
    """Channels at half the resolution; doubled at a quarter of it."""
    latent_dim: Annotated[int, Field(ge=1)] = 32
    kl_weight: Annotated[float, Field(gt=0)] = 1.0
    """Of the divergence from the prior; 1 is the evidence lower bound."""
    steps: Annotated[int, Field(ge=1)] = 1000
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-3


class ConvVae(nn.Module):
    """Encoder and decoder with two halvings each.

    Args:
        image_shape: (height, width, channels), for which `check_image_shape` holds.
        width: channels at half the resolution.
        latent_dim: d.
        classes: number of classes that it is told apart.
    """

    def __init__(
        self, image_shape: Sequence[int], width: int, latent_dim: int, classes: int
    ) -> None:
        super().__init__()
        height, breadth, channels = image_shape
        self.lowest = (2 * width, height // 4, breadth // 4)
        features = 2 * width * self.lowest[1] * self.lowest[2]
        self.encoder_labels = nn.Embedding(classes, 2 * width)
        self.decoder_labels = nn.Embedding(classes, latent_dim)
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(inplace=True),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        )
        self.to_latent = nn.Sequential(
            nn.GroupNorm(8, 2 * width), nn.SiLU(), nn.Flatten(), nn.Linear(features, 2 * latent_dim)
        )
        self.from_latent = nn.Linear(2 * latent_dim, features)
        self.decoder = nn.Sequential(
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(inplace=True),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1),
            nn.PixelShuffle(2),
            nn.GroupNorm(8, width),
            nn.SiLU(inplace=True),
            nn.Conv2d(width, 4 * channels, 5, padding=2),
            nn.PixelShuffle(2),
        )

    def encode(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """X [b, c, h, w] in [0, 1] and classes int64 [b] -> mean and log variance, each [b, d]."""
        features = self.encoder(2 * x - 1) + self.encoder_labels(rows)[:, :, None, None]
        mean, log_variance = self.to_latent(features).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor, rows: Tensor) -> Tensor:
        """Latents [b, d] and classes int64 [b] -> logits of the pixels [b, c, h, w]."""
        features = self.from_latent(torch.cat([z, self.decoder_labels(rows)], dim=1))
        logits: Tensor = self.decoder(features.unflatten(1, self.lowest))
        return logits


def check_image_shape(image_shape: tuple[int, int, int]) -> None:
    """Raise ValueError if images of this (height, width, channels) cannot be halved twice."""
    height, width, _ = image_shape
    if height % 4 or width % 4:
        raise ValueError(
            f"images of {height}x{width} cannot be halved twice, which the VAE does; use images "
            "whose sides are multiples of 4, or another method"
        )


def negative_elbo(
    vae: ConvVae, x: Tensor, rows: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Kingma & Welling 2014, eq. 10, per image: reconstruction, and divergence from N(0, 1)."""
    mean, log_variance = vae.encode(x, rows)
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    logits = vae.decode(mean + (log_variance / 2).exp() * noise, rows)
    reconstruction = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
    return reconstruction / len(x), divergence / len(x)


def decoder_distance(
    vae: ConvVae, teacher: ConvVae, classes: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """How far the decoder is from an earlier one on its classes, at latents of the prior.

    Args:
        vae: the one that learns.
        teacher: the earlier one.
        classes: int64 [k], rows that both know.
        count: of latents.
        generator: on the classes' device.

    Returns:
        The cross-entropy with the teacher's pixels, per image.
    """
    chosen = torch.randint(len(classes), (count,), generator=generator, device=classes.device)
    rows = classes[chosen]
    width = vae.decoder_labels.embedding_dim
    z = torch.randn(count, width, generator=generator, device=classes.device)
    with torch.no_grad():
        x = teacher.decode(z, rows).sigmoid()
    distance = nn.functional.binary_cross_entropy_with_logits(
        vae.decode(z, rows), x, reduction="sum"
    )
    return distance / count


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
    teacher = build_vae(state.extras["vae"]).to(context.device) if len(held) else None
    from_images = config.batch_size
    if teacher:
        from_images -= max(1, config.batch_size * len(held) // len(state.classes))
    pixels = Pixels(images.images, context.device)
    generator = context.generator("train_generator")
    parameters = list(vae.parameters())
    device = context.device
    optimiser = torch.optim.Adam(parameters, lr=rate(config.learning_rate, device), **on(device))
    schedule = warm_up_then_cosine(optimiser, config.steps)
    recorder = LossRecorder()
    batches = balanced_indices(rows, config.steps, from_images, generator)
    training = Training(parameters, optimiser, schedule, generator, recorder)
    checkpoint = context.checkpoints("train_generator")

    def step(batch: Tensor) -> dict[str, Tensor]:
        x = (pixels[batch] + 1) / 2
        reconstruction, divergence = negative_elbo(vae, x, rows[batch], generator)
        loss = reconstruction + config.kl_weight * divergence
        losses = {"reconstruction_loss": reconstruction, "divergence": divergence}
        if teacher:
            count = config.batch_size - from_images
            distance = decoder_distance(vae, teacher, held, count, generator)
            losses["distillation_loss"] = distance
            loss = (from_images * loss + count * distance) / config.batch_size
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return {name: loss.detach() for name, loss in losses.items()}

    take = recorded(step, generator)
    with context.progress(config.steps, "train_generator") as bar:
        for steps, batch in training.remaining(batches, checkpoint):
            losses = take(batch)
            schedule.step()
            bar.advance(steps, **recorder.add(**losses))
    shape = {"image_shape": list(state.image_shape or ()), "width": config.width}
    shape |= {"latent_dim": config.latent_dim, "classes": len(state.classes)}
    weights = Weights(shape, tensors_of(vae))
    return replace(state, extras={**state.extras, "vae": weights}), StageLog(curves=recorder.curves)


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
        uint8 images, class after class.
    """
    vae = build_vae(state.extras["vae"]).to(context.device)
    latent_dim = vae.decoder_labels.embedding_dim
    labels = torch.tensor(classes).repeat_interleave(per_class)
    rows = _rows(state, labels.tolist(), context)
    assert state.image_shape is not None
    generator, room, done = context.generator(stage), Room((len(rows), *state.image_shape)), 0
    with context.progress(len(rows), stage) as bar:
        for part in rows.split(DRAWING_BATCH):
            z = torch.randn(len(part), latent_dim, generator=generator, device=rows.device)
            pixels = (vae.decode(z, part).sigmoid() * 255).round().to(torch.uint8)
            room.put(done, pixels.permute(0, 2, 3, 1).cpu().numpy())
            done += len(part)
            bar.advance(len(part))
    return LabelledImages(room.images, labels.numpy())


@torch.no_grad()
def reconstruction_residuals(
    state: LearnerState, images: LabelledImages, context: Context
) -> Tensor:
    """What the VAE leaves out of images: float32 [n, c, h, w], in units of [-1, 1].

    Of all of them, or of as many, drawn at random, as `IN_MEMORY` bytes hold.
    """
    most = max(1, IN_MEMORY // (4 * math.prod(images.image_shape)))
    if len(images) > most:
        drawn = torch.randperm(
            len(images), generator=context.generator("texture"), device=context.device
        )
        images = images.select(drawn[:most].cpu().numpy())
    vae = build_vae(state.extras["vae"]).to(context.device)
    rows = _rows(state, images.labels.tolist(), context)
    pixels, parts = Pixels(images.images, context.device), []
    for part in torch.arange(len(rows), device=rows.device).split(DRAWING_BATCH):
        x = pixels[part]
        mean, _ = vae.encode((x + 1) / 2, rows[part])
        parts.append(x - (2 * vae.decode(mean, rows[part]).sigmoid() - 1))
    return torch.cat(parts)


def build_vae(weights: Weights) -> ConvVae:
    """The VAE that `weights` describes, in evaluation mode, on the CPU."""
    vae = ConvVae(**weights.config)
    vae.load_state_dict(weights.tensors)
    return vae.eval().requires_grad_(False)


def _rows(state: LearnerState, labels: Sequence[int], context: Context) -> Tensor:
    row_of = {label: row for row, label in enumerate(state.classes)}
    return torch.tensor([row_of[k] for k in labels], dtype=torch.long, device=context.device)


def _grown(state: LearnerState, config: VaeConfig, context: Context) -> ConvVae:
    assert state.image_shape is not None
    with context.initialisation("vae"):
        vae = ConvVae(state.image_shape, config.width, config.latent_dim, len(state.classes))
    if "vae" in state.extras:
        load_grown(vae, state.extras["vae"].tensors)
    return vae
