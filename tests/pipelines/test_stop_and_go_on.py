from __future__ import annotations

import errno
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock
from safetensors import SafetensorError
from tests.reference.runs import (
    ROOT,
    TINY,
    contents,
    mlflow_runs,
    outputs,
    refused,
    run,
)
from tests.reference.tiny import Stopped

from gppdm_pipeline.algorithm.disk import states as storage
from gppdm_pipeline.algorithm.disk.checkpoint_files import CheckpointFiles
from gppdm_pipeline.algorithm.team import RankError
from gppdm_pipeline.catalog.datasets import ImagesDataset
from gppdm_pipeline.configuration.experiment import flatten
from gppdm_pipeline.images import labelled as images
from gppdm_pipeline.methods import METHODS
from gppdm_pipeline.pipelines.continual import nodes
from gppdm_pipeline.run import command

pytestmark = pytest.mark.usefixtures("project")

SHARED = {"gppdm": {**TINY["gppdm"], "memory": "shared"}}
GPPDM = {"method": "gppdm", **SHARED, "checkpoint_seconds": 0}
OFFERS = {11: "bases", 15: "train_classifier", 23: "synthesise_replay"}


def scratch_files(run="digits/gppdm/seed_0"):
    return contents(Path("data/.checkpoints") / run).keys()


def stop_at_offer(patch, number):
    offer, offers = CheckpointFiles.offer, []

    def stopping(self, take, now=False):
        offer(self, take, now)
        offers.append(self)
        if len(offers) == number:
            raise Stopped

    patch.setattr(CheckpointFiles, "offer", stopping)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, request):
    """The states and replay of a run that nothing stopped."""
    made = {}

    def of(method):
        if method not in made:
            run({"method": method, **SHARED, "variant": "whole"})
            made[method] = result(f"digits/{method}-whole/seed_0")
        return made[method]

    return of


def result(name):
    """What has to be the same to the last bit: all but names, seconds and memory."""
    layers = ("03_primary", "05_model_input", "06_models", "08_reporting")
    files = {
        (layer, file): content
        for layer in layers
        for file, content in contents(outputs(layer, name)).items()
    }
    named = {"configuration.json", "metrics.json", "results.json", "report.html"}
    return {
        (layer, file): content
        for (layer, file), content in files.items()
        if file not in named
        and not file.startswith("diagnostics/")
        and not (file.endswith(".json") and b'"seconds"' in content)
    }


@pytest.mark.parametrize(
    "offers",
    [pytest.param(11, marks=pytest.mark.slow), 15, pytest.param(23, marks=pytest.mark.slow)],
)
def test_the_same_command_goes_on_within_the_stage(offers, whole, monkeypatch, caplog):
    expected = whole("gppdm")
    with monkeypatch.context() as patch:
        stop_at_offer(patch, offers)
        with pytest.raises(Stopped):
            run(GPPDM)
    with caplog.at_level(logging.INFO, "gppdm_pipeline"):
        run(GPPDM)
    assert "Going on with what was stopped." in caplog.text
    assert f"{OFFERS[offers]} goes on after" in caplog.text
    assert result("digits/gppdm/seed_0") == expected
    assert set(scratch_files()) == {"lock"}
    runs = [tracked for tracked in mlflow_runs() if not tracked.data.tags["variant"]]
    assert [tracked.info.status for tracked in runs] == ["FINISHED"]


def test_what_was_made_is_not_made_again(monkeypatch):
    with monkeypatch.context() as patch:
        stop_at_offer(patch, 15)  # within the second task's classifier
        with pytest.raises(Stopped):
            run({"checkpoint_seconds": 0})
    made = outputs("06_models") / "task_01" / "state" / "state.json"
    before = made.stat().st_mtime_ns
    run({"checkpoint_seconds": 0})
    assert made.stat().st_mtime_ns == before
    run({"checkpoint_seconds": 0})  # it has ended: this is another run
    assert made.stat().st_mtime_ns != before


def test_other_nodes_or_other_code_do_not_go_on(monkeypatch, caplog):
    with monkeypatch.context() as patch:
        stop_at_offer(patch, 15)
        with pytest.raises(Stopped):
            run({"checkpoint_seconds": 0})
    made = outputs("06_models") / "task_01" / "state" / "state.json"
    before = made.stat().st_mtime_ns
    run(namespaces=["task_01"])
    assert (after := made.stat().st_mtime_ns) != before
    monkeypatch.setattr(command, "code_digest", lambda: "another")
    run()
    assert made.stat().st_mtime_ns != after
    assert "the code has changed since: it is made anew" in caplog.text


def test_a_second_run_on_the_same_outputs_says_so_and_ends():
    folder = Path("data/.checkpoints/digits/finetune/seed_0")
    folder.mkdir(parents=True)
    with FileLock(folder / "lock"):
        (folder / "lock_holder").write_text("4711\n")
        with refused("Process 4711 is making digits/finetune/seed_0", "variant="):
            run()
        assert not outputs("06_models").exists()
        run({"variant": "beside"})
    run()


def test_a_full_disk_is_told_plainly_and_the_same_command_goes_on(whole, monkeypatch):
    expected = whole("finetune")

    def full(path):
        if "task_02" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(storage, "sync", full)
        with refused("task_02/midway_state cannot be written (No space left", "same command then"):
            run()
    assert not list(outputs("06_models").rglob("task_02/*"))
    run()
    assert result("digits/finetune/seed_0") == expected


def test_a_full_disk_that_safetensors_meets_is_told_as_any_other(monkeypatch):
    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")

    monkeypatch.setattr(storage, "_write", full)
    with refused("task_01/midway_state cannot be written (No space left", "same command then"):
        run()


def test_a_mark_that_cannot_be_written_is_named_and_leaves_nothing(monkeypatch):
    def full(file, _):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    with monkeypatch.context() as patch:
        patch.setattr(command, "replace_file", full)
        with refused("seed_0/lock_holder: No space left on device. Free space on that disk"):
            run()
    assert {*scratch_files("digits/finetune/seed_0")} == {"lock"}


def test_a_fault_of_the_code_while_it_saves_is_no_fault_of_the_users(monkeypatch):
    """Kedro makes an error of its own of it, whose message would be the whole story."""

    def broken(*_):
        raise KeyError("lost")

    monkeypatch.setattr(ImagesDataset, "_write", broken)
    with pytest.raises(KeyError, match="lost"):
        run()


def test_a_full_disk_for_many_images_is_told_plainly_and_the_same_command_goes_on(
    whole, monkeypatch
):
    expected = whole("finetune")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(images, "IN_MEMORY", 0)
        patch.setattr(os, "posix_fallocate", full)
        with refused("images do not fit (No space left on device)", "TMPDIR", "then goes on"):
            run()
    run()
    assert result("digits/finetune/seed_0") == expected


def test_sigterm_ends_cleanly_and_the_same_command_goes_on(whole):
    expected = whole("finetune")
    params = {**TINY, "checkpoint_seconds": 0, "classifier.steps": 10}
    given = ",".join(f"{key}={value}" for key, value in flatten(params).items())
    given = re.sub(r"=\[(.*?)\]", lambda m: f"=[{m[1].replace(', ', ';')}]", given)
    params = [p for p in given.split(",") if p.partition(".")[0] not in METHODS]
    command = [sys.executable, "-m", "gppdm_pipeline", f"--params={','.join(params)}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    while not contents(outputs("03_primary")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)  # it must not end before the other run has looked
    with refused(f"Process {process.pid} is making digits/finetune/seed_0"):
        run()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    error = process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM, error
    assert "The same command goes on from here." in error
    assert "Traceback" not in error
    assert "lock_holder" not in scratch_files("digits/finetune/seed_0")
    assert mlflow_runs()[0].info.status == "KILLED"
    run()
    assert result("digits/finetune/seed_0") == expected
    assert mlflow_runs()[0].info.status == "FINISHED"


def test_what_is_told_in_the_end_kedro_does_not_tell_before(monkeypatch, caplog):
    def gone(*args, **given):
        raise RankError("a rank is gone")

    monkeypatch.setattr(nodes, "on_all_ranks", gone)
    with caplog.at_level(logging.WARNING), refused("a rank is gone"):
        run()
    assert "a rank is gone" not in caplog.text
    assert "--from-nodes" not in caplog.text
