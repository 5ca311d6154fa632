"""Kills at random moments, and disks that fail: the same command goes on, to the same bits."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import time
from pathlib import Path

import click
import pytest
from tests.pipelines.test_stop_and_go_on import result, scratch_files
from tests.reference.runs import (
    outputs,
    run,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("project")]

NAME = "digits/gppdm/seed_0"
PARAMS = {"method": "gppdm", "checkpoint_seconds": 0}
KILLS = 20
FAULTS = 12


def in_a_process(params):
    """Run in a process of its own, without the seconds that a fresh one takes to import."""
    if pid := os.fork():
        return pid
    try:
        run(params)
    finally:
        os._exit(0)


def remove(name=NAME):
    for layer in (".checkpoints", "03_primary", "05_model_input", "06_models", "08_reporting"):
        shutil.rmtree(outputs(layer, name), ignore_errors=True)


def stage():
    """What is being made: the first output that is not there."""
    places = {"06_models": ("midway_state", "state"), "08_reporting": ("evaluation.json",)}
    for task in ("task_01", "task_02"):
        for layer, names in places.items():
            for name in names:
                if not (outputs(layer, NAME) / task / name).exists():
                    return f"{task}/{name}"
    return "report"


def test_kills_at_random_moments():
    start = time.monotonic()
    os.waitpid(in_a_process(PARAMS), 0)
    seconds, expected, stages = time.monotonic() - start, result(NAME), set()
    moments, kills = random.Random(0), 0
    while kills < KILLS:
        remove()
        pid = in_a_process(PARAMS)
        time.sleep(moments.uniform(0.1, 1) * seconds)
        os.kill(pid, signal.SIGTERM if kills % 2 else signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if (outputs("08_reporting", NAME) / "metrics.json").exists():
            seconds *= 0.9  # it was faster, as on a machine that has less to do now
            continue
        kills += 1
        stages.add(stage())
        run(PARAMS)
        assert result(NAME) == expected, (status, stages)
        left = {name for name in scratch_files() if not name.startswith("drawn/")}
        assert left == {"lock"}  # and what is drawn once
    assert len(stages) >= 4


@pytest.mark.parametrize("fault", range(FAULTS))
def test_a_full_disk_at_any_write(fault, monkeypatch):
    run({**PARAMS, "variant": "whole"})
    sync, calls, failed = os.fsync, [], []

    def count(descriptor):
        calls.append(descriptor)
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", count)
        run(PARAMS)
    expected = result(NAME)
    assert expected == result("digits/gppdm-whole/seed_0")
    remove()
    last = (fault + 1) * len(calls) // FAULTS
    calls.clear()

    def full(descriptor):
        count(descriptor)
        if len(calls) >= last:
            failed.append(Path(f"/proc/self/fd/{descriptor}").resolve())
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(click.ClickException) as told:
            run(PARAMS)
    assert "No space left on device" in str(told.value)
    assert "the same command then goes on" in str(told.value)
    assert str(Path("data").resolve()) in str(told.value)
    assert failed
    run(PARAMS)
    assert result(NAME) == expected


@pytest.mark.parametrize("layer", ["03_primary", "05_model_input", "06_models", "08_reporting"])
def test_a_folder_that_cannot_be_written(layer):
    run({**PARAMS, "variant": "whole"})
    in_the_way = outputs(layer, "digits/gppdm")
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("a file where a folder should be")
    with pytest.raises(click.ClickException) as told:
        run(PARAMS)
    assert f"{outputs(layer, NAME)}" in str(told.value)
    assert "cannot be written" in str(told.value)
    in_the_way.unlink()
    run(PARAMS)
    assert result(NAME) == result("digits/gppdm-whole/seed_0")
