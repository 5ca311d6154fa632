"""What passes from one task to the next: all of it, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from gppdm_pipeline.images.labelled import LabelledImages


@dataclass(frozen=True)
class Weights:
    """A network as data.

    Attributes:
        config: what builds the network; plain JSON values.
        tensors: its state dict, on the CPU.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Condition:
    """What the denoiser is conditioned on, per class (see `condition/table.py`).

    Attributes:
        embeddings: class -> float32 [d], the fixed label token.
        token_map: float32 [tokens, d, patch], the fixed linear map from a prototype's patches to
            tokens; it has no token when prototypes are not shown as tokens.
        prototypes: class -> float32 [c, h, w], when they start images in [-1, 1], or what an
            encoder made of some, whitened (`fitting/scale.py`); [0] where the denoiser is given
            none.
        starts: class -> its prototype before it was trained, of the same shape.
        turns: class -> int32 [d], the fixed isometry that its prototype's tokens go through; those
            of a class without one are as the map gives them.
    """

    embeddings: Mapping[int, Tensor]
    token_map: Tensor
    prototypes: Mapping[int, Tensor] = field(default_factory=dict)
    starts: Mapping[int, Tensor] = field(default_factory=dict)
    turns: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LearnerState:
    """A learner after some tasks; treat the tensors as read-only.

    Attributes:
        tasks: for each task begun so far, its classes.
        image_shape: (height, width, channels) of every image; None before the first task.
        classifier: over `classes`, in that order; None before the first task.
        denoiser: the conditional U-Net, or MLP of vectors (its averaged weights); None for methods
            without one.
        adapters: task -> what the classes of a later task add to the denoiser's weights (see
            `adapters.py`), for learners whose denoiser stays as the first task left it.
        condition: of the denoiser; None for methods without one.
        bases: full name of each projected layer -> float32 [in_features, rank], orthonormal
            columns that span the inputs of old classes.
        extras: what only some methods carry, by name: `vae`, `scale`, `importance`,
            `replay` (generated images that are kept; see `generator/kept.py`), `private` (what
            its generator tells; see `generator/guarantee.py`).
        kept: real images of earlier tasks, for methods that keep them; None for all others.
        data: for each task learnt, SHA-256 of its training images, where it was recorded.
        picture_shape: where an encoder stands before the learner, (height, width, channels) of the
            pictures that it was given, where it was recorded.
        encoder: the hash of an autoencoder of the run's own.
    """

    tasks: tuple[tuple[int, ...], ...] = ()
    image_shape: tuple[int, int, int] | None = None
    classifier: Weights | None = None
    denoiser: Weights | None = None
    adapters: Mapping[int, Weights] = field(default_factory=dict)
    condition: Condition | None = None
    bases: Mapping[str, Tensor] = field(default_factory=dict)
    extras: Mapping[str, Weights] = field(default_factory=dict)
    kept: LabelledImages | None = None
    data: tuple[str, ...] = ()
    picture_shape: tuple[int, int, int] | None = None
    encoder: str | None = None

    @classmethod
    def empty(cls) -> LearnerState:
        """The state after no task."""
        return cls()

    @property
    def classes(self) -> tuple[int, ...]:
        """Every class seen, in order of arrival; the order of the classifier's outputs."""
        return tuple(dict.fromkeys(label for task in self.tasks for label in task))

    def adapter_of(self, label: int) -> int | None:
        """The adapter that draws a class: of the last task it came in; None: the denoiser alone."""
        return max((task for task in self.adapters if label in self.tasks[task - 1]), default=None)

    def classes_before(self, task: int) -> tuple[int, ...]:
        """The classes of the tasks before `task` (from 1), in order of arrival."""
        return replace(self, tasks=self.tasks[: task - 1]).classes

    def begin(
        self, task: int, classes: tuple[int, ...], image_shape: tuple[int, int, int]
    ) -> LearnerState:
        """This state with the classes of `task` (from 1) added, if they are not there yet.

        Raises:
            ValueError: if `task` is not the next or the last one, or its classes or images differ
                from what the state knows.
        """
        if self.image_shape not in (None, image_shape):
            raise ValueError(
                f"images of task {task} have shape {image_shape}, those before {self.image_shape}"
            )
        if task == len(self.tasks) + 1:
            return replace(self, tasks=(*self.tasks, tuple(classes)), image_shape=image_shape)
        if task == len(self.tasks) and self.tasks[-1] == tuple(classes):
            return self
        raise ValueError(
            f"task {task} with classes {tuple(classes)} does not follow a state after tasks "
            f"{self.tasks}; give each task to the state of the task before it"
        )

    def bytes(self) -> int:
        """How much has to be kept: bytes of all tensors and images."""
        groups: list[Mapping[Any, Tensor]] = [self.bases]
        networks = [self.classifier, self.denoiser]
        networks += [*self.adapters.values(), *self.extras.values()]
        groups += [weights.tensors for weights in networks if weights]
        if self.condition:
            condition = self.condition
            groups += [condition.embeddings, condition.prototypes, condition.starts]
            groups += [condition.turns, {0: condition.token_map}]
        images = 0 if self.kept is None else self.kept.images.nbytes + self.kept.labels.nbytes
        return images + sum(tensor.nbytes for group in groups for tensor in group.values())
