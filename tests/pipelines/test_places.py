"""Where the project and its images lie does not matter: what they are does."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from kedro.runner import SequentialRunner
from mlflow import MlflowClient
from mlflow.utils.validation import _validate_param_name
from PIL import Image
from sqlalchemy import create_engine
from tests.reference.runs import ROOT, TINY, outputs, refused, run

from gppdm_pipeline.cli import run as kedro_run
from gppdm_pipeline.run.mlflow_places import (
    artifact_location,
    database_uri,
    follow_move,
    make_database,
)
from gppdm_pipeline.run.session import Session
from gppdm_pipeline.run.summary import print_summary
from gppdm_pipeline.run.tracking import LONGEST_KEY, _experiment, _key

pytestmark = pytest.mark.usefixtures("project")

SETTINGS = {"tracking_uri": "sqlite:///mlflow.db", "artifact_location": "mlruns"}


def write_images(folder, *names):
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        (folder / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def of_folder(folder, **stream):
    source = {"reader": "image_folder", "folder": str(folder), "colour": "grey"}
    return {"stream": {"source": source, "classes_per_task": 1, **stream}}


def test_the_same_images_elsewhere_go_on_and_others_under_the_same_path_do_not(tmp_path, caplog):
    odd_name = "dog's \\${x}"  # OmegaConf would look for x
    here = write_images(tmp_path / "here", "cat, tabby", odd_name)
    run(of_folder(here), namespaces=["task_01"])
    first = outputs("06_models") / "task_01" / "state" / "state.json"
    made = first.stat().st_mtime_ns
    there = shutil.copytree(here, tmp_path / "of another job" / "it")
    Image.new("L", (8, 8)).save(here / "cat, tabby" / "0.png")
    with refused("made of other images:\n  task 1: training images of cat, tabby (as many, but"):
        run(of_folder(here), namespaces=["task_02"])
    shutil.rmtree(here)
    odd = {"experiences": 2, "probability": {"cat, tabby": 0.0, odd_name: 0.0}}
    with refused("made with other settings", "stream.repetition.experiences"):
        run(of_folder(there, classes_per_task=None, repetition=odd, returning_images="divide"))
    run(of_folder(there), namespaces=["task_02", "report"])
    assert first.stat().st_mtime_ns == made
    assert json.loads(first.read_text())["configuration"]["classes"] == ["cat, tabby", odd_name]
    assert str(tmp_path) not in (outputs("06_models") / "configuration.json").read_text()


def test_a_project_of_any_name_writes_where_it_stands_though_it_was_moved(
    tmp_path, monkeypatch, caplog
):
    old, new = (tmp_path / f"{name} [v2] é" for name in ("old", "new"))
    old.mkdir()
    for name in ("conf", "mlflow.db"):
        shutil.move(name, old / name)
    shutil.copy(ROOT / "pyproject.toml", old)
    write_images(old / "data/01_raw/my_images", "a", "b")
    params = of_folder("data/01_raw/my_images")
    monkeypatch.chdir(old)
    run(params)
    old.rename(new)
    inside = new / "notebooks"
    inside.mkdir()
    monkeypatch.chdir(inside)
    monkeypatch.delenv("GPPDM_CACHE")
    given = {**TINY, **params, "seed": 1}
    with caplog.at_level(logging.INFO), Session.create(runtime_params=given) as session:
        session.run(pipeline_names=["continual"], runner=SequentialRunner())
    assert f"The project stood in {old} when MLflow's database was made" in caplog.text
    assert "names the files of 1 runs in" in caplog.text
    assert not old.exists()
    assert len([*(new / "mlruns").glob("*/artifacts/metrics.json")]) == 2
    assert [*inside.iterdir()] == []
    client = MlflowClient(database_uri(SETTINGS, new))
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    files = [{file.path for file in client.list_artifacts(run.info.run_id)} for run in runs]
    assert all("metrics.json" in names for names in files)
    assert len(files) == 2


def test_signs_that_mean_something_in_urls_are_signs_in_a_path(tmp_path, monkeypatch):
    home = tmp_path / "a #1 50%25?"
    home.mkdir()
    shutil.move("mlflow.db", home)
    monkeypatch.chdir(home)
    client = MlflowClient(database_uri(SETTINGS, home))
    made = client.create_experiment("odd", artifact_location=artifact_location(SETTINGS, home))
    run_id = client.create_run(made).info.run_id
    client.log_artifact(run_id, __file__)
    assert [file.path for file in client.list_artifacts(run_id)] == [Path(__file__).name]
    assert [file.name for file in (home / "mlruns").glob("*/artifacts/*")] == [Path(__file__).name]
    assert {file.name for file in tmp_path.iterdir()} == {"conf", home.name}


def test_files_and_models_are_found_where_the_project_was_moved(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    shutil.move("mlflow.db", old)
    client = MlflowClient(f"sqlite:///{old}/mlflow.db")
    made = client.create_experiment("digits", artifact_location=artifact_location(SETTINGS, old))
    whole, without, left = (client.create_run(made).info for _ in range(3))
    for each in (whole, left):
        client.log_artifact(each.run_id, __file__)
    client.create_registered_model("model")
    client.create_model_version("model", f"{whole.artifact_uri}/published", whole.run_id)
    old.rename(new)
    shutil.move(new / "mlruns" / left.run_id, old / "mlruns" / left.run_id)
    follow_move(SETTINGS, new)
    client = MlflowClient(f"sqlite:///{new}/mlflow.db")
    at = f"{new.as_uri()}/mlruns"
    assert client.get_run(whole.run_id).info.artifact_uri == f"{at}/{whole.run_id}/artifacts"
    assert client.get_run(without.run_id).info.artifact_uri == f"{at}/{without.run_id}/artifacts"
    assert client.get_run(left.run_id).info.artifact_uri == left.artifact_uri
    assert (
        client.get_model_version("model", "1").source == f"{at}/{whole.run_id}/artifacts/published"
    )


def test_a_database_that_is_not_the_projects_is_left_alone(tmp_path, caplog):
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    elsewhere = "file:///somewhere/else/files"
    client.create_experiment("digits", artifact_location=elsewhere)
    for settings in (
        SETTINGS,
        {
            **SETTINGS,
            "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db",
            "artifact_location": "files",
        },
        {**SETTINGS, "artifact_location": "s3://bucket/files"},
        {**SETTINGS, "tracking_uri": "http://server:5000", "artifact_location": "files"},
        {**SETTINGS, "tracking_uri": "sqlite:///not_there.db", "artifact_location": "files"},
    ):
        follow_move(settings, tmp_path)
    assert client.get_experiment_by_name("digits").artifact_location == elsewhere
    follow_move({**SETTINGS, "artifact_location": "files"}, tmp_path)
    assert (
        client.get_experiment_by_name("digits").artifact_location == (tmp_path / "files").as_uri()
    )


def test_a_database_is_made_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = tmp_path / "new"
    folder.mkdir()
    uri = f"sqlite:///{folder}/mlflow.db"

    def stopped(begun):
        MlflowClient(begun).search_experiments()
        raise KeyboardInterrupt

    monkeypatch.setattr("mlflow.MlflowClient", stopped)
    with pytest.raises(KeyboardInterrupt):
        make_database(uri)
    assert not list(folder.iterdir())
    monkeypatch.undo()
    make_database(uri)
    assert [file.name for file in folder.iterdir()] == ["mlflow.db"]
    with create_engine(uri).connect() as connection:
        assert connection.exec_driver_sql("SELECT name FROM experiments").all() == [("Default",)]
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # waits for the disk
    before = (folder / "mlflow.db").read_bytes()
    make_database(uri)
    assert (folder / "mlflow.db").read_bytes() == before
    for other in (f"sqlite:///{folder}/other.db?timeout=1", "https://server:5000"):
        make_database(other)
    assert [file.name for file in folder.iterdir()] == ["mlflow.db"]


def test_a_server_keeps_the_files_of_runs():
    served = {**SETTINGS, "tracking_uri": "https://server:5000"}
    assert artifact_location(served, Path("/project")) is None
    for settings in (served, SETTINGS):
        bucket = {**settings, "artifact_location": "s3://bucket/files"}
        assert artifact_location(bucket, Path("/project")) == "s3://bucket/files"
    assert artifact_location(SETTINGS, Path("/project")) == "file:///project/mlruns"


def test_of_runs_that_make_an_experiment_at_once_all_have_it(tmp_path, monkeypatch):
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    settings = {**SETTINGS, "description": ""}
    first = _experiment(client, settings, tmp_path, "digits")
    look, seen = client.get_experiment_by_name, []
    monkeypatch.setattr(
        client, "get_experiment_by_name", lambda name: seen.append(name) or
        (look(name) if len(seen) > 1 else None)
    )  # fmt: skip
    assert _experiment(client, settings, tmp_path, "digits") == first
    assert len(seen) == 2


def test_a_path_with_brackets_is_shown_as_it_is(tmp_path, capsys):
    report = {
        "configuration": {"benchmark": "b", "method": "m", "seed": 0},
        "accuracy_matrix": [[1.0]],
        "average_accuracy_after_task": [1.0],
        "seconds": {},
        "average_accuracy": 1.0,
        "average_incremental_accuracy": 1.0,
        "forgetting": None,
    }
    print_summary(report, {"states": Path("/x/gppdm[v2]/[bold]/data")})
    assert "/x/gppdm[v2]/[bold]/data" in capsys.readouterr().out


def steps(**params):
    """Of the classifier, as a new session reads them."""
    with Session.create(project_path=Path.cwd(), runtime_params=params) as session:
        return session._get_config_loader().experiment.learner.classifier.steps


def test_what_is_parsed_once_is_what_the_files_say_now():
    file = Path("conf/local/parameters.yml")
    file.parent.mkdir(exist_ok=True)
    for written in (7, 8):
        file.write_text(f"classifier:\n  steps: {written}\n")
        assert steps(classifier={"steps": 9}) == 9
        assert [steps(), steps()] == [written, written]
    file.write_text("classifier:\n  steps: ${runtime_params:classifier.width, 10}\n")
    assert [steps(), steps(classifier={"width": 16}), steps()] == [10, 16, 10]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pipelines=contnual"], "there is no such pipeline; did you mean continual? Allowed:"),
        (["--pipelines=inspect", "--nodes=lok"], "lok"),
        (["--tags=none"], "no nodes after applying"),
        (["--runner=NoRunner"], "NoRunner"),
        (["--pipelines=continual", "--params=variant=a/b"], "variant = a/b (--params): "),
        (["--params=stream.source.folder=${x}"], "stream.source.folder = ${x} (--params): "),
    ],
)
def test_what_the_command_line_holds_wrong_is_told_without_a_traceback(options, message):
    done = CliRunner().invoke(kedro_run, options)
    assert done.exit_code == 1
    assert message in done.output
    assert "Traceback" not in done.output
    assert not Path("data").exists()


def test_a_number_for_a_variant_in_a_file_is_refused():
    Path("conf/local").mkdir(exist_ok=True)
    Path("conf/local/parameters.yml").write_text("variant: 010\n")
    done = CliRunner().invoke(kedro_run, [])
    assert "variant = 8 (conf/local/parameters.yml): YAML reads a number" in done.output
    assert done.exit_code == 1


def test_a_configuration_that_may_not_be_read_is_told_as_such(monkeypatch):
    for file in Path("conf/base").rglob("*.yml"):
        file.unlink()  # which a folder that may not be read looks like
    listdir = os.listdir

    def refusing(place):
        if str(place).endswith("conf/base"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return listdir(place)

    monkeypatch.setattr(os, "listdir", refusing)
    with refused("conf/base: Permission denied. Allow this user to read"):
        run()


def test_a_path_with_a_brace_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "{v2}"
    shutil.copytree("conf", folder / "conf")
    monkeypatch.chdir(folder)
    with refused("{v2}: Kedro takes what is in braces for a pattern. Rename the folder"):
        run()


def test_names_of_any_signs_are_names_in_mlflow():
    names = [
        "a, b",
        "dog's",
        "猫",
        "🐈",
        "x/../y",
        "50%",
        "a:2c: b",
        "n" * 300,
        "n" * 301,
        "\udcff",
    ]
    keys = {_key(f"stream.repetition.probability.{name}") for name in names}
    assert len(keys) == len(names)
    assert all(_validate_param_name(key) is None for key in keys)
    assert max(map(len, keys)) <= LONGEST_KEY
    assert "stream.repetition.probability.a:2c: b" in keys


@pytest.mark.parametrize("pipeline", ["continual", "inspect", "compare"])
def test_a_project_that_cannot_be_written_is_told_by_every_pipeline(pipeline):
    Path("data").write_text("no folder")
    given = json.dumps(TINY["stream"]["source"])
    params = f"method=finetune,stream.classes_per_task=5,stream.source={given}"
    done = CliRunner().invoke(kedro_run, [f"--pipelines={pipeline}", f"--params={params}"])
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    assert "data" in done.output
