"""Whole runs of Kedro in a folder of their own (the fixture `project`), as small as can be."""

from __future__ import annotations

import base64
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import click
import pytest
from kedro.framework.project import configure_project
from kedro.runner import SequentialRunner
from mlflow import MlflowClient

from gppdm_pipeline.evaluation.pictures import Picture
from gppdm_pipeline.run.mlflow_places import make_database
from gppdm_pipeline.run.session import Session

BLANK = {
    "png": base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
    ),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
}
"""A picture of nothing."""
ROOT = Path(__file__).parents[2]
TINY: dict[str, Any] = {
    "method": "finetune",
    "device": "cpu",
    "stream": {
        "source": {"train_per_class": 10, "test_per_class": 5},
        "classes_per_task": 5,
    },
    "classifier": {"steps": 10, "width": 8},
    "vae_replay": {"vae": {"steps": 10, "width": 8}, "replay": {"images_per_class": 2}},
    **{
        name: {
            "denoiser": {"steps": 10, "first_task": 1.0, "channels": [8, 16], "batch_size": 8},
            "replay": {"images_per_class": 2, "sampler_steps": 2},
        }
        for name in ("gppdm", "ddgr")
    },
}


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """What takes MLflow a second to make."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    make_database(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def configured():
    """Kedro knows the project."""
    configure_project("gppdm_pipeline")


@pytest.fixture
def project(tmp_path, monkeypatch, request, empty_database, configured):
    """The working folder: a project with the shipped configuration and no run.

    Pictures are drawn where the test is marked `pictures`: they take a third of a tiny run.
    """
    if not request.node.get_closest_marker("pictures"):
        monkeypatch.setattr(Picture, "rendered", lambda _, kind: BLANK[kind])
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return tmp_path


def run(params: dict[str, Any] | None = None, **options: Any) -> None:
    given = {**TINY, **(params or {})}
    with Session.create(project_path=Path.cwd(), runtime_params=given) as session:
        session.run(pipeline_names=["continual"], runner=SequentialRunner(), **options)


def refused(*messages: str):
    return pytest.raises(click.ClickException, match="(?s)" + ".*".join(map(re.escape, messages)))


def client() -> MlflowClient:
    return MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")


def mlflow_runs() -> list[Any]:
    """The latest first."""
    experiment = client().get_experiment_by_name("digits")
    return client().search_runs([experiment.experiment_id])


def outputs(layer: str, run: str = "digits/finetune/seed_0") -> Path:
    return Path.cwd() / "data" / layer / run


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def free_port() -> int:
    """On loopback; nothing keeps others from it until it is taken."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
