"""The commands of the guide, as they stand there, and services that are killed and cheated."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
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
    for name, command in (("kedro", "-m kedro"), ("uvicorn", "-m uvicorn"), ("python", "")):
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


@contextmanager
def service(clone, command=("-m", "gppdm_pipeline.serve", "digits-gppdm")):
    """The process and its address, once it answers."""
    port, said = free_port(), clone / "service.log"
    with said.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command, f"--port={port}"],
            cwd=clone,
            env={
                **os.environ,
                "PYTHONPATH": "src",
                "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db",
                "PATH": f"{clone / '.venv/bin'}:{os.environ['PATH']}",
            },
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + PATIENCE
        while not answers(f"http://127.0.0.1:{port}/ping"):
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < end
            time.sleep(0.5)
        yield process, port
    finally:
        with_children = os.getpgid(process.pid) if process.poll() is None else None
        if with_children:
            os.killpg(with_children, signal.SIGKILL)
        process.wait()


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=10):
            return True
    except (URLError, OSError):
        return False


def asked(port, inputs):
    body = json.dumps({"inputs": inputs}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.loads(answer.read())["predictions"]


def version(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as answer:
        return json.loads(answer.read())["version"]


def in_base64(clone):
    code = (
        "import sys; from PIL import Image; Image.frombytes('L', (8, 8), bytes(range(64)))"
        ".save(sys.stdout.buffer, 'PNG')"
    )
    image = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    return base64.b64encode(image).decode(), [list(range(8 * i, 8 * i + 8)) for i in range(8)]


@pytest.fixture(scope="module")
def published(clone):
    shell(".venv/bin/kedro run --pipeline=publish", clone)
    return clone


def test_a_killed_service_comes_back_and_a_half_publication_is_never_served(published):
    image, pixels = in_base64(published)
    with service(published) as (process, port):
        first = version(port)
        answer = asked(port, [image, pixels])
        assert answer[0] == answer[1]
        publication = subprocess.Popen(
            [str(published / ".venv/bin/kedro"), "run", "--pipeline=publish"],
            cwd=published,
            env={**os.environ, "PYTHONPATH": "src"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        runs = published / "mlruns"
        before = set(runs.rglob("MLmodel"))
        while set(runs.rglob("MLmodel")) <= before:  # until files of it are there
            assert publication.poll() is None, "it was published before it could be killed"
            time.sleep(0.001)
        publication.kill()
        publication.wait()
        assert asked(port, [image]) == answer[:1]
        process.kill()
        process.wait()
    with service(published) as (_, port):
        assert version(port) == first
        assert asked(port, [image]) == answer[:1]
        shell(".venv/bin/kedro run --pipeline=publish", published)
        assert (version(port), asked(port, [image])) == (first, answer[:1])  # it goes on
    with service(published) as (_, port):
        assert version(port) > first
    shell(f".venv/bin/kedro run --pipeline=publish --params=publish.version={first}", published)
    with service(published) as (_, port):
        assert version(port) == first


def test_a_body_of_five_gigabytes_is_refused_before_it_comes(published):
    image, _ = in_base64(published)
    with service(published) as (process, port):
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            connection.sendall(
                b"POST /invocations HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\n"
                b"content-length: 5368709120\r\n\r\n" + b" " * 65536
            )
            told = connection.recv(65536).decode()
        assert told.startswith("HTTP/1.1 413"), told
        assert len(asked(port, [image])) == 1
        assert process.poll() is None


def test_mlflows_own_server_answers_the_same(published):
    image, pixels = in_base64(published)
    with service(published) as (_, port):
        expected = asked(port, [image, pixels])
    command = ("-m", "mlflow", "models", "serve", "--model-uri=models:/digits-gppdm@champion")
    with service(published, (*command, "--env-manager=local")) as (_, port):
        found = asked(port, [image, pixels])
    shown = [{key: value for key, value in row.items() if value is not None} for row in expected]
    assert [{k: v for k, v in row.items() if v is not None} for row in found] == shown


def test_a_tampered_model_is_refused_by_name(published):
    files = [*published.rglob("mlruns/**/published/**/state/classifier.safetensors")]
    assert files
    contents = [file.read_bytes() for file in files]
    try:
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        done = subprocess.run(
            [sys.executable, "-m", "gppdm_pipeline.serve", "digits-gppdm"],
            check=False,
            cwd=published,
            env={**os.environ, "PYTHONPATH": "src"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    finally:
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
    assert done.returncode == 1
    assert re.search(r"models:/digits-gppdm/\d+: the files in .* are not those", done.stderr)
