"""From what the user wrote to a validated experiment. Knows no Kedro.

Settings come in layers: the code's defaults, the benchmark's preset, the preset of the space that
the stream is learnt in, the project's parameters, the command line. The last layer that speaks
wins; within a layer the section of a method wins over the `classifier` that all methods share, and
over the `generator` of those with a diffusion model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SerializeAsAny

from gppdm_pipeline.algorithm.classifier.timm_net import content_of
from gppdm_pipeline.configuration.budget import Fit, with_steps
from gppdm_pipeline.configuration.choices import Choices
from gppdm_pipeline.configuration.layers import (
    ConfigurationError,
    Layer,
    Problems,
    choose,
    flatten,
    merged,
)
from gppdm_pipeline.configuration.sections import sections_by_name, shared
from gppdm_pipeline.configuration.space_choice import AUTO, Choice, choice_of
from gppdm_pipeline.configuration.uses import USES, DrawConfig, PredictConfig, PublishConfig
from gppdm_pipeline.evaluation.replay_quality import EvaluationConfig
from gppdm_pipeline.methods import METHODS, Method
from gppdm_pipeline.pretrained.folder import EncoderError
from gppdm_pipeline.spaces.settings import KEYS
from gppdm_pipeline.spaces.space import SpaceConfig
from gppdm_pipeline.streams.sources import PLACES
from gppdm_pipeline.streams.stream_config import SCENARIOS, StreamConfig


class Experiment(Choices):
    """One run: everything that decides its result, and where it computes.

    Attributes:
        stream: the tasks.
        learner: the method with its settings.
        space: in what the stream is learnt.
        space_choice: why it is this one, where that was left to the images; None: it was said.
        evaluation: what is measured and drawn of it, which decides nothing.
        fit: what the budget came to, once that is settled; its steps are those of the learner.
        predict, draw, publish: what is done with what was learnt, which decides nothing either.
    """

    stream: StreamConfig
    learner: SerializeAsAny[Method]
    space: SpaceConfig = SpaceConfig()
    space_choice: str | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    fit: Fit | None = None
    predict: PredictConfig = PredictConfig()
    draw: DrawConfig = DrawConfig()
    publish: PublishConfig = PublishConfig()

    @property
    def run(self) -> str:
        """The folder of its outputs, below each layer of data/."""
        name = f"{self.method}-{self.variant}" if self.variant else self.method
        return f"{self.benchmark}/{name}/seed_{self.seed}"

    @property
    def shows_real_images(self) -> bool:
        """Whether pictures may have real images in them."""
        return self.retention == self.retention_of_test == "keep"

    @property
    def number_of_tasks(self) -> int:
        """T."""
        return self.stream.number_of_tasks

    def places(self) -> dict[str, Any]:
        """Where the images lie, by the keys that the user knows: no part of the identity."""
        return {f"stream.source.{key}": value for key, value in self.stream.source if key in PLACES}

    def identity(self) -> dict[str, Any]:
        """What decides the result, by the keys that the user knows; plain JSON values.

        Which images are learnt is no part of it: states and evaluations name them by their hash. A
        file of label embeddings, and a folder of a classifier's network, are named by their own.
        """
        besides = {"device", "variant", "overwrite", "checkpoint_seconds", "evaluation", *USES}
        besides |= {"budget", "fit", "retention", "retention_of_test", "space", "space_choice"}
        values = self.model_dump(mode="json", exclude=besides)
        learner = values.pop("learner")
        del learner["name"]
        for place in self.places():
            del values["stream"]["source"][place.rpartition(".")[2]]
        if (condition := learner.get("condition")) and condition["file"]:
            condition["file"] = _content(Path(condition["file"]))
        values |= self.space.identity()
        classifier = learner.pop("classifier")
        if "network" in classifier:
            classifier["network"] = content_of(classifier["network"])
        return {**values, "classifier": classifier, self.method: learner}

    def numbered(self, known: Sequence[str]) -> Experiment:
        """This experiment with an existing run's labels, where the source would number anew.

        Args:
            known: the names of that run's classes, in the order of their labels.
        """
        names = self.stream.source.class_names
        numbering = (*known, *(name for name in names if name not in known))
        # If a numbering is written, it holds; if a class is gone, nothing here helps.
        if numbering == names or self.stream.numbering or sorted(numbering) != sorted(names):
            return self
        stream = self.stream.model_copy(update={"numbering": numbering})
        learner = self.learner.with_class_names(numbering, instead_of=names)
        return self.model_copy(update={"stream": stream, "learner": learner})

    def fitted(self, fit: Fit) -> Experiment:
        """This experiment with the steps that its budget came to."""
        learner = with_steps(self.learner, fit.steps)
        return self.model_copy(update={"learner": learner, "fit": fit})

    def record(self) -> dict[str, Any]:
        """Recorded beside outputs: the identity, the classes' names, the number of tasks."""
        return {
            **self.identity(),
            "classes": list(self.stream.class_names),
            "number_of_tasks": self.number_of_tasks,
        }

    def settings(self) -> dict[str, Any]:
        """The identity, the variant's name and the device."""
        return {**self.identity(), "variant": self.variant, "device": self.device}

    def flatten(self) -> dict[str, Any]:
        """Every setting that is used, by dotted key, and the number of tasks.

        The method's own have no prefix, so that they have one name for all methods to compare.
        """
        settings = self.settings()
        own = settings.pop(self.method)
        return {**flatten(settings), **flatten(own), "number_of_tasks": self.number_of_tasks}

    def fingerprint(self) -> str:
        """A hash, equal for experiments that differ in nothing but the seed and the device."""
        values = {key: value for key, value in self.identity().items() if key != "seed"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _content(file: Path) -> str:
    """The hash of a file, which is the same wherever it lies; the path, if it cannot be read."""
    try:
        return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    except OSError:  # the check of the method tells
        return str(file)


def resolve(
    presets: Mapping[str, Layer],
    layers: Sequence[Layer],
    spaces: Mapping[str, Layer] | None = None,
    begun: str | None = None,
) -> Experiment:
    """The experiment that the user asked for; the settings of other methods are validated, too.

    Args:
        presets: by name of benchmark; they hold stream, space, classifier, generator and methods.
        layers: the project's parameters, then the command line.
        spaces: presets by name of space; they hold classifier, generator and methods.
        begun: the space of the run that goes on, which `space.name: auto` then is.

    Raises:
        ConfigurationError: naming every setting that is wrong, where it was written, what is
            allowed and the nearest right spelling.
    """
    benchmark = choose("benchmark", presets, layers)
    method = choose("method", METHODS, layers)
    layers = [presets[benchmark], *layers]
    name = choose("space.name", (*KEYS, AUTO), layers, default="pixels")
    named = isinstance(merged(layers, "space"), Mapping)  # else it is told below that it has to be
    choice = choice_of(layers, begun) if named and name == AUTO else Choice(name, None)
    preset = (spaces or {}).get(choice.name)
    layers = [layers[0], *([preset] if preset else []), *layers[1:]]
    sections = sections_by_name()
    problems = Problems(layers)
    choices = _choices(problems, layers, sections)
    in_space = merged(layers, "space")
    in_space = {**in_space, "name": choice.name} if named else in_space
    space = problems.validate(SpaceConfig, in_space, [("space",)])
    stream = problems.section(StreamConfig, "stream", SCENARIOS, _sizes(space))
    evaluation = problems.section(EvaluationConfig, "evaluation")
    problems.section(sections["generator"], "generator")
    uses = {name: problems.section(kind, name) for name, kind in USES.items()}
    learners = {
        name: problems.validate(
            kind,
            merged(layers, name, partial(shared, kind)),
            [(name,), *([("generator",)] * kind.shares_generator), ()],
            together=name == method,
        )
        for name, kind in METHODS.items()
    }
    problems.check()
    learner = learners[method]
    assert choices and stream and evaluation and space and learner
    learner = learner.with_class_names(stream.class_names)
    return Experiment(
        **dict(choices),
        stream=stream,
        learner=learner,
        space=_usable(space, choices, learner, choice.told),
        space_choice=choice.told,
        evaluation=evaluation,
        **uses,
    )


def _sizes(space: SpaceConfig | None) -> dict[str, int]:
    """What a reader is told that chooses the size of images by the images."""
    try:
        return {} if space is None else {"side": space.side_of_images()}
    except EncoderError:  # which is told when the encoder is looked for
        return {}


def _choices(
    problems: Problems, layers: Sequence[Layer], sections: Mapping[str, type[BaseModel]]
) -> Choices | None:
    """The settings in no section; of an unknown one, the sections that have one of its name."""
    elsewhere = {
        key: f"{name}.{key}" for name, kind in sections.items() for key in kind.model_fields
    }
    elsewhere |= {name: name for name in sections}
    top = {key: value for layer in layers for key, value in layer.values.items()}
    top = {key: value for key, value in top.items() if key not in sections}
    return problems.validate(Choices, top, elsewhere=elsewhere)


def _usable(space: SpaceConfig, choices: Choices, learner: Method, told: str | None) -> SpaceConfig:
    """The space with the hash of its encoder, if a run can learn in it."""
    if learner.classifier.sees == "images" and not space.decodes:
        raise ConfigurationError(
            f"classifier.sees = images, space.name = {space.name}: images are decoded of latents "
            "alone. Leave classifier.sees out, or learn latents (space.name=latents)."
        )
    if learner.classifier.sees == "images" and learner.classifies_what_is_drawn:
        raise ConfigurationError(
            f"classifier.sees = images: the classifier of {learner.name} with these settings sees "
            "what its generator draws before it is decoded. Leave classifier.sees out, or use "
            "gppdm without texture, or vae_replay with order: classifier_first."
        )
    if space.encodes and "release" in (choices.retention, choices.retention_of_test):
        raise ConfigurationError(
            f"retention = release, space.name = {space.name}: what was encoded of images stays in "
            "the cache. Set retention=keep and retention_of_test=keep, or learn pixels."
        )
    if space.images is not None and not space.images.exists():
        raise ConfigurationError(
            f"space.images = {space.images}: no such file or folder. Name a folder of images, an "
            "image file, an .npz or a .parquet, or leave it out to learn from the first task's."
        )
    try:
        content_of(learner.classifier.network)
    except EncoderError as error:
        raise ConfigurationError(str(error)) from error
    try:
        return space.resolved()
    except EncoderError as error:
        how = told or f"space.name = {space.name}:"
        raise ConfigurationError(f"{how} {error}") from error
