"""Reports of finished runs, wherever they are kept: read, never written."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

from gppdm_pipeline.catalog.places import place_of
from gppdm_pipeline.faults import of_mlflow
from gppdm_pipeline.run.mlflow_places import database_uri, follow_move

logger = logging.getLogger(__name__)

NAME = "metrics.json"


class _Reports(AbstractDataset[NoReturn, list[dict[str, Any]]]):
    def save(self, data: NoReturn) -> None:
        """Refuse: runs write their reports themselves."""
        raise DatasetError("reports of finished runs are read, not written")


class FolderReports(_Reports):
    """Every <run>/seed_<seed>/metrics.json below a benchmark's reporting folder.

    A run writes that file last.
    """

    def __init__(self, *, filepath: str) -> None:
        self.path = place_of(filepath)

    def load(self) -> list[dict[str, Any]]:
        """The reports, by the names of their folders; none if there is no folder."""
        files = (folder / NAME for folder in sorted(self.path.glob("*/seed_*")))
        return [_read(file) for file in files if file.exists()]

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self.path)}


class MlflowReports(_Reports):
    """The metrics.json of every finished run of an experiment, the latest first."""

    def __init__(self, *, settings: Mapping[str, str], project: Path, experiment: str) -> None:
        """See `Tracker.start` for settings and project."""
        self._settings = settings
        self._project = project
        self._experiment = experiment

    def load(self) -> list[dict[str, Any]]:
        """The reports; none if there is no such experiment.

        Raises:
            DatasetError: if MLflow refuses.
        """
        from gppdm_pipeline.run.tracking import FAILURES  # noqa: PLC0415 (MLflow: slow)

        try:
            return self._found()
        except FAILURES as error:
            raise DatasetError(
                f"MLflow at {self._settings['tracking_uri']} (conf: mlflow.yml) gives no runs: "
                f"{of_mlflow(error)}"
            ) from error

    def _found(self) -> list[dict[str, Any]]:  # Kedro takes a _load in place of load
        from mlflow import MlflowClient  # noqa: PLC0415 (slow)

        follow_move(self._settings, self._project)
        client = MlflowClient(database_uri(self._settings, self._project))
        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is None:
            return []
        runs = client.search_runs(
            [experiment.experiment_id], "attributes.status = 'FINISHED' and tags.method != ''"
        )
        reports = []
        for run in runs:
            if not any(file.path == NAME for file in client.list_artifacts(run.info.run_id)):
                logger.info("MLflow's run %s has no %s: left out.", run.info.run_id, NAME)
                continue
            with tempfile.TemporaryDirectory() as folder:
                reports.append(
                    _read(Path(client.download_artifacts(run.info.run_id, NAME, folder)))
                )
        return reports

    def _describe(self) -> dict[str, Any]:
        return {**self._settings, "experiment": self._experiment}


def _read(file: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise DatasetError(
            f"{file} is damaged ({error}). Remove it, and make it again: the run's command with "
            "--only-missing-outputs."
        ) from error
    return report
