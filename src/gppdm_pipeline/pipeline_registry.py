"""The pipelines, built for one experiment."""

from __future__ import annotations

import os
from contextlib import chdir
from pathlib import Path

from kedro.framework.project import pipelines, settings
from kedro.pipeline import Pipeline
from kedro.utils import find_kedro_project

from gppdm_pipeline.configuration.experiment import Experiment
from gppdm_pipeline.pipelines import audit, compare, continual, draw, inspect, predict, publish
from gppdm_pipeline.pipelines.continual.pipeline import task_name

NAMES = (
    "audit",
    "compare",
    "continual",
    "draw",
    "inspect",
    "predict",
    "publish",
    "__default__",
)
_experiments: list[Experiment] = []  # the one in use, if there is any


def use(experiment: Experiment) -> None:
    """Build the pipelines for `experiment` when they are next asked for.

    Kedro keeps what it once built, so that a second session of one process would get the graph of
    the first.
    """
    _experiments[:] = [experiment]
    pipelines.configure(__name__)


def register_pipelines() -> dict[str, Pipeline]:
    """The pipelines by name; `continual` is the default.

    Commands without a session (such as `kedro registry list`) get the graph of the project's own
    configuration.
    """
    if not _experiments:
        project = find_kedro_project(Path.cwd()) or Path.cwd()
        with chdir(project):
            settings.CONFIG_LOADER_CLASS(
                conf_source=str(project / settings.CONF_SOURCE),
                env=os.getenv("KEDRO_ENV"),
                **settings.CONFIG_LOADER_ARGS,
            )
    (experiment,) = _experiments
    tasks = experiment.number_of_tasks
    learn = continual.create_pipeline(
        experiment.learner,
        tasks,
        experiment.evaluation,
        releases="release" in (experiment.retention, experiment.retention_of_test),
        shows_real=experiment.shows_real_images,
        space=experiment.space,
    )
    made = (
        audit.create_pipeline([task_name(t) for t in range(1, tasks + 1)]),
        compare.create_pipeline(),
        learn,
        draw.create_pipeline(experiment.draw.towards is not None),
        inspect.create_pipeline(experiment.shows_real_images),
        predict.create_pipeline(),
        publish.create_pipeline(),
        learn,
    )
    return dict(zip(NAMES, made, strict=True))
