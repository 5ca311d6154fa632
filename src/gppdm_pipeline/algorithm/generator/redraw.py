"""Images are noised in part and drawn anew (SDEdit, Meng et al. 2021, arXiv 2108.01073)."""

from __future__ import annotations

import numpy as np
import torch

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.batches import Pixels
from gppdm_pipeline.algorithm.fitting.scale import scale_of
from gppdm_pipeline.algorithm.generator.draw import Solver, draw
from gppdm_pipeline.algorithm.generator.parts import GeneratorSettings
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages


def redrawn(
    state: LearnerState,
    images: LabelledImages,
    settings: GeneratorSettings,
    context: Context,
    stage: str,
    *,
    per_class: int,
    signal: float,
) -> LabelledImages:
    """Images noised until a share `signal` is left, and drawn anew from there by the generator.

    They vary as the given ones do in what is left, and look as generated ones do in the rest.

    Args:
        state: with a generator that knows the images' classes.
        images: any number.
        settings: of the generator.
        context: seed, task, device, progress.
        stage: names the random numbers, and the bar.
        per_class: at most so many of each class are drawn among them.
        signal: abar, above 0 and below 1.

    Returns:
        Images as they are stored (uint8 or float16), class after class.
    """
    generator = context.generator(f"{stage}, of")
    order = torch.randperm(len(images), generator=generator, device=context.device).cpu().numpy()
    of_class = [order[images.labels[order] == label][:per_class] for label in images.classes]
    images = images.select(np.concatenate(of_class))
    given = scale_of(state, context.device).given
    samplers = Solver(settings.replay, Pixels(images.images, context.device, given), signal)
    return draw(state, images.labels, settings, context, stage, samplers=samplers)
