"""How good replay is, class by class: what is measured after a task, and how it goes into a report.

An extractor is named beside every number that it made. Nothing here feeds back into training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Protocol, TypedDict, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from gppdm_pipeline.configuration.base import Config
from gppdm_pipeline.evaluation.distances import Features, frechet_distance, kernel_distance, prdc
from gppdm_pipeline.images.labelled import LabelledImages

ExtractorName = Literal["oracle", "efficientnet_lite0"]

DIGITS = 6
"""Significant digits that are kept: rounding of linear algebra is in those behind."""


class EvaluationConfig(Config):
    """What is measured and drawn besides accuracies; none of it decides what a learner learns."""

    replay: bool = True
    """Whether the quality of replay is measured, for methods with a generator."""
    images_per_class: Annotated[int, Field(ge=10)] = 50
    """Replayed images that are looked at, of each class after each task; at most as many as are
    replayed."""
    nearest: Annotated[int, Field(ge=1)] = 5
    """k of precision, recall, density and coverage."""
    extractors: Annotated[tuple[ExtractorName, ...], Field(min_length=1)] = ("oracle",)
    """oracle: a classifier as the run's, trained on all real training images of the benchmark.
    efficientnet_lite0: of ImageNet, from the extra `efficientnet`."""
    embedding: bool = False
    """Whether replay and real images are drawn as a t-SNE, which takes seconds to minutes."""
    privacy: bool = False
    """Whether the report tells what each task's state tells of its training images, as an audit
    does; where images are released it does in any case."""

    @model_validator(mode="after")
    def _fits(self) -> EvaluationConfig:
        if self.nearest >= self.images_per_class:
            raise ValueError(
                f"nearest is {self.nearest}, which takes more than {self.images_per_class} "
                "images a class; lower nearest or raise images_per_class"
            )
        return self


class Extractor(Protocol):
    """Maps images to points."""

    def __call__(self, images: NDArray[np.uint8]) -> Features:
        """Uint8 [n, h, w, c] -> [n, d]."""


class Oracle(Extractor, Protocol):
    """A classifier that has seen real images of all classes."""

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Uint8 [n, h, w, c] -> labels int64 [n]."""


class ClassQuality(TypedDict):
    """One class's images beside its real test images; None where there are too few of either."""

    images: int
    real_images: int
    oracle_agreement: float
    frechet_distance: dict[str, float | None]
    kernel_distance: dict[str, float | None]
    precision: dict[str, float | None]
    recall: dict[str, float | None]
    density: dict[str, float | None]
    coverage: dict[str, float | None]


class Quality(TypedDict):
    """All classes at one time, by label (written in decimal, as JSON has it)."""

    settings: dict[str, object]
    classes: dict[str, ClassQuality]


def measure(
    images: LabelledImages,
    real: LabelledImages,
    extractors: Mapping[str, Extractor],
    oracle: Oracle,
    config: EvaluationConfig,
) -> Quality:
    """The quality of `images`, class by class.

    Args:
        images: replay, or real training images for comparison; at least one.
        real: test images of the same classes.
        extractors: by the name that goes beside their numbers.
        oracle: judges labels.
        config: which measures.
    """
    agrees = oracle.predict(images.images) == images.labels
    spaces = {
        name: (extract(images.images), extract(real.images)) for name, extract in extractors.items()
    }
    classes: dict[str, ClassQuality] = {}
    for label in images.classes:
        ours, theirs = images.labels == label, real.labels == label
        points = {name: (x[ours], y[theirs]) for name, (x, y) in spaces.items()}
        classes[str(label)] = _class_quality(points, agrees[ours], int(theirs.sum()), config)
    return Quality(settings=settings_of(config), classes=classes)


def settings_of(config: EvaluationConfig) -> dict[str, object]:
    """What numbers have to have in common to be set side by side."""
    return {
        "images_per_class": config.images_per_class,
        "nearest": config.nearest,
        "extractors": list(config.extractors),
    }


def numbers_of(quality: Quality) -> dict[str, float | None]:
    """Every number by a name of its own, and the mean of each over classes.

    `frechet_distance_oracle/class_3`, and `frechet_distance_oracle` for the mean.
    """
    numbers: dict[str, float | None] = {}
    means: dict[str, list[float]] = {}
    for label, measured in quality["classes"].items():
        for measure, value in measured.items():
            if measure in ("images", "real_images"):
                continue
            values = cast(
                Mapping[str, float | None], value if isinstance(value, Mapping) else {"": value}
            )
            for extractor, number in values.items():
                name = f"{measure}_{extractor}" if extractor else measure
                numbers[f"{name}/class_{label}"] = number
                if number is not None:
                    means.setdefault(name, []).append(number)
    return numbers | {name: sum(found) / len(found) for name, found in means.items()}


def check_alike(qualities: Sequence[Quality]) -> None:
    """Qualities that go into one report were measured in one way.

    Raises:
        ValueError: naming what differs, and the repair.
    """
    for quality in qualities:
        if quality["settings"] != qualities[0]["settings"]:
            raise ValueError(
                f"replay was measured with {qualities[0]['settings']} after one task and with "
                f"{quality['settings']} after another: measure all of it again with "
                "--namespaces=assessment,report"
            )


def _class_quality(
    points: Mapping[str, tuple[Features, Features]],
    agrees: NDArray[np.bool_],
    real_images: int,
    config: EvaluationConfig,
) -> ClassQuality:
    quality = ClassQuality(
        images=len(agrees),
        real_images=real_images,
        oracle_agreement=float(agrees.mean()),
        frechet_distance={},
        kernel_distance={},
        precision={},
        recall={},
        density={},
        coverage={},
    )
    fewest = min(len(agrees), real_images)
    for name, (generated, real) in points.items():
        enough = fewest >= 2
        quality["frechet_distance"][name] = (
            _rounded(frechet_distance(real, generated)) if enough else None
        )
        quality["kernel_distance"][name] = (
            _rounded(kernel_distance(real, generated)) if enough else None
        )
        near = prdc(real, generated, config.nearest) if fewest > config.nearest else None
        quality["precision"][name] = None if near is None else near.precision
        quality["recall"][name] = None if near is None else near.recall
        quality["density"][name] = None if near is None else _rounded(near.density)
        quality["coverage"][name] = None if near is None else near.coverage
    return quality


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
