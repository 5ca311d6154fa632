from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.project import pipelines
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from tests.reference.runs import (
    TINY,
    client,
    contents,
    mlflow_runs,
    outputs,
    refused,
    run,
)

from gppdm_pipeline.methods import METHODS
from gppdm_pipeline.methods.finetune import Finetune
from gppdm_pipeline.pipelines.continual import create_pipeline
from gppdm_pipeline.pipelines.continual.assessment import STAGES
from gppdm_pipeline.run.session import Session

pytestmark = pytest.mark.usefixtures("project")


# One of each kind: the contract suite runs on all.
@pytest.mark.pictures
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("ddgr", {}),
        ("exemplar", {}),
        ("finetune", {}),
        ("gppdm", {"memory": "shared"}),
        ("gppdm", {"memory": "adapters"}),
        ("joint", {}),
        ("vae_replay", {}),
    ],
)
def test_whole_run(method, settings):
    run({"method": method, method: {**TINY.get(method, {}), **settings}})
    reports = outputs("08_reporting", f"digits/{method}/seed_0")
    report = json.loads((reports / "metrics.json").read_text())
    assert np.array(report["accuracy_matrix"], float).shape == (2, 2)
    for key in (
        "average_accuracy",
        "average_incremental_accuracy",
        "forgetting",
        "backward_transfer",
        "task_masked_accuracy",
    ):
        assert -1 <= report[key] <= 1
    stages = ["synthesise_replay", "train_classifier", "train_generator", "evaluate"]
    results = json.loads((reports / "results.json").read_text())
    apart = ("seconds", "cpu_seconds", "evaluation_seconds", "peak_memory_bytes", "basis_free")
    costs = {key: report.pop(key) for key in apart}
    assert report.pop("ranks") == 1  # of torchrun
    assert report == results
    for seconds in (costs["seconds"][task] for task in ("task_01", "task_02")):
        assert sorted(seconds) == sorted(stages)
    assert costs["peak_memory_bytes"] > 1e7
    assert report["state_bytes"][1] > report["state_bytes"][0] > 0
    assert report["configuration"]["classifier"]["steps"] == 10
    figures = {"accuracy_matrix", "accuracy_over_tasks", "confusion", "memory"}
    diagnostics = {"bounds", "losses", "seconds"}
    learner = METHODS[method](**settings)
    if learner.has_generator:
        figures |= {"drift", "replay", "replay_quality"}
        assert costs["evaluation_seconds"].keys() == {*STAGES, "assess_replay"}
        assert report["replay_quality"]["after_task"][1].keys() == set(map(str, range(10)))
    figures |= {"prototypes"} if learner.has_prototypes else set()
    diagnostics |= {"projection"} if learner.measures_keys_and_values else set()
    assert bool(costs["basis_free"]) == (settings.get("memory") == "shared")
    for folder, pictures in (("figures", figures), ("diagnostics", diagnostics)):
        files = {file.name for file in reports.glob(f"{folder}/*")}
        assert files == {f"{name}.{kind}" for name in pictures for kind in ("png", "svg", "csv")}
    page = (reports / "report.html").read_text()
    assert page.count("<img ") == len(figures | diagnostics)
    assert f"{100 * report['average_accuracy']:.1f}" in page

    (tracked,) = mlflow_runs()
    assert tracked.info.status == "FINISHED"
    assert tracked.info.run_name == f"{method} seed 0"
    assert tracked.data.params["classifier.steps"] == "10"
    assert tracked.data.params["number_of_tasks"] == "2"
    assert {"benchmark", "method", "seed", "git_commit"} <= set(tracked.data.tags)
    names = {file.path for file in client().list_artifacts(tracked.info.run_id)}
    pictures = {f"{name}.png" for name in figures | diagnostics}
    assert names == pictures | {"metrics.json", "results.json", "report.html"}
    history = client().get_metric_history(tracked.info.run_id, "average_accuracy")
    assert [point.step for point in history] == [1, 2]
    assert history[-1].value == report["average_accuracy"]
    assert tracked.data.metrics["forgetting"] == report["forgetting"]
    of_class = client().get_metric_history(tracked.info.run_id, "accuracy/class_0")
    assert [point.step for point in of_class] == [1, 2]
    assert ("frechet_distance_oracle/class_0" in tracked.data.metrics) == learner.has_generator
    losses = client().get_metric_history(tracked.info.run_id, "task_02/classifier_loss")
    assert [point.step for point in losses] == [10]
    assert (Path.cwd() / "mlruns").is_dir()


@pytest.mark.parametrize("method", ["gppdm", "joint"])
def test_a_run_in_which_classes_come_back(method, capsys):
    tasks = [["3", "1"], ["1"], ["8", "3"]]
    source = TINY["stream"]["source"]
    stream = {"source": source, "tasks": tasks, "unlisted": "leave_out", "returning_images": 5}
    run({"method": method, "stream": stream})
    reports = outputs("08_reporting", f"digits/{method}/seed_0")
    report = json.loads((reports / "metrics.json").read_text())
    assert report["classes_by_task"] == [["1", "3"], ["1"], ["3", "8"]]
    assert [value is None for value in report["accuracy_matrix"][-1]] == [False, True, False]
    assert list(report["per_class_accuracy"]) == ["1", "3", "8"]
    assert None not in (report["forgetting"], report["backward_transfer"])
    assert "task 1   task 3   average" in capsys.readouterr().out
    (tracked,) = mlflow_runs()
    assert {"accuracy/task_01", "accuracy/task_03"} <= set(tracked.data.metrics)
    assert "accuracy/task_02" not in tracked.data.metrics
    assert [path.name for path in reports.glob("task_02/*.json")]


def test_sessions_of_one_process_have_their_own_tasks():
    run()
    assert len([node for node in pipelines["continual"].nodes if node.name.endswith("split")]) == 2
    run({"variant": "single", "stream": {**TINY["stream"], "classes_per_task": 10}})
    assert len([node for node in pipelines["continual"].nodes if node.name.endswith("split")]) == 1
    assert (outputs("08_reporting", "digits/finetune-single/seed_0") / "metrics.json").exists()
    single, whole = mlflow_runs()  # what they learnt from is told there
    assert single.info.run_name == "finetune single seed 0"
    assert whole.info.run_name == "finetune seed 0"
    learnt_from = [each.dataset for each in whole.inputs.dataset_inputs]
    assert {each.name for each in learnt_from} == {"digits task_01", "digits task_02"}
    assert len({each.digest for each in learnt_from}) == 2
    assert whole.data.tags["mlflow.source.name"]


@pytest.mark.parametrize("method", METHODS)
def test_only_named_nodes_read_images_of_earlier_tasks(method):
    learner = METHODS[method]()
    for node in create_pipeline(learner, 3).nodes:
        foreign = {
            dataset.split(".")[1]
            for dataset in node.inputs
            if not dataset.startswith(("params:", "scratch", "oracles", f"{node.namespace}."))
        }
        stage = node.name.split(".")[1]
        if stage == "evaluate":
            assert foreign <= {"test"}
        elif stage == "synthesise_replay" and learner.reads_earlier_images:
            assert foreign <= {"state", "train"}
        elif node.namespace not in ("report", "assessment"):
            assert foreign <= {"state"}
        else:
            assert "train" not in foreign and "validation" not in foreign


@pytest.mark.parametrize("method", METHODS)
def test_no_learner_reads_what_was_measured(method):
    learner = METHODS[method]()
    graph = create_pipeline(learner, 3)
    measured = {
        output
        for node in graph.nodes
        if node.namespace in ("report", "assessment") or node.name.endswith(".evaluate")
        for output in node.outputs
    }
    readers = {node.namespace for node in graph.nodes if measured & {*node.inputs}}
    assert readers <= {"report", "assessment"}
    assert any(node.namespace == "assessment" for node in graph.nodes) == learner.has_generator


def test_evaluation_can_be_changed_without_learning_again(monkeypatch):
    settings = {"replay": True, "images_per_class": 10, "nearest": 1, "embedding": True}
    settings["privacy"] = True
    run({"method": "vae_replay", "evaluation": {"replay": False}})
    reports = outputs("08_reporting", "digits/vae_replay/seed_0")
    assert "replay_quality" not in json.loads((reports / "results.json").read_text())
    states = contents(outputs("06_models", "digits/vae_replay/seed_0"))
    run({"method": "vae_replay", "evaluation": settings}, tags=["report"])
    assert contents(outputs("06_models", "digits/vae_replay/seed_0")) == states
    report = json.loads((reports / "results.json").read_text())
    assert report["replay_quality"]["settings"]["nearest"] == 1
    assert {"embedding.png", "nearest_pairs.png"} <= {*contents(reports / "figures")}
    told = json.loads((reports / "metrics.json").read_text())["privacy"]
    assert len(told["membership"]["classes"]) == 10
    assert len(told["memorisation"]["pixels"]["classes"]) == 10
    page = (reports / "report.html").read_text()
    titles = ("<h2>Membership</h2>", "<h2>Memorisation</h2>", 'alt="The nearest pairs"')
    assert all(title in page for title in titles)
    # The oracle is kept, and is that of every seed and method.
    (oracle,) = Path("data/06_models/digits/oracles").iterdir()
    made = (oracle / "state.json").stat().st_mtime_ns
    run({"method": "vae_replay", "seed": 1})
    assert [*oracle.parent.iterdir()] == [oracle]
    assert (oracle / "state.json").stat().st_mtime_ns == made


def test_an_extractor_that_is_not_there_is_told_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    settings = {"extractors": ["oracle", "efficientnet_lite0"]}
    with refused("pip install efficientnet-lite-pytorch"):
        run({"method": "vae_replay", "evaluation": settings})
    assert not outputs("06_models", "digits/vae_replay/seed_0").exists()


@pytest.mark.pictures
def test_results_and_their_pictures_are_the_same_to_the_byte():
    run({"method": "gppdm"})
    reports = outputs("08_reporting", "digits/gppdm/seed_0")
    before = contents(reports / "figures"), (reports / "results.json").read_bytes()
    run({"method": "gppdm"}, tags=["report"])
    assert (contents(reports / "figures"), (reports / "results.json").read_bytes()) == before


def test_the_methods_order_decides_which_training_comes_first():
    orders = {"classifier_first": "train_classifier", "generator_first": "train_generator"}
    for order, first in orders.items():
        learner = METHODS["gppdm"](order=order)
        (node,) = (
            n for n in create_pipeline(learner, 1).nodes if "task_01.midway_state" in n.outputs
        )
        assert node.name == f"task_01.{first}"


def test_a_namespace_runs_on_what_an_earlier_run_left():
    run()
    before = contents(outputs("06_models"))
    shutil.rmtree(outputs("06_models") / "task_02")
    run(namespaces=["task_02"])
    assert contents(outputs("06_models")) == before


def test_a_start_in_the_middle_needs_the_state_before():
    with refused("task_01/state is missing", "starts behind task_01.", "--only-missing-outputs"):
        run(from_nodes=["task_02.synthesise_replay"], to_nodes=["task_02.train_classifier"])
    assert not outputs("06_models").exists()


def test_a_damaged_state_is_found_before_any_training(caplog):
    run()
    weights = outputs("06_models") / "task_01" / "state" / "classifier.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with refused("task_01/state/classifier.safetensors is damaged"):
        run(namespaces=["task_02"])
    assert len(mlflow_runs()) == 1


def test_a_stopped_run_goes_on_to_the_same_states(monkeypatch):
    run({"variant": "whole"})

    def stop(*_: object, **__: object) -> None:
        raise RuntimeError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(Finetune, "train_generator", stop)
        with pytest.raises(RuntimeError, match="stopped"):
            run()
    assert [tracked.info.status for tracked in mlflow_runs()] == ["FAILED", "FINISHED"]
    assert not list(outputs("06_models").rglob("task_02/state"))
    run(only_missing_outputs=True)
    whole = outputs("06_models", "digits/finetune-whole/seed_0")
    for task in ("task_01", "task_02"):
        assert contents(outputs("06_models") / task) == contents(whole / task)


def test_other_settings_do_not_overwrite():
    run()
    before = contents(outputs("06_models"))
    other = {"classifier": {"steps": 5, "width": 8}}
    with refused("classifier.steps: 10 there, 5 now", "variant=", "overwrite=true"):
        run(other)
    with refused("task_01/state was made with other", "classifier.steps: 10 there, 5 now"):
        run({**other, "overwrite": True}, namespaces=["task_02"])
    assert contents(outputs("06_models")) == before
    run({**other, "variant": "short"})
    assert contents(outputs("06_models")) == before
    run({**other, "overwrite": True})
    assert contents(outputs("06_models")) != before


def test_outputs_that_may_not_be_removed_are_named_with_their_folder(monkeypatch):
    outputs("03_primary").mkdir(parents=True)

    def refusing(folder):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "train.npz")

    monkeypatch.setattr(shutil, "rmtree", refusing)
    with refused(f"{outputs('03_primary').relative_to(Path.cwd())}: Permission denied. Allow this"):
        run({"overwrite": True})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"denoiser": {"channels": [8, 16, 16, 16, 16]}}, "cannot be halved 4 times"),
        ({"prototypes": {"token_side": 3}}, "choose prototypes.token_side"),
        ({"denoiser": {"condition_dim": 8}}, "set it to 10 at least"),
    ],
)
def test_settings_that_do_not_fit_the_images_are_told_before_training(settings, message):
    with refused("gppdm cannot learn these images", message):
        run({"method": "gppdm", "gppdm": settings})
    assert [folder.name for folder in Path("data").iterdir()] == [".checkpoints"]


def test_a_missing_source_is_told_before_training(tmp_path):
    source = {"folder": str(tmp_path / "nowhere")}
    with refused("nowhere", "no such folder", "Set `folder`"):
        run({"benchmark": "fashion_mnist", "stream": {"source": source}})
    assert [folder.name for folder in Path("data").iterdir()] == [".checkpoints"]


def test_the_device_is_no_setting_that_keeps_runs_apart():
    run()
    run({"device": "auto"}, namespaces=["task_02"])


def test_outputs_of_unknown_settings_are_not_used():
    run()
    (outputs("06_models") / "configuration.json").unlink()
    with refused("has no configuration.json"):
        run(namespaces=["task_02"])


def test_training_survives_mlflow(monkeypatch, caplog):
    send = MlflowClient.log_batch

    def fail(self, run_id, metrics=(), params=(), tags=(), **rest):
        if metrics:
            raise MlflowException("disk full")
        return send(self, run_id, metrics, params, tags, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", fail)
    with caplog.at_level(logging.ERROR, "gppdm_pipeline"):
        run()
    assert (outputs("08_reporting") / "metrics.json").exists()
    (told,) = (record.message for record in caplog.records if "disk full" in record.message)
    assert "training goes on" in told


def test_a_broken_mlflow_is_told_before_training(project):
    (project / "mlflow.db").write_bytes(b"this is not a database" * 100)
    with refused("MLflow at sqlite:///mlflow.db", "refuses the run", "is not a database. Put the"):
        run()
    assert not outputs("06_models").exists()


def test_a_database_that_cannot_be_written_is_told_without_mlflows_traceback(capfd):
    with sqlite3.connect("mlflow.db") as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON runs BEGIN SELECT x FROM y; END")
    database.close()
    with refused("MLflow at sqlite:///mlflow.db", "refuses the run: no such table: main.y. Put"):
        run()
    assert "Traceback" not in capfd.readouterr().err


def test_runs_can_share_one_mlflow_run(monkeypatch):
    run(to_nodes=["task_01.evaluate"])
    (first,) = mlflow_runs()
    monkeypatch.setenv("MLFLOW_RUN_ID", first.info.run_id)
    run(only_missing_outputs=True)
    (shared,) = mlflow_runs()
    history = client().get_metric_history(shared.info.run_id, "average_accuracy")
    assert [point.step for point in history] == [1, 2]
    assert shared.info.status == "FINISHED"


def test_the_command_prints_the_message_alone():
    result = CliRunner().invoke(kedro_run, ["--params=method=finetine"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: method = finetine (--params): there is no such method;")
    assert len(result.output.splitlines()) == 1


def test_a_setting_in_a_file_is_named_with_the_file(project):
    (project / "conf" / "local" / "parameters.yml").write_text("classifier: {steps: 0}\n")
    with refused("classifier.steps = 0 (conf/local/parameters.yml): must be greater"):
        run({"classifier": {}})


def test_without_a_configuration_the_message_says_where_it_would_be(project):
    shutil.rmtree(project / "conf")
    with refused("There is no configuration in", "--conf-source"):
        run()


def test_mlflow_database_is_in_the_project(project, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with Session.create(project_path=project, runtime_params=TINY) as session:
        session.run(to_nodes=["task_01.split"])
    with closing(sqlite3.connect(project / "mlflow.db")) as database:
        assert database.execute("select count(*) from runs").fetchone() == (1,)
