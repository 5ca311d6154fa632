"""What a generator draws while the prototype of one class moves to that of another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.fitting.scale import scale_of
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods.gppdm import Gppdm
from gppdm_pipeline.serving.trained import Learned

STEPS = 9
IMAGES = 4
"""Drawn at each step, each from the same noise as at the others."""


def interpolated(learned: Learned, label: int, goal: int, context: Context) -> NDArray[np.uint8]:
    """Prototypes (1 - s) a + s b for s from 0 to 1, and images drawn with them.

    The label token stays that of the first class, and so does how tokens are turned, so that what
    changes is the prototype's doing.

    Args:
        learned: by a method with prototypes.
        label: the class that is drawn.
        goal: the class whose prototype is at the end.
        context: seed, task, device.

    Returns:
        uint8 [1 + IMAGES, STEPS, h, w, c]; the prototypes first.
    """
    state, learner = learned.state, learned.learner
    assert isinstance(learner, Gppdm) and state.condition is not None
    few = learner.replay.model_copy(update={"images_per_class": IMAGES})
    learner = learner.model_copy(update={"replay": few})
    scale = scale_of(state, CPU)
    start, end = (state.condition.prototypes[each] for each in (label, goal))
    columns = []
    for share in np.linspace(0, 1, STEPS).tolist():
        prototype = (1 - share) * start + share * end
        prototypes = {**state.condition.prototypes, label: prototype}
        between = replace(state, condition=replace(state.condition, prototypes=prototypes))
        drawn = learner.draw(between, [label], IMAGES, context).images
        itself = scale.stored(prototype[None]).permute(0, 2, 3, 1).numpy()
        column = LabelledImages(np.concatenate([itself, drawn]), np.full(1 + IMAGES, label))
        shown = learned.space.pictures(column, learned.image_shape, context.device)
        columns.append(shown.images)
    return np.stack(columns, axis=1)
