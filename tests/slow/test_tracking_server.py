"""Runs that write to one MLflow server at once: nothing is lost, and names stay whole."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
import yaml
from mlflow import MlflowClient
from tests.reference.runs import ROOT, TINY, client, contents, free_port, outputs, run
from tests.reference.runs import mlflow_runs as local_runs

from gppdm_pipeline.configuration.params import written
from gppdm_pipeline.run.reports import MlflowReports

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("project")]

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
RUN = [sys.executable, "-m", "gppdm_pipeline", "--params"]
SEEDS = range(4)
VARIANT, TEXT = "whole-name.of_2026", "Grüße, 100 % of *it*: a/b?c=d&e"
SETTINGS = {"tracking_uri": "", "artifact_location": "mlruns", "description": ""}


@pytest.fixture
def server(tmp_path):
    """The address of a server whose database and files are in tmp_path/server."""
    folder, port = tmp_path / "server", free_port()
    folder.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--workers=1", f"--port={port}"]
    command += [f"--backend-store-uri=sqlite:///{folder}/mlflow.db"]
    command += [f"--artifacts-destination={folder}/files"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            if requests.get(f"{address}/health", timeout=5).ok:
                break
        except requests.ConnectionError:
            pass
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.2)
    yield address
    os.killpg(process.pid, 15)
    process.wait()


def histories(client, run):
    """Every point of every metric that is the same for the same seed."""
    return {
        key: [
            (point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)
        ]
        for key in run.data.metrics
        if not key.startswith(("seconds/", "cpu_seconds/", "peak_memory_bytes/"))
    }


def files(client, run, folder=None):
    found = []
    for file in client.list_artifacts(run.info.run_id, folder):
        found += files(client, run, file.path) if file.is_dir else [file.path]
    return sorted(found)


def test_four_runs_at_once(server, tmp_path):
    Path("conf/local").mkdir(exist_ok=True)
    Path("conf/local/mlflow.yml").write_text(
        yaml.safe_dump({"tracking_uri": server, "description": TEXT})
    )
    given = {**TINY, "variant": VARIANT}
    runs = [
        subprocess.Popen(
            [*RUN, written({**given, "seed": seed})],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for seed in SEEDS
    ]
    told = [each.communicate()[1].decode() for each in runs]
    assert [each.returncode for each in runs] == [0] * len(runs), told
    assert not [text for text in told if "MLflow failed" in text]

    there = MlflowClient(server)
    experiment = there.get_experiment_by_name("digits")
    assert experiment.artifact_location.startswith("mlflow-artifacts:/")
    assert experiment.tags["mlflow.note.content"] == TEXT
    found = {each.info.run_name: each for each in there.search_runs([experiment.experiment_id])}
    assert sorted(found) == [f"finetune {VARIANT} seed {seed}" for seed in SEEDS]
    assert {each.info.status for each in found.values()} == {"FINISHED"}
    assert not Path("mlruns").exists()

    Path("conf/local/mlflow.yml").unlink()
    run({**given, "seed": 2})
    [alone] = local_runs()
    same = found[alone.info.run_name]
    assert same.data.params == alone.data.params
    assert same.data.tags["variant"] == VARIANT
    assert histories(there, same) == histories(client(), alone)
    assert len(histories(there, same)) > 10
    for each in found.values():
        assert files(there, each) == files(client(), alone)
        assert len(histories(there, each)) == len(histories(there, same))
    kept = there.download_artifacts(same.info.run_id, "results.json", str(tmp_path))
    name = f"digits/finetune-{VARIANT}/seed_2"
    assert Path(kept).read_bytes() == contents(outputs("08_reporting", name))["results.json"]

    reports = MlflowReports(
        settings={**SETTINGS, "tracking_uri": server}, project=tmp_path, experiment="digits"
    ).load()
    assert sorted(report["configuration"]["seed"] for report in reports) == [*SEEDS]
