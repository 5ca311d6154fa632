"""The commands of the guide, as they stand there: from a run to an answer over HTTP."""

from __future__ import annotations

import csv
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICK = (
    "--params=device=cpu,stream.source.train_per_class=10,stream.source.test_per_class=5,"
    "stream.classes_per_task=5,classifier.steps=10,classifier.width=8,gppdm.denoiser.steps=10,"
    "gppdm.replay.images_per_class=2,gppdm.replay.sampler_steps=2"
)


@pytest.fixture
def clone(tmp_path):
    """The project, with the environment of this process in the place of its own."""
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("kedro", "python"):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{Path(sys.executable).parent / name}" "$@"\n')
        program.chmod(0o755)
    (tmp_path / ".venv/run.stamp").touch()
    return tmp_path


@pytest.mark.slow
def test_the_commands_of_the_guide(clone):
    page = (ROOT / "docs/how-to/use-a-learner.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)
    assert blocks[0] == "make run\n"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = "\n".join([f'make run ARGS="{QUICK}"', *blocks[1:]]).replace("5001", port)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        check=False,  # what it printed is shown below
        cwd=clone,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    output = clone / "data/07_model_output/digits/gppdm/seed_0"
    with (output / "predictions.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {f"{n}.png" for n in range(1, 21)}
    assert len(list((output / "drawn").glob("*.png"))) == 32
    answer = re.search(r'\{"predictions":\[.*?\]\}', done.stdout)
    assert answer, done.stdout
    (told,) = json.loads(answer.group())["predictions"]
    assert str(told["probability"]) == rows["1.png"]["probability"]
    assert told["label"] == rows["1.png"]["label"]
    assert "models:/digits-gppdm/1, champion is 1" in done.stdout
