"""The classifier over all classes seen: build, fit, predict.

n = images, k = classes seen, (h, w, c) = height, width, channels. Images enter as uint8
[n, h, w, c]; inside they are float32 [n, c, h, w] in [-1, 1]. What an encoder has made of images
enters as float16, and has its numbers inside, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from gppdm_pipeline.algorithm.classifier.growth import load_grown, tensors_of
from gppdm_pipeline.algorithm.classifier.networks import Network, trained_part, untrained
from gppdm_pipeline.algorithm.classifier.timm_net import SMALL, TIMM, TimmNet, described, folder_of
from gppdm_pipeline.algorithm.classifier.vectors import Head
from gppdm_pipeline.algorithm.context import Context, autocast
from gppdm_pipeline.algorithm.fitting.batches import Pixels, to_unit_range
from gppdm_pipeline.algorithm.fitting.graphs import on, rate
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.fitting.loop import Budget, Moving, Objective, fit
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.images.labelled import LabelledImages

PREDICTION_BATCH = 1024

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(network, images float32 [b, c, h, w], outputs int64 [b]) -> the loss, a mean over the images."""
Alteration = Callable[[Tensor, torch.Generator], Tensor]
"""(images float32 [b, c, h, w], generator) -> images as they are shown."""


class ClassifierConfig(Config):
    """The classifier's architecture and budget; the same for every method that is compared."""

    unwritten: ClassVar = {"head": None, "network": SMALL, "sees": "space"}

    width: Annotated[int, Field(ge=8, le=512, multiple_of=8)] = 32
    steps: Annotated[int, Field(ge=1)] = 600
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    start: Literal["previous", "anew"] = "previous"
    """Whether a task starts from the previous task's classifier (its head grows) or from noise."""
    head: Head | None = None
    """linear, or two_layer with 16 times `width` hidden units, of all numbers of an image; None: a
    small convolutional network of maps, and linear of vectors."""
    network: str = SMALL
    """small, which is what `head` says; timm:<name>, a model of timm from noise; or the folder of
    one, from its weights."""
    sees: Literal["space", "images"] = "space"
    """What it is given of the space that the stream is learnt in: what is stored, or, of latents,
    the images that they are decoded to."""

    @model_validator(mode="after")
    def _is_one_network(self) -> ClassifierConfig:
        if self.head is not None and self.network != SMALL:
            raise ValueError(
                "classifier.head is another classifier than classifier.network: leave one out"
            )
        return self


def build_classifier(weights: Weights) -> Network:
    """The network that `weights` describes, in evaluation mode, on the CPU."""
    network = untrained(weights.config)
    network.load_state_dict(weights.tensors)
    return network.eval().requires_grad_(False)


def _grown(
    state: LearnerState, config: Mapping[str, Any], settings: ClassifierConfig, context: Context
) -> Network:
    """A network with an output for every class of `state`, old outputs where they were."""
    with context.initialisation("classifier"):
        network = untrained(config)
    if state.classifier is not None and settings.start == "previous":
        load_grown(network, trained_part(state.classifier).tensors)
    elif isinstance(network, TimmNet) and not settings.network.startswith(TIMM):
        network.begin(folder_of(settings.network))
    return network


def as_seen(images: NDArray[Any], config: Mapping[str, Any], context: Context) -> NDArray[Any]:
    """Images as a classifier sees them: as they are stored, or decoded.

    Args:
        images: uint8 or float16 [n, h, w, c].
        config: what builds the classifier.
        context: it decodes.
    """
    if [*images.shape[1:]] == [*config["image_shape"]]:
        return images
    assert context.decode is not None
    return context.decode(images)


def as_classified(
    data: LabelledImages, config: Mapping[str, Any], context: Context
) -> LabelledImages:
    """As `as_seen`, with their labels."""
    return replace(data, images=as_seen(data.images, config, context))


def _described(
    state: LearnerState, config: ClassifierConfig, image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """What builds the network: plain JSON values."""
    if config.network != SMALL:
        before = {} if state.classifier is None else trained_part(state.classifier).config
        network = before.get("network") or described(config.network)
        return {"image_shape": [*image_shape], "classes": len(state.classes), "network": network}
    head = config.head or ("linear" if image_shape[:2] == (1, 1) else None)
    width = 16 * config.width if head else config.width
    found: dict[str, Any] = {"image_shape": list(image_shape), "width": width}
    found["classes"] = len(state.classes)
    return {**found, "head": head} if head else found


def cross_entropy(network: nn.Module, x: Tensor, outputs: Tensor) -> Tensor:
    """Over all outputs: a `Loss`."""
    return nn.functional.cross_entropy(network(x), outputs)


def fit_classifier(
    state: LearnerState,
    config: ClassifierConfig,
    train: LabelledImages,
    validation: LabelledImages,
    context: Context,
    *,
    loss: Loss = cross_entropy,
    alter: Alteration | None = None,
) -> tuple[LearnerState, StageLog]:
    """Train the classifier of `state` on `train`, classes drawn equally often.

    Args:
        state: its `classes` are the outputs; `train` has no other class.
        config: architecture and budget.
        train: real and replayed images together.
        validation: images to report an accuracy on; they decide nothing. May be empty.
        context: seed, task, device, progress, checkpoints.
        loss: what is minimised.
        alter: what is done to images before they are shown.

    Returns:
        The state with the new classifier, and the log: curve `classifier_loss`, metric
        `validation_accuracy`.
    """
    if config.sees == "images":
        assert context.decode is not None
        train = replace(train, images=context.decode(train.images))
    built, device = _described(state, config, train.image_shape), context.device
    network = _grown(state, built, config, context).to(device).train()
    index_of = {label: index for index, label in enumerate(state.classes)}
    outputs = torch.tensor([index_of[int(label)] for label in train.labels], device=device)
    examples = Pixels(train.images, device), outputs
    objective = _Classification(network, examples, loss, alter, context)
    budget, moving = Budget(config.steps, config.batch_size), _moving(network, config, device)
    log = fit(objective, moving, outputs, budget, context, "train_classifier")
    trained = replace(state, classifier=Weights(built, tensors_of(network)))
    known = accuracy(trained, validation, context) if len(validation) else None
    return trained, StageLog({} if known is None else {"validation_accuracy": known}, log.curves)


def _moving(network: Network, config: ClassifierConfig, device: torch.device) -> Moving:
    parameters, step = list(network.parameters()), rate(config.learning_rate, device)
    decay = config.weight_decay
    optimiser = torch.optim.AdamW(parameters, lr=step, weight_decay=decay, **on(device))
    return Moving(parameters, optimiser)


class _Classification(Objective):
    """A loss of images, which may be altered before they are shown."""

    def __init__(
        self,
        network: nn.Module,
        examples: tuple[Pixels, Tensor],
        loss: Loss,
        alter: Alteration | None,
        context: Context,
    ) -> None:
        self._network, self._loss, self._alter = network, loss, alter
        self._images, self._outputs = examples
        self._context = context

    def drawn(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images float32 [b, c, h, w] and their outputs int64 [b]."""
        x = self._images[batch]
        return self._alter(x, generator) if self._alter else x, self._outputs[batch]

    def losses(self, drawn: Sequence[Tensor]) -> dict[str, Tensor]:
        """`classifier_loss`."""
        x, outputs = drawn
        with autocast(x.device, self._context.precision):
            return {"classifier_loss": self._loss(self._network, x, outputs)}


@torch.no_grad()
def asked(
    state: LearnerState,
    images: NDArray[Any],
    context: Context,
    question: Callable[[Network, Tensor], Tensor],
) -> Tensor:
    """What comes of images, of which each rank asks the classifier its part.

    Args:
        state: after at least one task.
        images: uint8 or float16 [n, h, w, c], at least one.
        context: its device and its team are used.
        question: (the classifier, float32 [b, c, h, w]) -> [b, ...].

    Returns:
        [n, ...] on the device.
    """
    assert state.classifier is not None
    config, device = state.classifier.config, context.device
    network = build_classifier(state.classifier).to(device)

    def answers(images: NDArray[Any]) -> Tensor:
        batches = (as_seen(part, config, context) for part in batches_of(images))
        return torch.cat([question(network, to_unit_range(part, device)) for part in batches])

    return context.team.in_parts(answers, images)


def given_to_head(state: LearnerState, images: NDArray[Any], context: Context) -> Tensor:
    """Float32 [n, d] on the device; arguments as `asked`."""
    return asked(state, images, context, lambda network, x: network.features(x).mean((2, 3)))


def predict_logits(
    state: LearnerState, images: NDArray[Any], context: Context
) -> NDArray[np.float32]:
    """Classify among all classes seen, with no task label.

    Args:
        state: after at least one task.
        images: uint8 or float16 [n, h, w, c].
        context: its device and its team are used.

    Returns:
        float32 [n, k] logits; column j is class `state.classes[j]`.
    """
    if not len(images):
        return np.empty((0, len(state.classes)), np.float32)
    logits = asked(state, images, context, lambda network, x: network(x)).cpu()
    return logits.numpy()


def batches_of(images: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Those that are classified at once, `PREDICTION_BATCH` at most."""
    return (images[i : i + PREDICTION_BATCH] for i in range(0, len(images), PREDICTION_BATCH))


def accuracy(state: LearnerState, data: LabelledImages, context: Context) -> float:
    """Share of `data` (at least one image) that is classified rightly among all classes seen."""
    predicted = np.asarray(state.classes)[predict_logits(state, data.images, context).argmax(1)]
    return float((predicted == data.labels).mean())
