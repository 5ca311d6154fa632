"""Any rank is killed at random moments of every verb: the others end soon, and it goes on."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import diffusers  # noqa: F401 (else every rank would import it anew)
import numpy as np
import pytest
import torch
from tests.methods.test_ranks import learn, method
from tests.reference.runs import free_port
from tests.reference.tiny import differences

from gppdm_pipeline.algorithm.team import RankError
from gppdm_pipeline.catalog.scratch import Scratch
from gppdm_pipeline.methods import ranks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or torch.cuda.is_available(),
        reason="ranks are forked, which a GPU forbids",
    ),
]

VERBS, JOURNEYS, SOON = 6, 10, 30


def as_rank(rank: int, port: int, folder: Path) -> None:
    """One of two, as torchrun starts them; it does not return.

    Rank 0 notes each verb that begins, and leaves what was learnt.
    """
    given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in given.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    do, code = ranks.on_all_ranks, 1

    def noting(*args, **given):
        with (folder / "verbs").open("a") as file:
            file.write(f"{args[1]} {time.monotonic()}\n")
        return do(*args, **given)

    try:
        torch.set_num_threads(1)
        team = ranks.join()
        if rank:
            ranks.serve(team)
        else:
            ranks.on_all_ranks = noting
            learnt = learn(method(), Scratch(folder / "scratch", 0))
            (folder / "learnt").write_bytes(pickle.dumps(learnt))
            ranks.dismiss()
        code = 0
    except RankError as error:
        os.write(2, f"Error: {error}\n".encode())
    finally:
        os._exit(code)


def start(folder: Path) -> list[int]:
    """Two ranks, which print to <folder>/out."""
    port, pids = free_port(), []
    for name in ("verbs", "learnt", "out"):
        (folder / name).unlink(missing_ok=True)
    for rank in range(2):
        if pid := os.fork():
            pids.append(pid)
            continue
        os.dup2(os.open(folder / "out", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        as_rank(rank, port, folder)
    return pids


def verbs(folder: Path) -> list[str]:
    file = folder / "verbs"
    return file.read_text().splitlines() if file.exists() else []


def code_of(pid: int, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail(f"it has not ended within {seconds} s")


def to_the_end(folder: Path):
    codes = [code_of(pid, 600) for pid in start(folder)]
    assert codes == [0, 0], (folder / "out").read_text()
    return pickle.loads((folder / "learnt").read_bytes())


def seconds_of_verbs(folder: Path) -> list[float]:
    """How long each took, of a run that has ended."""
    lines = (folder / "verbs").read_text().splitlines()
    begun = [float(line.split()[1]) for line in lines]
    ends = [*begun[1:], time.monotonic()]
    return [end - start for start, end in zip(begun, ends, strict=True)]


def killed_in(folder: Path, verb: int, seconds: float, victim: int) -> int | None:
    """Kill a rank at a moment of a verb, counted from 1; which verb it was in the end.

    None if all was learnt before.
    """
    pids = start(folder)
    while len(verbs(folder)) < verb and not (folder / "learnt").exists():
        time.sleep(0.001)
    time.sleep(seconds)
    if (folder / "learnt").exists():
        assert [code_of(pid, SOON) for pid in pids] == [0, 0]
        return None
    os.kill(pids[victim], signal.SIGKILL)
    assert code_of(pids[victim], SOON) == -signal.SIGKILL
    code, text = code_of(pids[1 - victim], SOON), (folder / "out").read_text()
    if victim:  # rank 0 tells, unless it needed no one any more
        assert code == (0 if (folder / "learnt").exists() else 1)
        assert text.count("Error: a process that shares the training has ended") == code
    else:
        assert code == 0
        assert "Error" not in text
    assert "Traceback" not in text
    return len(verbs(folder))


def test_any_rank_at_random_moments_of_every_verb(tmp_path):
    """Ten times from the beginning to the end, with a kill in each verb on the way."""
    expected, moments, found = to_the_end(tmp_path), random.Random(0), Counter()
    seconds = seconds_of_verbs(tmp_path)
    assert len(seconds) == VERBS
    for _ in range(JOURNEYS):
        shutil.rmtree(tmp_path / "scratch")
        for verb in range(1, VERBS + 1):
            victim, moment = moments.randrange(2), moments.uniform(0, seconds[verb - 1])
            found[killed_in(tmp_path, verb, moment, victim), victim] += 1
        learnt = to_the_end(tmp_path)
        for state, replay in ((0, 1), (2, 3)):
            assert not differences(learnt[state], expected[state]), found
            assert np.array_equal(learnt[replay].images, expected[replay].images)
        print(sorted(found.items(), key=str), flush=True)
    for victim in range(2):
        assert {verb for verb, killed in found if killed == victim} >= {2, 3, 5, 6}
