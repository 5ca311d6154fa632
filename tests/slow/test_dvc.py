"""DVC from the outside: what runs again after which change, and what another clone gets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

ROOT = Path(__file__).parents[2]
RUN = "digits/gppdm/seed_0"
LEARNT = [*(f"learn@task_{n:02d}" for n in range(1, 6)), "report"]
ALL = ["data", "settings", *LEARNT]
SMALL = {  # of whatever the preset has
    r"\bsteps: \d+": "steps: 6",
    r"channels: \[.*\]": "channels: [8, 16]",
    r"images_per_class: \d+": "images_per_class: 4",
    r"sampler_steps: \d+": "sampler_steps: 2",
    r"width: \d+": "width: 8",
}

pytestmark = pytest.mark.slow


def call(folder, *command):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    names = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b.c"}
    names |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b.c"}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **names, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def repro(folder):
    """The stages that ran; of the first two, which do not ask each other, in alphabetical order."""
    ran = re.findall(r"Running stage '(.*)'", call(folder, "dvc", "repro"))
    return sorted(ran, key=lambda name: (name not in {"data", "settings"}, name))


def is_clean(folder):
    return "up to date" in call(folder, "dvc", "status")


def edit(folder, *changes, file="conf/base/benchmarks/digits.yml"):
    text = (folder / file).read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (folder / file).write_text(text)


def commit(folder):
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-qm", "as it is")


def runs(folder):
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    return client, client.search_runs([experiment.experiment_id])


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A finished `dvc repro` of small settings, committed."""
    folder = tmp_path_factory.mktemp("dvc") / "one"
    ignored = shutil.ignore_patterns("__pycache__", "tmp", "cache")
    for name in ("conf", "src", ".dvc"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", ".telemetry", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    preset = folder / "conf/base/benchmarks/digits.yml"
    text = preset.read_text()
    for pattern, small in SMALL.items():
        text, changed = re.subn(pattern, small, text)
        assert changed
    preset.write_text(text)
    call(folder, "git", "init", "-q")
    commit(folder)
    assert repro(folder) == ALL
    assert len(runs(folder)[1]) == 1
    commit(folder)
    return folder


def test_nothing_runs_twice(project):
    assert repro(project) == []
    assert is_clean(project)


def test_kedro_leaves_dvc_clean(project):
    call(project, "kedro", "run", "--pipeline=continual")
    assert is_clean(project)
    assert repro(project) == []


def test_what_concerns_other_methods_alone_makes_nothing_again(project):
    text = "  exemplar:\n    images: 10\n"
    edit(project, (text, text.replace("10", "11")))
    assert repro(project) == ["settings"]
    edit(project, (text.replace("10", "11"), ""))
    assert repro(project) == ["settings"]
    call(project, "git", "checkout", "-q", ".")
    assert repro(project) == []


@pytest.mark.parametrize(
    ("change", "file", "expected"),
    [
        (("steps: 6", "steps: 7"), None, ALL[1:]),
        (("  classifier:\n    width: 8\n", "  classifier:\n    width: 16\n"), None, ALL[1:]),
        (("  gppdm:\n", "  gppdm:\n    redraw: 0.4\n"), None, ALL[1:]),
        (("seed: 0", "seed: 1"), "parameters.yml", ALL),
    ],
)
def test_what_depends_on_a_change_runs_again_and_comes_back(project, change, file, expected):
    name = f"conf/base/{file or 'benchmarks/digits.yml'}"
    edit(project, change, file=name)
    assert repro(project) == expected
    assert call(project, "dvc", "params", "diff").strip()
    assert call(project, "dvc", "metrics", "diff").strip()
    call(project, "git", "checkout", "-q", ".")
    assert repro(project) == []  # DVC knows the results
    assert is_clean(project)
    call(project, "kedro", "run", "--pipeline=continual", "--tags=report")
    call(project, "git", "checkout", "-q", ".")


def test_another_clone_goes_on_with_one_task_more(project, tmp_path):
    call(project, "dvc", "push")
    clone = project.parent / "two"
    call(project.parent, "git", "clone", "-q", str(project), str(clone))
    call(clone, "dvc", "pull")
    assert is_clean(clone)
    edit(clone, ("classes_per_task: 2", "classes_per_task: [2, 2, 2, 2, 1, 1]"))
    text = (clone / "dvc.yaml").read_text()
    start, end = text.index("      task_05:\n"), text.index("    do:\n")
    last = text[start:end]
    new = last.replace("task_05", "task_06").replace("task_04", "task_05")
    head, tail = text[:end] + new, text[end:]
    tail = tail.replace("task_05/replay", "task_06/replay").replace(
        "task_05/state", "task_06/state"
    )
    line = next(line for line in tail.splitlines() if "task_05/evaluation.json" in line)
    tail = tail.replace(line, line + "\n" + line.replace("task_05", "task_06"))
    (clone / "dvc.yaml").write_text(head + tail)
    assert repro(clone) == [*ALL[:2], "learn@task_05", "learn@task_06", "report"]


def test_queued_experiments_are_in_the_one_ui(project):
    before = len(runs(project)[1])
    for override in ("method=finetune", "seed=3"):
        call(project, "dvc", "exp", "run", "--queue", "-S", f"conf/base/parameters.yml:{override}")
    call(project, "dvc", "exp", "run", "--run-all")
    client, found = runs(project)
    assert len(found) == before + 2
    for tracked in found[:2]:
        names = {file.path for file in client.list_artifacts(tracked.info.run_id)}
        assert {"metrics.json", "accuracy_matrix.png"} <= names
        assert tracked.info.status == "FINISHED"
    assert "seed_3" not in call(project, "git", "status", "--short")
