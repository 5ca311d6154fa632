"""What every method is: settings, and three verbs that take a state and return one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import ModelWrapValidatorHandler, model_validator
from torch import Tensor

from gppdm_pipeline.algorithm.classifier.network import ClassifierConfig
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.images.labelled import LabelledImages


class Method(Config, ABC):
    """A way to learn classes task by task; immutable, validated, without memory of its own.

    `Method.model_validate({"name": "finetune", ...})` gives the method of that name.

    Attributes:
        name: in `gppdm_pipeline.methods.METHODS`.
        classifier: architecture and budget of the classifier.
    """

    reads_earlier_images: ClassVar[bool] = False
    """Whether `synthesise_replay` is given the images of earlier tasks. A learner must not be."""
    keeps_images: ClassVar[bool] = False
    """Whether states carry real images."""
    shares_generator: ClassVar[bool] = False
    """Whether this method's settings may be written once for all of its kind, in `generator`. It
    takes those that it has."""

    name: str
    classifier: ClassifierConfig = ClassifierConfig()

    @property
    def generator_first(self) -> bool:
        """Whether a task trains its generator before its classifier."""
        return False

    @property
    def has_generator(self) -> bool:
        """Whether the replay is drawn from a generator that states carry."""
        return False

    @property
    def has_prototypes(self) -> bool:
        """Whether states carry class prototypes."""
        return False

    @property
    def draws_once(self) -> bool:
        """Whether images of a class that were drawn for one task serve all later ones."""
        return False

    def summed_numbers(self, first: int) -> int:
        """How many numbers of each real image states have sums of products of; 0: none.

        Args:
            first: images of the first task.
        """
        return 0

    @property
    def measures_keys_and_values(self) -> bool:
        """Whether tasks say how keys and values of old classes change."""
        return False

    @property
    def classifies_what_is_drawn(self) -> bool:
        """Whether the classifier has to see what the generator draws, before it is decoded."""
        return False

    def check(self, image_shape: tuple[int, int, int], classes: int) -> None:
        """Refuse images that this method cannot learn with these settings, before it learns any.

        Args:
            image_shape: (height, width, channels).
            classes: how many the stream has; they are 0 to classes - 1.

        Raises:
            ValueError: naming the setting, and what would do.
        """

    def check_encoded(self) -> None:
        """Refuse what an encoder makes of images, where this method cannot learn it.

        Raises:
            ValueError: naming the setting, and what would do.
        """

    def with_class_names(self, names: Sequence[str], instead_of: Sequence[str] = ()) -> Self:
        """This method with the names of the classes; only methods that make labels of them use it.

        Args:
            names: by label.
            instead_of: names that it was given before, which these replace.
        """
        return self

    def replaying(self, images_per_class: int) -> Method:
        """The same method, replaying at most so many images of each class.

        For methods with a generator, whose settings have a `replay.images_per_class`.
        """
        values = self.model_dump()
        fewer = min(images_per_class, values["replay"]["images_per_class"])
        values["replay"]["images_per_class"] = fewer
        return type(self).model_validate(values)

    def draw(
        self, state: LearnerState, classes: Sequence[int], per_class: int, context: Context
    ) -> LabelledImages:
        """Images of classes that the generator of `state` knows, as replay draws them.

        Args:
            state: after at least one task.
            classes: any it knows.
            per_class: how many of each, at least 1.
            context: seed, task, device, progress.

        Returns:
            uint8 images, class after class.

        Raises:
            ValueError: if the method has no generator.
        """
        raise ValueError(f"{self.name} has no generator, so that it draws no images")

    def draw_like(
        self,
        state: LearnerState,
        images: LabelledImages,
        signal: float,
        context: Context,
    ) -> LabelledImages:
        """Images noised, and drawn anew from there as the classes that they are labelled with.

        Args:
            state: after at least one task.
            images: of the stream's shape; their labels are classes that the generator knows.
            signal: the share of signal (abar) that noise leaves, above 0 and below 1.
            context: seed, task, device, progress.

        Returns:
            uint8 images, class after class.

        Raises:
            ValueError: if the method has no diffusion generator.
        """
        raise ValueError(f"{self.name} has no diffusion generator, so that it draws nothing anew")

    def generator_losses(
        self, state: LearnerState, images: LabelledImages, context: Context
    ) -> Tensor | None:
        """How badly the generator of `state` knows each image; low for what it has learnt.

        What an attacker may ask of a state; learning does not.

        Args:
            state: after `context.task`.
            images: n of them, of classes that the state knows.
            context: seed, task, device.

        Returns:
            float32 [n, k], one loss for each of k levels of noise; None without a generator.
        """
        return None

    @abstractmethod
    def synthesise_replay(
        self, state: LearnerState, context: Context, earlier: Sequence[LabelledImages] = ()
    ) -> tuple[LabelledImages, StageLog]:
        """Images that stand in for those of old classes.

        Args:
            state: after the task before `context.task`.
            context: seed, task, device, progress.
            earlier: training images of each earlier task if `reads_earlier_images`, else nothing.

        Returns:
            Images whose labels are old classes only (none before the first task), and the log.
        """

    @abstractmethod
    def train_generator(
        self, state: LearnerState, train: LabelledImages, replay: LabelledImages, context: Context
    ) -> tuple[LearnerState, StageLog]:
        """The state with a generator of all classes seen; unchanged for methods without one."""

    @abstractmethod
    def train_classifier(
        self,
        state: LearnerState,
        train: LabelledImages,
        validation: LabelledImages,
        replay: LabelledImages,
        context: Context,
    ) -> tuple[LearnerState, StageLog]:
        """The state with a classifier over all classes seen.

        Args:
            state: after the task before `context.task`, or with this task's generator already
                (`generator_first`).
            train: this task's images.
            validation: more of them, held out; they decide nothing.
            replay: what `synthesise_replay` gave for this task.
            context: seed, task, device, progress.
        """

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_name(cls, value: Any, handler: ModelWrapValidatorHandler[Method]) -> Method:
        if cls is not Method or not isinstance(value, Mapping):
            return handler(value)
        from gppdm_pipeline.methods import method_class  # noqa: PLC0415 (the list imports this)

        return method_class(str(value.get("name", ""))).model_validate(value)


def all_images(train: LabelledImages, replay: LabelledImages) -> LabelledImages:
    """This task's images and the replay, of one shape even where the replay is empty."""
    return LabelledImages.concatenate([train, replay]) if len(replay) else train


def learn_task(
    method: Method,
    state: LearnerState,
    train: LabelledImages,
    validation: LabelledImages,
    context: Context,
    earlier: Sequence[LabelledImages] = (),
) -> LearnerState:
    """One task in the method's own order: what the pipeline does node by node.

    Args:
        method: with its settings.
        state: after the task before `context.task`.
        train: this task's images.
        validation: held-out images of this task; may be empty.
        context: seed, task, device, progress.
        earlier: earlier tasks' training images, for methods that read them.

    Returns:
        The state after the task; the one given is unchanged.
    """
    replay, _ = method.synthesise_replay(state, context, earlier)
    if method.generator_first:
        state, _ = method.train_generator(state, train, replay, context)
    state, _ = method.train_classifier(state, train, validation, replay, context)
    if not method.generator_first:
        state, _ = method.train_generator(state, train, replay, context)
    return state
