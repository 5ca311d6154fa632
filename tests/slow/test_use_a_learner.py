"""The commands of the guide, as they stand there: from a run to an answer over HTTP."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
QUICK = (
    "device=cpu,stream.source.train_per_class=10,stream.source.test_per_class=5,"
    "stream.classes_per_task=5,classifier.steps=10,classifier.width=8,gppdm.denoiser.steps=10,"
    "gppdm.replay.images_per_class=2,gppdm.replay.sampler_steps=2"
)
PATIENCE = 1800  # seconds, on a machine that others use


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The project with a small run, and the environment of this process in the place of its own."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    for name, command in (("kedro", "-m kedro"), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        program.chmod(0o755)
    (folder / ".venv/run.stamp").touch()
    shell(f'make run ARGS="--params={QUICK}"', folder)
    return folder


def shell(script, folder):
    """What a script prints; if it fails, so does the test, and shows it."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": "src"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def processor_seconds():
    """Of all processes that have ended so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_commands_of_the_guide(clone):
    page = (ROOT / "docs/how-to/use-a-learner.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)
    assert blocks[0] == "make run\n"
    before, port = processor_seconds(), free_port()
    told = shell("\n".join(blocks[1:]).replace("5001", str(port)), clone)
    assert not answers(f"http://127.0.0.1:{port}/ping")  # it ended with its job
    assert processor_seconds() - before < 120  # a time that other programs do not lengthen
    output = clone / "data/07_model_output/digits/gppdm/seed_0"
    with (output / "predictions.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {f"{n}.png" for n in range(1, 21)}
    assert len(list((output / "drawn").glob("*.png"))) == 32
    answer = re.search(r'\{"predictions":\[.*?\]\}', told)
    assert answer, told
    (told_of_one,) = json.loads(answer.group())["predictions"]
    assert str(told_of_one["probability"]) == rows["1.png"]["probability"]
    assert told_of_one["label"] == rows["1.png"]["label"]
    assert "models:/digits-gppdm/1, champion is 1" in told
    assert (clone / "digits/model_index.json").exists()


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=10):
            return True
    except (URLError, OSError):
        return False
