"""A run that torchrun starts on two processes; one is killed, and it goes on to the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.pipelines.test_stop_and_go_on import result
from tests.reference.runs import ROOT, TINY, outputs

from gppdm_pipeline.configuration.params import written

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("project"),
    pytest.mark.skipif(
        sys.platform != "linux" or torch.cuda.is_available(), reason="ranks are found in /proc"
    ),
]

NAME = "digits/gppdm/seed_0"
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
MESSAGES = (
    "Error: a process that shares the training has ended",
    "Stopped. The same command goes on from here.",
)
"""Of rank 0, whoever sees it first: it, or torchrun, which stops it."""
CUT = {"batch_size": 32}
GIVEN = {
    **TINY,
    "method": "gppdm",
    "checkpoint_seconds": 0,
    "gppdm": {
        "denoiser": {**TINY["gppdm"]["denoiser"], **CUT},
        "replay": {"images_per_class": 8, "sampler_steps": 2},
    },
    "classifier": {**TINY["classifier"], **CUT},
}


def started(out, *launcher, threads=1, **changes):
    """The process of the run, or of torchrun; what is said goes to a file."""
    command = [sys.executable, *launcher, "-m", "gppdm_pipeline"]
    command += ["run", "--pipeline=continual", f"--params={written({**GIVEN, **changes})}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": str(threads)}
    with out.open("w") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file)


def rank_of(process, number):
    """The process number of a rank that torchrun has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    wanted = f"RANK={number}".encode()
    (found,) = [
        c for c in children if wanted in Path(f"/proc/{c}/environ").read_bytes().split(b"\0")
    ]
    return int(found)


@pytest.mark.parametrize("victim", [0, 1])
def test_two_ranks_of_which_one_is_killed(victim, tmp_path):
    out = tmp_path / "out"
    assert started(out, *TWO, variant="whole").wait() == 0, out.read_text()
    whole = outputs("08_reporting", "digits/gppdm-whole/seed_0") / "metrics.json"
    assert json.loads(whole.read_text())["ranks"] == 2

    process = started(out, *TWO)
    classifier = Path("data/.checkpoints") / NAME / "task_02/train_classifier"
    while not list(classifier.rglob("*.safetensors")):
        assert process.poll() is None, out.read_text()
        time.sleep(0.01)
    os.kill(rank_of(process, victim), signal.SIGKILL)
    killed = time.monotonic()
    assert process.wait() != 0
    assert time.monotonic() - killed < 30
    assert sum(map(out.read_text().count, MESSAGES)) == victim  # if rank 0 is there to tell

    assert started(out, *TWO).wait() == 0, out.read_text()
    assert "Going on with what was stopped." in out.read_text()
    expected = result("digits/gppdm-whole/seed_0")
    assert result(NAME) == expected


def test_what_torchrun_starts_learns_what_forked_ranks_learn(tmp_path):
    """To the bit: the parts are the same, and so is the sum."""
    out = tmp_path / "out"
    assert started(out, *TWO).wait() == 0, out.read_text()
    assert started(out, threads=2, variant="forked").wait() == 0, out.read_text()
    found, expected = result(NAME), result("digits/gppdm-forked/seed_0")
    states = [key for key in expected if key[0] == "06_models" and key[1].endswith("safetensors")]
    assert len(states) > 8
    for key in states:
        assert found[key] == expected[key], key
