"""From a finished run to images of its classes."""

from __future__ import annotations

import numpy as np

from gppdm_pipeline.algorithm.context import Context, resolve_device
from gppdm_pipeline.catalog.drawn import Drawn
from gppdm_pipeline.configuration.uses import DrawConfig
from gppdm_pipeline.evaluation.drawn_figure import drawn_figure, interpolation_figure
from gppdm_pipeline.evaluation.pictures import Picture
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods.ranks import on_all_ranks
from gppdm_pipeline.pipelines.progress import bars_of
from gppdm_pipeline.serving.interpolation import STEPS, interpolated
from gppdm_pipeline.serving.trained import TrainedRun


def draw(trained: TrainedRun, draw: DrawConfig, seed: int, device: str) -> Drawn:
    """Images of the classes asked for; the same ones for the same state, classes and seed."""
    learned = trained.learned
    number = len(learned.state.tasks) + 1  # as a task after the last one would replay them
    context = Context(seed, number, resolve_device(device), bars_of(number - 1, number - 1))
    classes = learned.labels(draw.classes)
    if draw.like is None:
        given = {"state": learned.state, "classes": classes, "per_class": draw.images}
        images = on_all_ranks(learned.learner.draw, context, **given)
    else:
        labels = np.repeat(np.array(classes, np.int64), draw.images)
        pixels = learned.predictor().pixels(draw.like)
        begun = LabelledImages(np.repeat(pixels[None], len(labels), 0), labels)
        (begun,) = learned.space.encoded([begun], context.device)
        given = {"state": learned.state, "images": begun, "signal": draw.signal}
        images = on_all_ranks(learned.learner.draw_like, context, **given)
    images = learned.space.pictures(images, learned.image_shape, context.device)
    return Drawn(images, learned.class_names, seed)


def interpolate(trained: TrainedRun, draw: DrawConfig, seed: int, device: str) -> Picture:
    """What is drawn of each class while its prototype moves towards that of another class."""
    assert draw.towards is not None
    learned, names = trained.learned, trained.learned.class_names
    (goal,) = learned.labels([draw.towards])
    context = Context(seed, len(learned.state.tasks) + 1, resolve_device(device))
    drawn = {
        names[label]: interpolated(learned, label, goal, context)
        for label in learned.labels(draw.classes)
        if label != goal
    }
    steps = np.linspace(0, 1, STEPS).round(3).tolist()
    rows = [{"class": name, "towards": names[goal], "share": s} for name in drawn for s in steps]
    return Picture(interpolation_figure(drawn, names[goal]), rows)


def arrange(drawn: Drawn) -> Picture:
    """The same as one picture, class after class."""
    names = [drawn.class_names[label] for label in drawn.images.labels]
    rows = [{"place": place, "label": name, "seed": drawn.seed} for place, name in enumerate(names)]
    return Picture(drawn_figure(drawn.images, drawn.class_names), rows)
