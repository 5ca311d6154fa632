"""Comparing and sweeping, with real runs as small as they can be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from kedro.framework.project import configure_project
from kedro.framework.session import KedroSession
from kedro.runner import SequentialRunner
from mlflow import MlflowClient

from gppdm_pipeline import sweep

ROOT = Path(__file__).parents[2]
PARAMS = (
    "device=cpu,stream.source.train_per_class=10,stream.source.test_per_class=5,"
    "stream.classes_per_task=5,classifier.width=8"
)
REPORTS = Path("data/08_reporting/digits")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    configure_project("gppdm_pipeline")
    return tmp_path


def in_this_process(params, experiment):
    """A run without a process of its own, which takes seconds to start."""
    given = {"benchmark": experiment.benchmark, "method": experiment.method}
    given |= {"seed": experiment.seed, "device": "cpu"}
    given |= {"stream": experiment.stream.model_dump(mode="json")}
    given |= {"classifier": experiment.learner.classifier.model_dump(mode="json")}
    with KedroSession.create(project_path=Path.cwd(), runtime_params=given) as session:
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
    with KedroSession.create(project_path=Path.cwd()) as session:
        session.run(pipeline_names=["compare"], runner=SequentialRunner())


def test_nothing_to_compare():
    with pytest.raises(click.ClickException, match="There is no finished run of benchmark digits"):
        compare()


def test_sweep_then_compare(monkeypatch, capsys):
    monkeypatch.setattr(sweep, "run", in_this_process)
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
    assert kept == {file.name for file in folder.iterdir()}
    assert len(kept) == 5
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


def test_a_stopped_run_goes_on(monkeypatch):
    """Only where its settings are those that are asked for."""
    commands = []

    def record(command, **_):
        commands.append(command)
        return sweep.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(sweep.subprocess, "run", record)
    configuration = Path("data/06_models/digits/finetune/seed_0/configuration.json")
    given = "benchmark=digits,method=finetune,seed=0"
    experiment = sweep.experiment_of(given)
    assert sweep.run(given, experiment)
    configuration.parent.mkdir(parents=True)
    configuration.write_text(json.dumps(experiment.identity()))
    assert not sweep.is_finished(experiment)
    assert sweep.run(given, experiment)
    assert sweep.run(given, sweep.experiment_of(f"{given},classifier.steps=7"))
    assert [command[-1] == "--only-missing-outputs" for command in commands] == [False, True, False]
    assert commands[0][1:] == ["-m", "gppdm_pipeline", f"--params={given}"]


def test_a_wrong_setting_is_told_before_the_first_run():
    done = CliRunner().invoke(sweep.main, ["--benchmark=digits", "--methods=finetune,jont"])
    assert done.exit_code == 1
    assert done.output.startswith("Error: method = jont (--params): there is no such method;")
