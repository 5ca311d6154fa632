"""The reference arrangement: what the published code does at each step, written plainly.

It is the denominator of the ratios in docs/performance.md. The U-Net, the noise schedule and the
conditions are ours, so that both arrangements have the same weights and the same predictions; how
they are computed is that of the code published with Doan et al. 2023 (arXiv 2312.06710 v1):

- images, labels and prototypes in Python lists and dictionaries, gathered image by image, stacked;
- three forward passes a step: the denoising loss, what is said to new classes under their own
  label, and what is said under the nearest old one (weight 1e-4 x tau); the third without gradient;
- AdamW as torch has it by default, float32, no average of weights;
- two separate passes for guidance, the deterministic DDIM sampler (Song et al. 2021, arXiv
  2010.02502) in 100 steps, images appended to a list one by one.

Where the published code is slow for no reason of its method, it is not rendered: files an image,
embeddings looked up again for each step of the sampler, nearest labels searched in every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn

from gppdm_pipeline.algorithm.condition.table import prototype_tokens
from gppdm_pipeline.algorithm.diffusion.network import build_unet
from gppdm_pipeline.algorithm.diffusion.process import Process
from gppdm_pipeline.algorithm.generator.parts import GeneratorSettings
from gppdm_pipeline.algorithm.state import LearnerState

STEPS = 100
LABEL_DROPOUT = 0.2
NEAREST_WEIGHT = 1e-4
CLIP = 1.0


@dataclass
class Reference:
    """A generator in the reference arrangement.

    Attributes:
        unet: with the state's weights.
        settings: whose schedule, prediction type and patch are taken.
        labels: class -> its token, float32 [d].
        prototypes: class -> float32 [c, h, w]; those that learn are parameters.
        token_map: float32 [p, d, patch], as of `Condition`.
        shape: (channels, height, width).
        device: where everything is.
        passes: how many images the U-Net has been given.
    """

    unet: UNet2DConditionModel
    settings: GeneratorSettings
    labels: dict[int, Tensor]
    prototypes: dict[int, Tensor]
    token_map: Tensor
    shape: tuple[int, int, int]
    device: torch.device
    passes: int = field(default=0)

    @classmethod
    def of_state(
        cls, state: LearnerState, settings: GeneratorSettings, device: torch.device
    ) -> Reference:
        """From a state that has a generator, whose null condition is zeros."""
        assert not settings.condition.null_keeps_prototype
        assert state.denoiser is not None
        assert state.condition is not None
        assert state.image_shape is not None
        assert not state.condition.turns
        height, width, channels = state.image_shape
        condition = state.condition
        return cls(
            build_unet(state.denoiser).to(device),
            settings,
            {k: token.to(device) for k, token in condition.embeddings.items()},
            {k: image.to(device) for k, image in condition.prototypes.items()},
            condition.token_map.to(device),
            (channels, height, width),
            device,
        )

    def conditions(self, labels: list[int], kept: list[bool]) -> tuple[Tensor, Tensor | None]:
        """Tokens [b, 1 + p, d] and prototypes [b, c, h, w], one image after the other."""
        tokens, images = [], []
        for label, keeps in zip(labels, kept, strict=True):
            token, image = self.labels[label], self.prototypes[label]
            tokens.append(token if keeps else torch.zeros_like(token))
            images.append(image if keeps else torch.zeros_like(image))
        stacked, prototypes = torch.stack(tokens)[:, None], torch.stack(images)
        if len(self.token_map):
            shown = prototype_tokens(prototypes, self.token_map)
            stacked = torch.cat([stacked, shown], dim=1)
        return stacked, prototypes if self.settings.prototypes.concatenated else None

    def predict(self, x: Tensor, tau: Tensor, tokens: Tensor, prototypes: Tensor | None) -> Tensor:
        """One forward pass: [b, c, h, w] -> [b, c, h, w]."""
        self.passes += len(x)
        patch = self.settings.denoiser.patch
        if prototypes is not None:
            x = torch.cat([x, prototypes], dim=1)
        x = nn.functional.pixel_unshuffle(x, patch)
        output: Tensor = self.unet(x, tau, tokens, return_dict=False)[0]
        return nn.functional.pixel_shuffle(output, patch)

    def guided(self, x: Tensor, tau: Tensor, labels: list[int], guidance: float) -> Tensor:
        """(1 + w) e(z) - w e(null), a pass for each (Ho & Salimans 2022, arXiv 2207.12598)."""
        return self._guided(x, tau, guidance, self._both(labels))

    @torch.no_grad()
    def draw(
        self,
        labels: list[int],
        guidance: float | None,
        generator: torch.Generator,
        steps: int = STEPS,
        batch_size: int = 512,
    ) -> NDArray[np.uint8]:
        """One image for each label: uint8 [n, h, w, c].

        Args:
            labels: classes that the state knows.
            guidance: w; both passes are made whatever it is. None: conditional passes alone, which
                is less than the reference arrangement does.
            generator: of the starting noise.
            steps: of DDIM.
            batch_size: images drawn at a time.
        """
        self.unet.eval()
        # Clamping x_0 at every step, diffusers' default, ruins what guidance has overshot.
        config = self.settings.denoiser
        schedule = Process(config, self.device).schedule
        prediction = config.prediction
        sampler = DDIMScheduler(**schedule, prediction_type=prediction, clip_sample=False)
        sampler.set_timesteps(steps, device=self.device)
        images = []
        for start in range(0, len(labels), batch_size):
            batch = labels[start : start + batch_size]
            both = self._both(batch)
            x = torch.randn(len(batch), *self.shape, generator=generator, device=self.device)
            for tau in sampler.timesteps:
                if guidance is None:
                    output = self.predict(x, tau.expand(len(batch)), *both[0])
                else:
                    output = self._guided(x, tau.expand(len(batch)), guidance, both)
                x = sampler.step(output, tau, x, return_dict=False)[0]
            for image in x:
                pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
                images.append(pixels.permute(1, 2, 0).cpu().numpy())
        return np.stack(images)

    def _both(self, labels: list[int]) -> tuple[tuple[Tensor, Tensor | None], ...]:
        return tuple(self.conditions(labels, [kept] * len(labels)) for kept in (True, False))

    def _guided(
        self,
        x: Tensor,
        tau: Tensor,
        guidance: float,
        both: tuple[tuple[Tensor, Tensor | None], ...],
    ) -> Tensor:
        conditional, unconditional = (self.predict(x, tau, *condition) for condition in both)
        return (1 + guidance) * conditional - guidance * unconditional


class ReferenceTraining:
    """Training steps of the reference arrangement.

    Args:
        generator: that learns.
        new: its classes whose prototypes learn; every other class is old.
        images: float32 [c, h, w] in [-1, 1], one an image.
        labels: likewise.
        seed: of batches and noise.
    """

    def __init__(
        self,
        generator: Reference,
        new: list[int],
        images: list[Tensor],
        labels: list[int],
        seed: int = 0,
    ) -> None:
        self.generator, self.new = generator, new
        self._images, self._labels = images, labels
        self._random = torch.Generator(generator.device).manual_seed(seed)
        config = generator.settings.denoiser
        self._shares = Process(config, generator.device).shares
        for label in new:
            generator.prototypes[label] = nn.Parameter(generator.prototypes[label].clone())
        learnt = [generator.prototypes[label] for label in new]
        self._nearest = self._nearest_labels()
        rate = generator.settings.prototypes.learning_rate
        self._optimisers = [
            torch.optim.AdamW(generator.unet.parameters(), lr=config.learning_rate),
            torch.optim.AdamW(learnt, lr=rate),
        ]
        generator.unet.train()

    def step(self) -> float:
        """One batch; what it minimised."""
        size = self.generator.settings.denoiser.batch_size
        chosen = torch.randint(
            len(self._labels), (size,), generator=self._random, device=self.generator.device
        ).tolist()
        loss = self.loss([self._images[i] for i in chosen], [self._labels[i] for i in chosen])
        for optimiser in self._optimisers:
            optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.generator.unet.parameters(), CLIP)
        for optimiser in self._optimisers:
            optimiser.step()
        return float(loss.detach())

    def loss(self, images: list[Tensor], labels: list[int]) -> Tensor:
        """Of a batch: three passes (two where it has no new class, or there is no old one)."""
        reference, device = self.generator, self.generator.device
        clean = torch.stack(images)
        tau = torch.randint(
            len(self._shares), (len(labels),), generator=self._random, device=device
        )
        noise = torch.randn(clean.shape, generator=self._random, device=device)
        signal = self._shares[tau].sqrt()[:, None, None, None]
        sigma = (1 - self._shares[tau]).sqrt()[:, None, None, None]
        noisy = signal * clean + sigma * noise
        epsilon = reference.settings.denoiser.prediction == "epsilon"
        target = noise if epsilon else signal * noise - sigma * clean
        drawn = torch.rand(len(labels), generator=self._random, device=device).tolist()
        kept = [value >= LABEL_DROPOUT for value in drawn]
        output = reference.predict(noisy, tau, *reference.conditions(labels, kept))
        loss = nn.functional.mse_loss(output, target)
        new = [i for i, label in enumerate(labels) if label in self._nearest]
        if not new:
            return loss
        return loss + self._pull(noisy[new], tau[new], [labels[i] for i in new])

    def _pull(self, noisy: Tensor, tau: Tensor, labels: list[int]) -> Tensor:
        reference = self.generator
        own, prototypes = reference.conditions(labels, [True] * len(labels))
        said = reference.predict(noisy, tau, own, prototypes)
        with torch.no_grad():
            theirs = own.clone()
            theirs[:, 0] = torch.stack([reference.labels[self._nearest[k]] for k in labels])
            nearest = reference.predict(noisy, tau, theirs, prototypes)
        difference = (said - nearest).square().mean((1, 2, 3))
        return NEAREST_WEIGHT * (tau * difference).mean()

    def _nearest_labels(self) -> dict[int, int]:
        """New class -> the old one whose token is nearest by the cosine; empty if there is none."""
        tokens = self.generator.labels
        old = [label for label in tokens if label not in self.new]
        cosine = nn.functional.cosine_similarity
        return {
            label: max(old, key=lambda k: float(cosine(tokens[label], tokens[k], dim=0)))
            for label in (self.new if old else [])
        }
