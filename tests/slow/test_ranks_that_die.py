"""Any rank is killed at random moments of every stage: the others end soon, and it goes on."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel  # noqa: F401 (once for all ranks)
from tests.algorithm.test_team import is_gone
from tests.methods.test_ranks import method
from tests.reference.runs import free_port
from tests.reference.tiny import CLASSIFIER, SHAPE, images_of, tensors_of

from gppdm_pipeline.algorithm.autoencoder import OwnAutoencoder, fit_autoencoder
from gppdm_pipeline.algorithm.classifier.network import (
    ClassifierConfig,
    fit_classifier,
    given_to_head,
    predict_logits,
)
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.algorithm.team import RankError
from gppdm_pipeline.catalog.scratch import Scratch
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method, ranks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or torch.cuda.is_available(),
        reason="ranks are forked, which a GPU forbids",
    ),
]

MOMENTS, SOON = 10, 30
AT_LAST = 300
"""Seconds until what nobody kills has begun, or ended, on a machine with other work."""
FIRST, SECOND = images_of(0, 1, per_class=40), images_of(2, per_class=40)
MANY = images_of(0, 1, 2, per_class=1500)
NONE = LabelledImages.empty(SHAPE)
LEARNER = method()
VAE = Method.model_validate(
    {
        "name": "vae_replay",
        "classifier": {**CLASSIFIER, "batch_size": 32},
        "vae": {"width": 8, "latent_dim": 2, "steps": 40, "batch_size": 64},
    }
)
OWN = OwnAutoencoder(8, 1, 4, steps=20, batch_size=32, learning_rate=1e-3)
ORACLE = ClassifierConfig(width=8, steps=40, batch_size=64)


def learns(learner, verb, task, images, replay=None, state=None, **more):
    """A verb of a method on images, after the stages of these names."""

    def given(found):
        held = NONE if replay is None else found[replay]
        before = LearnerState.empty() if state is None else found[state]
        return {"state": before, "train": images, "replay": held, **more}

    return getattr(learner, verb), task, given


STAGES = {
    "train_autoencoder": (
        fit_autoencoder,
        1,
        lambda found: {"images": MANY.images, "settings": OWN},
    ),
    "train_generator": learns(LEARNER, "train_generator", 1, FIRST),
    "train_classifier": learns(
        LEARNER, "train_classifier", 1, FIRST, state="train_generator", validation=FIRST
    ),
    "synthesise_replay": (
        LEARNER.synthesise_replay,
        2,
        lambda found: {"state": found["train_classifier"]},
    ),
    "train_adapter": learns(
        *(LEARNER, "train_generator", 2, SECOND), "synthesise_replay", "train_classifier"
    ),
    "train_classifier_again": learns(
        *(LEARNER, "train_classifier", 2, SECOND), "synthesise_replay", "train_adapter",
        validation=SECOND,
    ),
    "evaluate": (
        predict_logits,
        2,
        lambda found: {"state": found["train_classifier_again"], "images": MANY.images},
    ),
    "attack": (
        LEARNER.generator_losses,
        2,
        lambda found: {"state": found["train_classifier_again"], "images": FIRST},
    ),
    "draw": (
        LEARNER.draw,
        2,
        lambda found: {
            "state": found["train_classifier_again"],
            "classes": (0, 2),
            "per_class": 40,
        },
    ),
    "train_vae": learns(VAE, "train_generator", 1, FIRST),
    "train_vae_with_a_teacher": learns(VAE, "train_generator", 2, SECOND, state="train_vae"),
    "train_oracle": (
        fit_classifier,
        1,
        lambda found: {
            "state": LearnerState.empty().begin(1, MANY.classes, SHAPE),
            "config": ORACLE,
            "train": MANY,
            "validation": NONE,
        },
    ),
    "measure": (
        given_to_head,
        1,
        lambda found: {"state": found["train_oracle"], "images": MANY.images},
    ),
}  # fmt: skip
"""By name: what all ranks do, of which task, and what it is given of what was found before."""
TRAININGS = [name for name in STAGES if name.startswith("train")]


def go(folder: Path, last: str) -> None:
    """Do the stages up to one, as a run does: those whose outcome is there are not done again."""
    found, scratch = {}, Scratch(folder / "scratch", 0)
    for name, (work, task, given) in STAGES.items():
        if not outcome_of(folder, name).exists():
            checkpoints = scratch.checkpoints(task, name)
            context = replace(Context(0, task), checkpoints=checkpoints, drawn=scratch.drawn)
            (folder / "begun").write_text(name)
            found[name] = ranks.on_all_ranks(work, context, **given(found))
            outcome_of(folder, name).with_suffix(".new").write_bytes(pickle.dumps(found[name]))
            outcome_of(folder, name).with_suffix(".new").rename(outcome_of(folder, name))
        outcome = pickle.loads(outcome_of(folder, name).read_bytes())
        found[name] = outcome[0] if isinstance(outcome, tuple) else outcome
        if name == last:
            return


def outcome_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.pickle"


def bits(outcome) -> dict[str, np.ndarray]:
    """All that was learnt, drawn or measured, by name."""
    if isinstance(outcome, tuple):
        outcome, log = outcome
        curves = {name: np.array(curve) for name, curve in log.curves.items()}
        return bits(outcome) | curves
    if isinstance(outcome, LearnerState):
        return {name: tensor.numpy() for name, tensor in tensors_of(outcome).items()}
    if isinstance(outcome, torch.nn.Module):
        return {name: tensor.numpy() for name, tensor in outcome.state_dict().items()}
    return {"": outcome.images if isinstance(outcome, LabelledImages) else np.asarray(outcome)}


def as_rank(rank: int, port: int, folder: Path, last: str) -> None:
    """One of two, as torchrun starts them."""
    given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in given.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    team = ranks.join()
    if rank:
        ranks.serve(team)
    else:
        go(folder, last)
        ranks.dismiss()


def as_one(rank: int, port: int, folder: Path, last: str) -> None:
    """One process, which forks another one for each training."""
    torch.set_num_threads(2)
    go(folder, last)


def start(folder: Path, last: str, role, number: int) -> list[int]:
    """So many processes, which print to <folder>/out."""
    port, pids = free_port(), []
    for name in ("begun", "out"):
        (folder / name).unlink(missing_ok=True)
    for rank in range(number):
        if pid := os.fork():
            pids.append(pid)
            continue
        os.dup2(os.open(folder / "out", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        code = 1
        try:
            role(rank, port, folder, last)
            code = 0
        except RankError as error:
            os.write(2, f"Error: {error}\n".encode())
        finally:
            os._exit(code)
    return pids


def children_of(pid: int) -> list[int]:
    try:
        return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    except FileNotFoundError:
        return []


def has_begun(folder: Path, stage: str) -> bool:
    return (folder / "begun").exists() and (folder / "begun").read_text() == stage


def code_of(pid: int, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail(f"it has not ended within {seconds} s")


def to_the_end(folder: Path, stage: str, *how) -> None:
    codes = [code_of(pid, AT_LAST) for pid in start(folder, stage, *how)]
    assert codes == [0] * len(codes), (folder / "out").read_text()


class Journey:
    """Stages of which a process is killed at random moments, and how often that was.

    Attributes:
        folder: of outcomes, checkpoints and what is said.
        seconds: that each stage takes.
        expected: each stage's bits.
        found: how often each rank was killed within each stage.
        longest: seconds from a kill to the end of the others.
    """

    def __init__(self, folder: Path, *how) -> None:
        self.folder, self.how, self.moments = folder, how, random.Random(0)
        self.seconds, self.expected, self.found, self.longest = {}, {}, Counter(), 0.0
        for stage in STAGES:
            to_the_end(folder, stage, *how)
            begun, ended = ((folder / "begun"), outcome_of(folder, stage))
            self.seconds[stage] = ended.stat().st_mtime - begun.stat().st_mtime
            self.expected[stage] = self.bits_of(stage)

    def bits_of(self, stage):
        return bits(pickle.loads(outcome_of(self.folder, stage).read_bytes()))

    def anew(self, stage) -> None:
        outcome_of(self.folder, stage).unlink()
        shutil.rmtree(self.folder / "scratch", ignore_errors=True)

    def kill(self, stage: str, victim: int) -> None:
        """Kill a rank at a random moment of a stage; it counts if it was within."""
        pids = start(self.folder, stage, *self.how)
        wait_for(lambda: has_begun(self.folder, stage), AT_LAST)
        time.sleep(self.moments.uniform(0, self.seconds[stage]))
        others = children_of(pids[0]) if len(pids) == 1 else []
        both = [pids[0], *(others or pids[1:])]
        if victim < len(both):
            os.kill(both[victim], signal.SIGKILL)
        killed = time.monotonic()
        codes = [code_of(pid, SOON) for pid in pids]
        wait_for(lambda: all(map(is_gone, others)))
        assert time.monotonic() - killed < SOON
        if victim >= len(both):  # there was no other process
            return
        if outcome_of(self.folder, stage).exists():
            self.seconds[stage] *= 0.9  # it was faster, as on a machine that has less to do now
            return
        text = (self.folder / "out").read_text()
        if victim:  # rank 0 tells
            assert codes[0] == 1, text
            assert text.count("Error: a process that shares the training") == 1, text
        else:
            assert "Error" not in text, text
        assert "Traceback" not in text, text
        self.longest = max(self.longest, time.monotonic() - killed)
        self.found[stage, victim] += 1

    def of(self, stage: str) -> None:
        """Both ranks in turn, until each was killed often enough; then on to the same bits."""
        for turn in range(10 * MOMENTS):
            wanted = [r for r in range(2) if self.found[stage, r] < MOMENTS // 2]
            if not wanted:
                return
            self.anew(stage)
            for victim in wanted[:: 1 if turn % 2 else -1]:
                if not outcome_of(self.folder, stage).exists():
                    self.kill(stage, victim)
            to_the_end(self.folder, stage, *self.how)
            found, expected = self.bits_of(stage), self.expected[stage]
            assert found.keys() == expected.keys()
            assert all(np.array_equal(found[name], expected[name]) for name in expected), stage
        pytest.fail(f"{stage}: killed {self.found} times within it")


def wait_for(condition, seconds: float = SOON) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("role", "number", "stages"),
    [(as_rank, 2, [*STAGES]), (as_one, 1, TRAININGS)],
    ids=["torchrun", "forked"],
)
def test_any_rank_at_ten_random_moments_of_every_stage(tmp_path, role, number, stages):
    journey = Journey(tmp_path, role, number)
    for stage in stages:
        journey.of(stage)
        counts = [journey.found[stage, rank] for rank in range(2)]
        print(f"{stage}: {journey.seconds[stage]:.2f} s, killed {counts} times", flush=True)
    print(f"all have ended {journey.longest:.2f} s after a kill")
    assert all(journey.found[stage, rank] >= MOMENTS // 2 for stage in stages for rank in range(2))
