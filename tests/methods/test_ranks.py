"""Verbs on the ranks that torchrun starts."""

import os
import signal
import socket
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tests.reference.tiny import differences, gppdm, images_of, tensors_of
from torch import multiprocessing

from gppdm_pipeline.algorithm.classifier.network import predict_logits
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.algorithm.team import RankError
from gppdm_pipeline.catalog.scratch import Scratch
from gppdm_pipeline.methods import ranks

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or torch.cuda.is_available(),
    reason="the other rank is forked, which a GPU forbids",
)


def method(**changes):
    """With batches that are cut, in training and in drawing."""
    return gppdm(
        memory="adapters",
        denoiser={"batch_size": 32, "steps": 4, "learning_rate": 1e-3},
        adapters={"batch_size": 32, "learning_rate": 1e-3},
        classifier={"batch_size": 32},
        replay={"images_per_class": 33},
        redraw=0.5,
        **changes,
    )


@pytest.fixture
def other(monkeypatch):
    """Rank 1, which serves; this process is rank 0, as torchrun would have it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("WORLD_SIZE", "2")

    def serving():
        os.environ["RANK"] = "1"
        team = ranks.join()
        assert (team.rank, team.size) == (1, 2)
        ranks.serve(team)

    process = multiprocessing.get_context("fork").Process(target=serving, daemon=True)
    process.start()
    monkeypatch.setenv("RANK", "0")
    assert (ranks.join().rank, ranks.launched().size) == (0, 2)
    yield process
    process.kill()
    process.join()
    if dist.is_initialized():
        dist.destroy_process_group()


def learn(learner, scratch=None):
    """Two tasks, verb by verb as the pipeline has them; states and replays."""
    state, found = LearnerState.empty(), []
    for number, classes in enumerate([(0, 1), (2,)], start=1):
        images = images_of(*classes, per_class=17)
        context = Context(0, number)
        if scratch:
            kept = {"checkpoints": scratch.checkpoints(number, "all"), "drawn": scratch.drawn}
            context = replace(context, **kept)
        given = {"state": state, "earlier": ()}
        replay, _ = ranks.on_all_ranks(learner.synthesise_replay, context, **given)
        given = {"state": state, "train": images, "replay": replay}
        state, _ = ranks.on_all_ranks(learner.train_generator, context, **given)
        given = {"state": state, "train": images, "replay": replay, "validation": images}
        state, _ = ranks.on_all_ranks(learner.train_classifier, context, **given)
        found += [state, replay]
    return found


def test_two_ranks_learn_what_one_learns(other):
    """But for rounding."""
    learner = method()
    first, _, second, replay = learn(learner)
    given = {"state": second, "images": replay.images}
    logits = ranks.on_all_ranks(predict_logits, Context(0, 2), **given)
    ranks.dismiss()
    other.join(30)
    assert other.exitcode == 0
    assert ranks.launched().size == 1
    np.testing.assert_allclose(logits, predict_logits(context=Context(0, 2), **given), atol=1e-4)
    one, _, two, alone = learn(learner)
    assert abs(replay.images.astype(int) - alone.images).max() <= 1
    for state, expected in ((first, one), (second, two)):
        assert differences(state, expected)  # else there were no parts
        tensors, others = tensors_of(state), tensors_of(expected)
        close = [
            torch.isclose(tensors[name], others[name], rtol=1e-2, atol=2e-3).flatten()
            for name in others
        ]
        assert torch.cat(close).float().mean() > 0.995


def test_what_rank_0_has_kept_is_every_ranks(other, tmp_path):
    """Snapshots of a loop, shards of images, replay that is drawn once."""
    learner, scratch = method(), Scratch(tmp_path, 0)
    expected = learn(learner, scratch)
    assert len({file.parent.name for file in tmp_path.rglob("*.safetensors")}) > 3
    for file in sorted(tmp_path.rglob("*.safetensors"))[::2]:
        file.unlink()
    again = learn(learner, scratch)
    ranks.dismiss()
    other.join(30)
    assert other.exitcode == 0
    for position in (0, 2):
        assert not differences(again[position], expected[position])


def test_a_rank_that_dies_ends_the_run_with_one_message(other):
    os.kill(other.pid, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(RankError, match="start again, and the run goes on from its last"):
        learn(method())
    assert time.monotonic() - start < 30


def test_a_rank_ends_with_rank_0(other):
    """Quietly: it is rank 0 that tells why."""
    dist.destroy_process_group()
    other.join(30)
    assert other.exitcode == 0


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(RankError, match=r"process 3 .* 2 GPUs; use --nproc-per-node=2"):
        ranks.join()


def test_without_torchrun_there_is_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert ranks.join().size == 1
    assert not dist.is_initialized()
