"""Registered models in MLflow: versions that are whole, and the alias of the one in use."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from gppdm_pipeline.algorithm.disk.states import StateError
from gppdm_pipeline.algorithm.disk.writing import naming
from gppdm_pipeline.catalog.registry_dataset import RegistryError
from gppdm_pipeline.faults import of_mlflow
from gppdm_pipeline.provenance import PACKAGE, git_commit
from gppdm_pipeline.serving.trained import Learned, TrainedRun

logger = logging.getLogger(__name__)

ALIAS = "champion"
DIGEST = "sha256"
"""The tag of a version that says what its files are."""
REQUIRED = (
    "diffusers",
    "jinja2",
    "matplotlib",
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "pydantic",
    "safetensors",
    "torch",
)


@dataclass(frozen=True)
class Published:
    """A version of a registered model.

    Attributes:
        version: its number.
        learned: its state.
    """

    version: int
    learned: Learned


class ModelRegistry:
    """Registered models.

    Args:
        tracking_uri: of MLflow.
        experiment: the benchmark, whose runs the versions come from.
        artifact_location: where its files are kept, if it has to be made; None: MLflow's place.
    """

    def __init__(
        self, tracking_uri: str, experiment: str, artifact_location: str | None = None
    ) -> None:
        self._client = MlflowClient(tracking_uri, tracking_uri)
        self._experiment = experiment
        self._artifact_location = artifact_location

    def publish(
        self,
        name: str,
        trained: TrainedRun,
        calibration: Mapping[str, Any],
        configuration: Mapping[str, Any],
        accuracy: float | None,
    ) -> int:
        """Make the newest state the next version of a model.

        The files are written first and whole; only then there is a version of them.

        Returns:
            The version's number.

        Raises:
            RegistryError: if MLflow refuses.
        """
        try:
            run = self._run_of(configuration)
            digest, source = self._stored(run, trained.learned, calibration)
            with suppress(MlflowException):  # it is there
                self._client.create_registered_model(name)
            made = self._client.create_model_version(
                name,
                source,
                run.info.run_id,
                description=_description(trained),
                tags={
                    DIGEST: digest,
                    "run": trained.run,
                    "state": trained.newest.parent.name,
                    "git_commit": git_commit(Path.cwd()),
                    "validation_accuracy": "" if accuracy is None else f"{accuracy:.6f}",
                },
            )
        except (MlflowException, OSError) as error:
            raise RegistryError(f"{name} cannot be published: {of_mlflow(error)}") from error
        return int(made.version)

    def _stored(
        self, run: Run, learned: Learned, calibration: Mapping[str, Any]
    ) -> tuple[str, str]:
        """Put a model's files beside a run's: their digest, and where they are."""
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "model"
            with naming(Path(folder)):
                _save(place, Path(folder), learned, calibration)
            digest = folder_digest(place)
            within = f"published/{digest[:16]}"
            self._client.log_artifacts(run.info.run_id, str(place), within)
        return digest, f"{run.info.artifact_uri}/{within}"

    def champion(self, name: str) -> Published | None:
        """The version in use, if there is one that can be read."""
        try:
            found = self._client.get_model_version_by_alias(name, ALIAS)
        except MlflowException:
            return None
        try:
            with tempfile.TemporaryDirectory() as folder:
                place = self.download(name, int(found.version), Path(folder))
                return Published(int(found.version), Learned.read(place / "artifacts/state"))
        except (RegistryError, StateError) as error:
            logger.warning("%s version %s is not compared with: %s", name, found.version, error)
            return None

    def make_champion(self, name: str, version: int) -> None:
        """Let a version be the one in use.

        Raises:
            RegistryError: if there is no such version.
        """
        try:
            self._client.get_model_version(name, str(version))
            self._client.set_registered_model_alias(name, ALIAS, str(version))
        except MlflowException as error:
            there = self._client.search_model_versions(f"name = '{name}'")
            numbers = ", ".join(sorted((str(each.version) for each in there), key=int)) or "none"
            raise RegistryError(
                f"publish.version = {version}: {name} has no such version; there are {numbers}."
            ) from error

    def download(self, name: str, version: int, folder: Path) -> Path:
        """The files of a version, in a folder below `folder`; all are as they were published.

        Raises:
            RegistryError: if they are not, or not there.
        """
        try:
            found = self._client.get_model_version(name, str(version))
            place = mlflow.artifacts.download_artifacts(
                found.source, dst_path=str(folder), tracking_uri=self._client.tracking_uri
            )
        except (MlflowException, OSError) as error:
            raise RegistryError(
                f"models:/{name}/{version} cannot be read: {of_mlflow(error)}"
            ) from error
        if folder_digest(Path(place)) != found.tags.get(DIGEST):
            raise RegistryError(
                f"models:/{name}/{version}: the files in {found.source} are not those that were "
                "published. Publish the state again, or make another version the champion: kedro "
                "run --pipeline=publish --params=publish.version=<number>"
            )
        return Path(place)

    def version_of(self, name: str, chosen: str) -> int:
        """The number of a version that is chosen by an alias or by its number."""
        if chosen.isdecimal():
            return int(chosen)
        try:
            return int(self._client.get_model_version_by_alias(name, chosen).version)
        except MlflowException as error:
            raise RegistryError(
                f"There is no model {name} with the alias {chosen}. Publish one: kedro run "
                "--pipeline=publish"
            ) from error

    def _run_of(self, configuration: Mapping[str, Any]) -> Run:
        """The latest run of these settings; a new one, if MLflow has none."""
        found = self._client.get_experiment_by_name(self._experiment)
        identifier = (
            self._client.create_experiment(self._experiment, self._artifact_location)
            if found is None else found.experiment_id
        )  # fmt: skip
        asked = {key: configuration[key] for key in ("method", "variant", "seed")}
        chosen = " and ".join(
            f"tags.{key} = '{'' if value is None else value}'" for key, value in asked.items()
        )
        runs = self._client.search_runs([identifier], chosen, max_results=1)
        if runs:
            return runs[0]
        made = self._client.create_run(identifier, run_name="published")
        self._client.set_terminated(made.info.run_id)
        return made


def folder_digest(folder: Path) -> str:
    """SHA-256 of all files below a folder, by their paths in it.

    Without what Python compiles, and what MLflow adds to a registered version.
    """
    found = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not {"__pycache__", "registered_model_meta"} & {*file.parts}:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            found.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return found.hexdigest()


def _description(trained: TrainedRun) -> str:
    """What a version is, and what is to know before it is given away."""
    what = f"{trained.run} after {trained.newest.parent.name}."
    keeps = trained.learned.keeps
    if not keeps:
        return what
    return f"{what} Its state keeps {keeps}, which can tell of single ones: docs/privacy.md."


def _save(place: Path, beside: Path, learned: Learned, calibration: Mapping[str, Any]) -> None:
    """Write the model's folder."""
    record = beside / "calibration.json"
    record.write_text(json.dumps(dict(calibration), indent=2))
    artifacts = {"state": str(learned.folder), "calibration": str(record)}
    if learned.space.files:
        copy = beside / learned.space.copy_name
        copy.mkdir()
        artifacts[copy.name] = str(copy)
        for file in learned.space.files:
            shutil.copyfile(file, copy / file.name)
    height, width, channels = learned.image_shape
    grey = [[[0] * channels] * width] * height
    # MLflow warns that an image may be of several types, which is meant, and for some warnings puts
    # a filter of its own before any other: recorded, they are not shown.
    with warnings.catch_warnings(record=True, action="ignore"):
        mlflow.pyfunc.save_model(
            place,
            python_model=str(PACKAGE / "pipelines/publish/model.py"),
            artifacts=artifacts,
            code_paths=[str(PACKAGE)],
            pip_requirements=[
                *(f"{name}=={version_of(name)}" for name in REQUIRED),
                *learned.requirements,
            ],
            input_example=[grey],
        )
