"""Runs in MLflow: parameters, metrics, curves, figures.

Plain MLflow rather than kedro-mlflow: that one names runs after the pipeline, logs a validated
parameter as one string, knows no steps, and reads its configuration before the experiment is known,
so all of this would have to be written anyway. Importing MLflow takes two seconds: only what opens
it imports this module.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from gppdm_pipeline.algorithm.disk.checkpoint_files import digest
from gppdm_pipeline.configuration.experiment import Experiment
from gppdm_pipeline.faults import of_mlflow, of_mlflow_on_the_way
from gppdm_pipeline.provenance import git_commit
from gppdm_pipeline.run.mlflow_places import (
    TrackingError,
    alone,
    artifact_location,
    database_uri,
    follow_move,
    make_database,
)
from gppdm_pipeline.stopping import stops_held

logger = logging.getLogger(__name__)

FAILURES = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)
BATCH = 1000  # the most metrics that MLflow takes at once
LONGEST = 4000  # characters of a parameter; MLflow takes 6000
LONGEST_KEY = 250  # characters of its name


class Tracker:
    """One run in MLflow.

    Attributes:
        run_id: MLflow's.
        lost: whether MLflow failed on the way.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self.run_id = run_id
        self.lost = False

    @classmethod
    def start(
        cls,
        settings: Mapping[str, str],
        project: Path,
        experiment: Experiment,
        record: Path | None = None,
    ) -> Tracker:
        """Open a run, or go on with the one that MLFLOW_RUN_ID names, or else `record`.

        Args:
            settings: `tracking_uri`, `artifact_location`, `description`; see conf/base/mlflow.yml.
            project: what relative paths in the settings start from.
            experiment: gives names, tags and parameters.
            record: a file that names a run of the same settings, if there is one.

        Raises:
            TrackingError: if MLflow refuses.
        """
        try:
            uri = database_uri(settings, project)
            follow_move(settings, project)
            with alone(uri):
                make_database(uri)
                client = MlflowClient(uri)
                run_id = (
                    os.getenv("MLFLOW_RUN_ID")
                    or _recorded(client, record, experiment)
                    or _create_run(client, settings, project, experiment)
                )
            client.update_run(run_id, status="RUNNING")
            client.log_batch(
                run_id,
                params=[Param(key, value) for key, value in _parameters(experiment).items()],
                tags=[RunTag(key, str(value)) for key, value in _tags(project, experiment).items()],
            )
        except FAILURES as error:
            raise TrackingError(
                f"MLflow at {settings['tracking_uri']} (conf: mlflow.yml) refuses the run: "
                f"{of_mlflow(error)}"
            ) from error
        return cls(client, run_id)

    def log_stage(self, task: int, name: str, record: Mapping[str, Any]) -> None:
        """What a stage cost and told (step: the task), and its curves (step: batches)."""
        numbers = {f"seconds/{name}": record["seconds"]}
        numbers[f"cpu_seconds/{name}"] = record["cpu_seconds"]
        numbers[f"peak_memory_bytes/{name}"] = record["peak_memory_bytes"]
        numbers |= {f"{name}/{key}": value for key, value in record["metrics"].items()}
        self.log_metrics(task, numbers)
        curves = (
            (f"task_{task:02d}/{key}", value, step)
            for key, curve in record["curves"].items()
            for step, value in curve
        )
        self._log(list(curves))

    def log_metrics(self, task: int, numbers: Mapping[str, float | None]) -> None:
        """Single numbers after a task; None is left out."""
        self._log([(key, value, task) for key, value in numbers.items() if value is not None])

    def log_images(self, name: str, digest: str, images: int, source: Mapping[str, Any]) -> None:
        """What a task learns from, as a dataset in MLflow.

        Args:
            name: of the images.
            digest: a hash of them, of which MLflow shows the beginning.
            images: how many.
            source: the settings of their reader.
        """
        profile = json.dumps({"images": images})
        data = Dataset(name, digest[:16], "local", json.dumps(source, default=str), None, profile)
        context = InputTag("mlflow.data.context", "training")
        self._send(self._client.log_inputs, [DatasetInput(data, [context])])

    def log_files(self, files: Iterable[Path]) -> None:
        """Keep files with the run."""
        for file in files:
            self._send(self._client.log_artifact, str(file))

    def finish(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        self._send(self._client.set_terminated, status)

    def _log(self, points: Sequence[tuple[str, float, int]]) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(key, float(value), now, step) for key, value, step in points]
        for start in range(0, len(metrics), BATCH):
            self._send(self._client.log_batch, metrics[start : start + BATCH])

    def _send(self, call: Callable[..., object], value: object) -> None:
        """A training of hours is worth more than its log: if MLflow fails, say so and go on."""
        if self.lost:
            return
        try:
            with stops_held():
                call(self.run_id, value)
        except FAILURES as error:
            self.lost = True
            logger.error(
                "MLflow failed, and run %s there stays incomplete; training goes on, and its "
                "results are in data/. %s",
                self.run_id,
                of_mlflow_on_the_way(error),
            )


def _parameters(experiment: Experiment) -> dict[str, str]:
    """As MLflow keeps them; the names of a thousand classes are more than it takes."""
    texts = {_key(name): _text(value) for name, value in experiment.flatten().items()}
    return {
        key: text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} characters)"
        for key, text in texts.items()
    }


def _text(value: object) -> str:
    """Without the bytes of a file's name that are no text, which no database takes."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def _key(name: str) -> str:
    """The name of a setting, in which may be that of a class, as MLflow takes it.

    Letters, digits, "_", "-", "." and " " stay; other signs are their code points between colons.
    """
    key = re.sub(r"[^\w. -]", lambda sign: f":{ord(sign[0]):x}:", name)
    return key if len(key) <= LONGEST_KEY else f"{key[: LONGEST_KEY - 13]}:{digest(key)[:12]}"


def _recorded(client: MlflowClient, record: Path | None, experiment: Experiment) -> str | None:
    """The run that the file names, if it is there and has the experiment's settings."""
    if record is None or not record.exists():
        return None
    run_id = record.read_text()
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    same = run.info.lifecycle_stage == "active" and run.data.params == _parameters(experiment)
    return run_id if same else None


def log_comparison(
    settings: Mapping[str, str], project: Path, benchmark: str, files: Iterable[Path]
) -> None:
    """Keep a comparison's files with a run of their own, named `comparison`.

    Args:
        settings: see `Tracker.start`.
        project: what relative paths in the settings start from.
        benchmark: the experiment.
        files: table and figures.

    Raises:
        TrackingError: if MLflow refuses; the files themselves are not touched.
    """
    try:
        client = MlflowClient(database_uri(settings, project))
        identifier = _experiment(client, settings, project, benchmark)
        run_id = client.create_run(identifier, run_name="comparison").info.run_id
        for file in files:
            client.log_artifact(run_id, str(file))
        client.set_terminated(run_id, "FINISHED")
    except FAILURES as error:
        raise TrackingError(
            f"MLflow at {settings['tracking_uri']} (conf: mlflow.yml) refuses the comparison, "
            f"whose files are in data/: {of_mlflow(error)}"
        ) from error


def _experiment(
    client: MlflowClient, settings: Mapping[str, str], project: Path, benchmark: str
) -> str:
    """The experiment's identifier; it is made if it is not there, by the first of many writers."""
    found = client.get_experiment_by_name(benchmark)
    if found is None:
        try:
            return client.create_experiment(
                benchmark,
                artifact_location=artifact_location(settings, project),
                tags={"mlflow.note.content": settings["description"]},
            )
        except MlflowException:
            found = client.get_experiment_by_name(benchmark)
            if found is None:
                raise
    return found.experiment_id


def _create_run(
    client: MlflowClient, settings: Mapping[str, str], project: Path, experiment: Experiment
) -> str:
    identifier = _experiment(client, settings, project, experiment.benchmark)
    variant = f" {experiment.variant}" if experiment.variant else ""
    name = f"{experiment.method}{variant} seed {experiment.seed}"
    return str(client.create_run(identifier, run_name=name).info.run_id)


def _tags(project: Path, experiment: Experiment) -> dict[str, object]:
    commit = git_commit(project)
    return {
        "benchmark": experiment.benchmark,
        "method": experiment.method,
        "seed": experiment.seed,
        "variant": experiment.variant or "",
        "fingerprint": experiment.fingerprint(),
        "budget": experiment.budget or "",
        **{key: _text(place) for key, place in experiment.places().items() if place},
        "git_commit": commit,
        "mlflow.source.git.commit": commit,
        "mlflow.source.name": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:LONGEST],
        "mlflow.source.type": "LOCAL",
    }
