"""The pipelines that use what was learnt: what is checked before them, and told after them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from gppdm_pipeline.algorithm.context import resolve_device
from gppdm_pipeline.algorithm.disk.states import StateError
from gppdm_pipeline.catalog.registry_dataset import RegistryError
from gppdm_pipeline.configuration.experiment import Experiment
from gppdm_pipeline.configuration.uses import DrawConfig
from gppdm_pipeline.methods import Method
from gppdm_pipeline.pipelines.draw.pipeline import INTERPOLATION
from gppdm_pipeline.pipelines.draw.pipeline import RESULTS as DRAWN
from gppdm_pipeline.pipelines.predict.pipeline import RESULTS as PREDICTIONS
from gppdm_pipeline.pipelines.predict.pipeline import TRAINED
from gppdm_pipeline.pipelines.publish.pipeline import RESULT as PUBLISHED
from gppdm_pipeline.run.command import RefusedError
from gppdm_pipeline.serving.onnx_file import OnnxError
from gppdm_pipeline.serving.published_folder import FolderError, check_folder
from gppdm_pipeline.serving.trained import TrainedRun, UntrainedError
from gppdm_pipeline.streams.conversion import UndecodableError
from gppdm_pipeline.streams.unlabelled import unlabelled

PIPELINES = ("draw", "predict", "publish")
FAULTS = (FolderError, OnnxError, RegistryError, StateError, UntrainedError)
"""What is wrong with what was learnt; the message is the whole story."""


def uses(pipeline: Pipeline) -> bool:
    """Whether it is one of them."""
    return TRAINED in pipeline.inputs()


def check(experiment: Experiment, pipeline: Pipeline, catalog: DataCatalog) -> None:
    """There is a whole state, and what is asked of it can be done.

    Raises:
        RefusedError: naming the setting.
        UntrainedError, StateError: naming the folder or the file.
        SourceError: if there are no images.
    """
    try:
        resolve_device(experiment.device)
    except ValueError as error:
        raise RefusedError(str(error)) from error
    trained: TrainedRun = catalog.load(TRAINED)
    trained.learned  # noqa: B018 (reads it)
    if PREDICTIONS[0] in pipeline.all_outputs():
        _check_images(experiment.predict.images)
    if PUBLISHED in pipeline.all_outputs() and experiment.publish.folder is not None:
        learned = trained.learned
        check_folder(experiment.publish.folder, learned.learner, learned.space.encodes)
    if DRAWN[0] in pipeline.all_outputs():
        _check_drawing(experiment.draw, trained)


def _check_images(images: Path | None) -> None:
    if images is None:
        raise RefusedError(
            "predict.images is not set: name the images that are to be classified, a folder, an "
            "image file, an .npz or a .parquet: --params=predict.images=<path>"
        )
    if next(iter(unlabelled(images)), None) is None:
        raise RefusedError(f"predict.images = {images}: it holds no image. Name another one.")


def _check_drawing(draw: DrawConfig, trained: TrainedRun) -> None:
    learned = trained.learned
    if not learned.space.shows:
        raise RefusedError(
            f"{learned.folder} has learnt {learned.space.name}, of which there is no picture to "
            "draw. Draw with a run in pixels or latents."
        )
    learned.labels(draw.classes)
    kind = type(learned.learner)
    verb = "draw" if draw.like is None else "draw_like"
    if getattr(kind, verb) is getattr(Method, verb):
        what = "a generator" if draw.like is None else "a diffusion generator, as draw.like needs"
        raise RefusedError(
            f"method = {learned.learner.name}: it has no {what.removeprefix('a ')}. Draw with "
            "gppdm, cpdm, diffusion_replay or ddgr."
        )
    if draw.towards is not None:
        _check_interpolation(draw, trained)
    if draw.like is not None:
        try:
            learned.predictor().pixels(draw.like)
        except UndecodableError as error:
            raise RefusedError(
                f"draw.like = {draw.like}: {error}. Name the path of an image file."
            ) from error


def _check_interpolation(draw: DrawConfig, trained: TrainedRun) -> None:
    learned = trained.learned
    if not learned.learner.has_prototypes:
        raise RefusedError(
            f"draw.towards = {draw.towards!r}: {learned.learner.name} was run without prototypes, "
            "which are moved. Leave draw.towards out, or use a run of gppdm or cpdm."
        )
    (goal,) = learned.labels([str(draw.towards)], "draw.towards")
    if learned.labels(draw.classes) == [goal]:
        raise RefusedError(
            f"draw.towards = {draw.towards!r}: it is the only class that is drawn. Name others in "
            "draw.classes."
        )


def tell(catalog: DataCatalog, pipeline: Pipeline) -> None:
    """What came out, on the console."""
    outputs = pipeline.all_outputs()
    if PREDICTIONS[0] in outputs:
        _tell_predictions(catalog.load(PREDICTIONS[1]), catalog)
    if DRAWN[0] in outputs:
        folder = catalog[DRAWN[0]].path  # type: ignore[attr-defined]
        click.echo(f"{len([*folder.glob('*.png')])} images in {folder}")
    if INTERPOLATION in outputs:
        click.echo(f"prototypes between classes: {catalog[INTERPOLATION].path}")  # type: ignore[attr-defined]
    if PUBLISHED in outputs:
        made = catalog.load(PUBLISHED)
        click.echo("models:/{model}/{version}, champion is {champion}".format_map(made))
        if "folder" in made:
            _tell_folder(made)


def _tell_folder(made: dict[str, Any]) -> None:
    parts = ["a pipeline of diffusers"] if made["diffusers"] else []
    if made["onnx_difference"] is not None:
        parts.append("the classifier as ONNX")
    click.echo(f"{' and '.join(parts)}, with a model card, in {made['folder']}")
    if not made["diffusers"]:
        click.echo("without a pipeline of diffusers: no solver draws pictures of what was learnt")
    if made["onnx_difference"] is None:
        click.echo("without ONNX: the packages of the extra onnx are not installed")


def _tell_predictions(summary: dict[str, Any], catalog: DataCatalog) -> None:
    damaged = len(summary["damaged"])
    click.echo(
        f"{summary['images']} images classified by {summary['run']}, {summary['state']}: "
        f"{summary['unknown']} are like no class known, {damaged} are damaged."
    )
    for row in summary["damaged"][:10]:
        click.echo(f"  {row['file']}: {row['problem']}")
    for name in (PREDICTIONS[0], PREDICTIONS[2]):
        click.echo(f"{name:<20}{catalog[name].path}")  # type: ignore[attr-defined]
