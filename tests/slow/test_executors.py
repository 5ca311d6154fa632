"""A grid of twelve runs makes the same records wherever they are made, though places are lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tests.reference.runs import ROOT

pytestmark = pytest.mark.slow

COSTS = ("seconds", "cpu_seconds", "peak_memory_bytes")
PLAN = {
    "baseline": "floor",
    "streams": {
        "tiny": {
            "benchmark": "digits",
            "seeds": [0, 1, 2, 3],
            "params": {
                "device": "cpu",
                "stream.source.train_per_class": 6,
                "stream.source.test_per_class": 4,
                "stream.classes_per_task": 5,
                "classifier.steps": 2,
                "classifier.width": 8,
                "checkpoint_seconds": 0,
            },
        }
    },
    "variants": {
        "floor": {"method": "finetune"},
        "smooth": {"method": "lwf", "lwf.weight": 2.0},
        "damped": {"method": "ewc", "ewc.weight": 2.0},
    },
}
RUNS = 12


@pytest.fixture(scope="module")
def make(tmp_path_factory, empty_database):
    """Make the plan in a project of its own; records and tables by executor, each made once."""
    found = {}

    def made(name, *options, half_way=None):
        if name in found:
            return found[name]
        project = tmp_path_factory.mktemp(name)
        shutil.copytree(ROOT / "conf", project / "conf")
        (project / "docs").mkdir()
        (project / "docs/results.md").write_text("<!-- trial: made by the plan -->\n"
                                                 "<!-- end of trial -->\n")  # fmt: skip
        shutil.copy(empty_database, project / "mlflow.db")
        (project / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
        (project / "trial.yml").write_text(yaml.safe_dump(PLAN))
        command = [sys.executable, "-m", "gppdm_pipeline.plan", "trial.yml", *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        environment["GPPDM_CACHE"] = str(project / "cache")
        with (project / "out").open("w") as out:
            process = subprocess.Popen(
                command, cwd=project, env=environment, stdout=out, stderr=out
            )
            if half_way:
                wait_for(process, lambda: len(finished(project)) >= RUNS // 2)
                half_way(project)
            code = process.wait()
        told = (project / "out").read_text()
        assert code == 0, told
        found[name] = records(project), (project / "docs/results.md").read_text(), told
        return found[name]

    return made


def wait_for(process, condition):
    while not condition():
        assert process.poll() is None
        time.sleep(0.2)


def finished(project: Path):
    return list(project.glob("data/08_reporting/digits/*/*/metrics.json"))


def records(project: Path):
    """Without what they cost, which is of the moment."""
    files = sorted((project / "benchmarks/results").rglob("*.json"))
    found = {str(file.relative_to(project)): json.loads(file.read_text()) for file in files}
    for record in found.values():
        for cost in COSTS:
            del record[cost]
    return {name: json.dumps(record) for name, record in found.items()}


def without_costs(table: str) -> list[list[str]]:
    """Cells of the table of variants, less seconds."""
    return [
        [cell for cell in line.split("|") if "second" not in cell][:6]
        for line in table.splitlines()
        if line.startswith("|")
    ]


def test_local_jobs(make):
    found, table, told = make("local", "--jobs=2")
    assert len(found) == RUNS
    assert told.count(" s, average accuracy ") == RUNS
    assert "| floor | 0, 1, 2, 3 |" in table


def test_jobs_of_submitit_of_which_one_is_queued_again_and_one_is_killed(make):
    pytest.importorskip("submitit")
    psutil, logs = pytest.importorskip("psutil"), []

    def half_way(project):
        logs.extend(project.glob("data/.jobs/*_log.*"))
        queued, killed = map(psutil.Process, running_jobs(project)[:2])
        for process in (killed, *killed.children(recursive=True)):
            process.kill()
        [task] = queued.children()
        task.send_signal(signal.SIGUSR2)  # as SLURM does before it takes a node away

    options = ("--executor=slurm", "--jobs=1", "--chunk=4")
    found, table, told = make("slurm", *options, half_way=half_way)
    assert "job " in told
    assert "Requeued job" in "".join(log.read_text() for log in logs)
    expected, its_table, _ = make("local", "--jobs=2")
    assert found == expected
    assert without_costs(table) == without_costs(its_table)


def running_jobs(project):
    """Process numbers of submitit's jobs here that have not ended."""
    numbers = [int(file.name.split("_")[0]) for file in project.glob("data/.jobs/*_submitted.pkl")]
    return [n for n in numbers if not list(project.glob(f"data/.jobs/{n}_*_result.pkl"))]


@pytest.mark.filterwarnings("ignore")
def test_a_ray_cluster_of_which_a_node_is_lost(make, monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else whatever else the machine does goes first
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    nodes = {"num_cpus": 1, "object_store_memory": 100 << 20}
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={**nodes, "include_dashboard": False}
    )
    lost = cluster.add_node(**nodes)
    try:
        found, table, _ = make(
            "ray",
            "--executor=ray",
            f"--address={cluster.address}",
            half_way=lambda project: cluster.remove_node(lost, allow_graceful=False),
        )
    finally:
        cluster.shutdown()
    expected, its_table, _ = make("local", "--jobs=2")
    assert found == expected
    assert without_costs(table) == without_costs(its_table)
