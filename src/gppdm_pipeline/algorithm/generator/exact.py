"""Replay that is the same in every task, to the byte, and so is drawn once.

With adapters nothing that draws a class moves after its task. Here nothing else decides either: the
noise of image i of class c depends on (seed, c, i) alone, and images are drawn in batches of one
class that begin at the same i whatever else is drawn. (How a batch is composed decides the order of
sums, and so last bits.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.disk.checkpoint_files import digest
from gppdm_pipeline.algorithm.disk.checkpoints import Checkpoint, Snapshot
from gppdm_pipeline.algorithm.fitting.scale import scale_of
from gppdm_pipeline.algorithm.generator.draw import drawer_of, solver_of_classes
from gppdm_pipeline.algorithm.generator.gaussians import gaussian_of
from gppdm_pipeline.algorithm.generator.parts import GeneratorSettings
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages, Room


def exact_replay(
    state: LearnerState,
    counts: Mapping[int, int],
    settings: GeneratorSettings,
    context: Context,
    stage: str,
) -> LabelledImages:
    """The first images of each class; what `context.drawn` keeps of them is not drawn again.

    Args:
        state: with a generator that knows the classes.
        counts: class -> how many, from 1 to `replay.images_per_class`.
        settings: of the generator.
        context: seed, device, precision, progress, and where drawn images are kept.
        stage: names the bar.

    Returns:
        Images as they are stored (uint8 or float16), class after class.
    """
    assert state.image_shape is not None
    labels = np.repeat(np.array([*counts], np.int64), [*counts.values()])
    trunk = digest(state.denoiser)
    with context.progress(len(labels), stage) as bar:

        def pieces() -> Iterator[NDArray[Any]]:
            for label, count in counts.items():
                left = count
                for batch in _OfClass(label, state, settings, context, trunk).batches(count):
                    yield batch[:left]
                    bar.advance(min(left, len(batch)))
                    left -= len(batch)

        dtype = scale_of(state, context.device).dtype
        images = Room.of((len(labels), *state.image_shape), pieces(), dtype)
    return LabelledImages(images, labels)


@dataclass(frozen=True)
class _OfClass:
    """The replay of one class.

    Attributes:
        label: the class.
        state: with a generator that knows it.
        settings: of the generator.
        context: as of `exact_replay`.
        trunk: the digest of the state's denoiser.
    """

    label: int
    state: LearnerState
    settings: GeneratorSettings
    context: Context
    trunk: str

    def batches(self, count: int) -> Iterator[NDArray[Any]]:
        """Whole ones, of `count` images at least: those that are kept, then drawn ones."""
        place, done, most = self._place(), 0, self.settings.replay.images_per_class
        for part in place.parts():
            done = part.step
            yield part.tensors["images"].numpy()
            if done >= count:
                return
        device = self.context.device
        drawer = drawer_of(self.state, [self.label], self.settings, self.context)
        rows = torch.zeros(most, dtype=torch.int64, device=device)
        labels, numbers = np.full(most, self.label), np.arange(most)
        samplers = solver_of_classes(self.state, labels, numbers, self.settings, self.context)
        generator = torch.Generator(device)
        while done < count:
            end = min(done + self.settings.replay.batch_size, most)
            noise = torch.stack([self._noise(i) for i in range(done, end)]).to(device)
            images = drawer.batch(rows, done, noise, samplers, generator)
            tensors = {"images": torch.from_numpy(images)}
            place.offer(partial(Snapshot, end, tensors, follows=done), now=True)
            yield images
            done = end

    def _place(self) -> Checkpoint:
        """Where its images are kept, for as long as all that they come of stays the same."""
        assert self.state.condition is not None
        condition, adapter = self.state.condition, self.state.adapter_of(self.label)
        weights = None if adapter is None else self.state.adapters[adapter]
        told = tuple(
            of.get(self.label)
            for of in (condition.embeddings, condition.prototypes, condition.turns)
        )
        begun = gaussian_of(self.state, self.label)
        how = (self.context.seed, self.context.device.type, self.context.precision)
        given = (self.settings, self.trunk, weights, told, begun, condition.token_map, how)
        return self.context.drawn(f"class_{self.label}", *given)

    def _noise(self, number: int) -> Tensor:
        """Float32 [c, h, w], what an image is drawn from; from the CPU whatever the device."""
        assert self.state.image_shape is not None
        height, width, channels = self.state.image_shape
        name = f"replayed image {number} of class {self.label}"
        return torch.randn(channels, height, width, generator=self.context.fixed_generator(name))
