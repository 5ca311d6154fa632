"""Comparing and sweeping, with real runs as small as they can be."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import click
import pytest
from click.testing import CliRunner
from kedro.runner import SequentialRunner
from mlflow import MlflowClient
from tests.reference.experiments import experiment_of

from gppdm_pipeline import sweep
from gppdm_pipeline.algorithm.disk.checkpoint_files import digest
from gppdm_pipeline.grids import runs
from gppdm_pipeline.run.command import Command
from gppdm_pipeline.run.session import Session

ROOT = Path(__file__).parents[2]
PARAMS = (
    "device=cpu,stream.source.train_per_class=10,stream.source.test_per_class=5,"
    "stream.classes_per_task=5,classifier.width=8"
)
REPORTS = Path("data/08_reporting/digits")
DATA = {"average_accuracy.csv", "forgetting_against_cost.csv", "accuracy_by_class.csv"}


pytestmark = pytest.mark.usefixtures("project")


def in_this_process(params):
    """A run without a process of its own, which takes seconds to start."""
    experiment = experiment_of(params)
    given = {"benchmark": experiment.benchmark, "method": experiment.method}
    given |= {"seed": experiment.seed, "device": "cpu"}
    given |= {"stream": experiment.stream.model_dump(mode="json")}
    given |= {"classifier": experiment.learner.classifier.model_dump(mode="json")}
    with Session.create(project_path=Path.cwd(), runtime_params=given) as session:
        try:
            session.run(pipeline_names=["continual"], runner=SequentialRunner())
        except click.ClickException as error:
            click.echo(error.message)
            return False
    return True


def swept(methods, seeds="0", params=f"{PARAMS},classifier.steps=3"):
    given = [f"--methods={methods}", f"--seeds={seeds}", f"--params={params}"]
    return CliRunner().invoke(sweep.main, ["--benchmark=digits", *given])


def compare():
    with Session.create(project_path=Path.cwd()) as session:
        session.run(pipeline_names=["compare"], runner=SequentialRunner())


def test_nothing_to_compare():
    with pytest.raises(click.ClickException, match="There is no finished run of benchmark digits"):
        compare()


def test_sweep_then_compare(monkeypatch, capsys):
    monkeypatch.setattr(runs, "run", in_this_process)
    done = swept("finetune,exemplar", "0,1")
    assert done.exit_code == 0, done.output
    assert "[4/4] digits/exemplar/seed_1: " in done.output
    again = swept("finetune,exemplar,lwf", "0")
    assert again.output.count(": finished, average accuracy ") == 2
    assert "[3/3] digits/lwf/seed_0 ... 0 more to come" in again.output

    # What is in MLflow alone counts, too, and what is in both places counts once.
    shutil.rmtree(REPORTS / "finetune" / "seed_1")
    compare()
    folder = REPORTS / "comparison"
    table = (folder / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert "| finetune | 2 (0, 1) |" in table
    assert "| lwf | 1 (0) |" in table
    assert len((folder / "table.csv").read_text().splitlines()) == 4
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    run, *others = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "comparison"
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert kept == {f.name for f in folder.iterdir() if f.suffix != ".svg"} - DATA
    assert len(kept) == 6
    assert (folder / "comparison.html").read_text().count("<img ") == 3
    assert all(
        {"classifier.steps", "stream.classes_per_task"} <= set(o.data.params) for o in others
    )

    # A run with another budget is refused, and the table stays without it.
    failed = swept("finetune", "0", f"{PARAMS},classifier.steps=4")
    assert failed.exit_code == 1
    assert "classifier.steps: 3 there, 4 now" in failed.output
    assert "1 of 1 runs failed" in failed.output
    swept("joint", "0", f"{PARAMS},classifier.steps=4")
    compare()
    table = (folder / "table.md").read_text()
    assert "| joint seed 0 | `classifier.steps` | 4 | 3 |" in table
    assert "| joint | 1" not in table


def test_a_damaged_report_is_named(monkeypatch):
    file = REPORTS / "finetune" / "seed_0" / "metrics.json"
    file.parent.mkdir(parents=True)
    file.write_text("{")
    with pytest.raises(click.ClickException, match=r"seed_0/metrics\.json is damaged"):
        compare()


def test_a_report_that_may_not_be_read_is_told_and_not_left_out(monkeypatch):
    (REPORTS / "finetune" / "seed_0").mkdir(parents=True)
    exists = Path.exists

    def refusing(path):
        if path.name == "metrics.json":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", refusing)
    with pytest.raises(click.ClickException, match=r"seed_0/metrics\.json: Permission denied\. Al"):
        compare()


def test_a_database_that_cannot_be_read_is_told_with_the_repair():
    Path("mlflow.db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(click.ClickException, match=r"gives no runs: file is not a database\. Put "):
        compare()


def test_only_a_whole_run_with_the_same_settings_is_finished():
    experiment = experiment_of("benchmark=digits,method=finetune,seed=0")
    configuration = Path("data/06_models/digits/finetune/seed_0/configuration.json")
    configuration.parent.mkdir(parents=True)
    configuration.write_text(json.dumps(experiment.record()))
    assert not runs.is_finished(experiment)
    (REPORTS / "finetune" / "seed_0").mkdir(parents=True)
    (REPORTS / "finetune" / "seed_0" / "metrics.json").write_text("{}")
    assert runs.is_finished(experiment)
    command = Command(Path("data/.checkpoints/digits/finetune/seed_0"), experiment, {})
    command.begin()
    assert not runs.is_finished(experiment)
    command.end()
    assert runs.is_finished(experiment)
    other = experiment_of("benchmark=digits,method=finetune,seed=0,classifier.steps=7")
    assert not runs.is_finished(other)
    *train, test = (f"{number}" for number in range(experiment.number_of_tasks + 1))
    last = f"task_{experiment.number_of_tasks:02d}"
    for folder, name, content in (
        (configuration.parent / last / "state", "state.json", {"data": train}),
        (REPORTS / "finetune" / "seed_0" / last, "evaluation.json", {"test_data": test}),
    ):
        folder.mkdir(parents=True)
        (folder / name).write_text(json.dumps(content))
    assert runs.learnt(experiment) == digest(*train, test)
    assert not runs.is_finished(experiment)


def test_a_run_with_images_that_are_to_be_released_goes_on_with_that():
    given = "benchmark=digits,method=finetune,seed=0"
    kept, released = experiment_of(given), experiment_of(f"{given},retention=release")
    for file, content in (
        ("data/06_models/digits/finetune/seed_0/configuration.json", json.dumps(kept.record())),
        (REPORTS / "finetune/seed_0/metrics.json", "{}"),
        ("data/03_primary/digits/finetune/seed_0/task_01/test.npz", ""),
        ("data/03_primary/digits/finetune/seed_0/task_01/train.npz", ""),
    ):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(content)
    command = Command(Path("data/.checkpoints/digits/finetune/seed_0"), released, {})
    assert runs.is_finished(kept)
    assert not command.goes_on()
    runs.let_release_go_on(kept)
    assert not runs.is_finished(released)
    assert not command.goes_on()
    runs.let_release_go_on(released)
    assert command.goes_on()
    Path("data/03_primary/digits/finetune/seed_0/task_01/train.npz").unlink()
    command.end()
    assert runs.is_finished(released)


def test_each_run_has_a_process_of_its_own(monkeypatch):
    commands = []

    def record(command, **_):
        commands.append(command)
        code = len(commands) - 1
        return Mock(wait=lambda: code)

    monkeypatch.setattr(runs.subprocess, "Popen", record)
    assert [runs.run("seed=1"), runs.run("seed=2")] == [True, False]
    assert [command[1:] for command in commands] == [
        ["-m", "gppdm_pipeline", f"--params=seed={seed}"] for seed in (1, 2)
    ]


STOPPED = """
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from gppdm_pipeline.grids import runs
from gppdm_pipeline.run.session import Session
sys.executable = sys.argv[1]  # what stands for Python, and for a run that takes long
with ThreadPoolExecutor(2) as pool, runs.runs_end_with_this():
    list(pool.map(runs.run, ("seed=0", "seed=1")))
"""


def test_what_stops_a_sweep_stops_its_runs(tmp_path):
    """SIGTERM reaches the one process only; each run notes its number, and that it was told."""
    run = tmp_path / "run"
    run.write_text(
        f"""#!/bin/sh
trap 'touch {tmp_path}/$$.stopped; exit 0' TERM
touch {tmp_path}/$$.begun
for _ in $(seq 600); do sleep 0.1; done
"""
    )
    run.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen([sys.executable, "-c", STOPPED, str(run)], env=environment)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.begun"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert len(list(tmp_path.glob("*.stopped"))) == 2


def test_comparing_in_a_process_of_its_own():
    """Nothing is left over there from a run that trains."""
    report = {
        "configuration": experiment_of("benchmark=digits,method=joint").settings(),
        "average_accuracy": 0.5,
        "average_accuracy_after_task": [0.75, 0.5],
        "average_incremental_accuracy": 0.625,
        "forgetting": 0.25,
        "task_masked_accuracy": 0.5,
        "per_class_accuracy": {"0": 0.5},
        "seconds": {"task_01": {"evaluate": 1.0}},
        "state_bytes": [8],
    }
    file = REPORTS / "joint" / "seed_0" / "metrics.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(report))
    command = [sys.executable, "-m", "gppdm_pipeline", "--pipeline=compare"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "| joint | 1 (0) | 50.0 | 62.5 | 25.0 |" in done.stdout


def test_comparing_does_not_go_on_with_a_stopped_run(monkeypatch):
    """Else it would take its own earlier table for what is missing no more."""
    monkeypatch.setattr(runs, "run", in_this_process)
    swept("finetune")
    compare()
    table = REPORTS / "comparison" / "table.md"
    table.write_text("old")
    monkeypatch.setattr("gppdm_pipeline.run.session.Command.goes_on", lambda _: True)
    compare()
    assert "| finetune | 1 (0) |" in table.read_text()


def test_a_wrong_setting_is_told_before_the_first_run():
    done = CliRunner().invoke(sweep.main, ["--benchmark=digits", "--methods=finetune,jont"])
    assert done.exit_code == 1
    assert done.output.startswith("Error: method = jont (--params): there is no such method;")
