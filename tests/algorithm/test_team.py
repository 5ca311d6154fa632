"""Ranks that share a training: what they come to is what one comes to."""

import gc
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from tests.reference.tiny import (
    CLASSIFIER,
    PARTS,
    SHAPE,
    differences,
    gppdm,
    images_of,
    learn,
    tensors_of,
)
from torch import multiprocessing, nn

from gppdm_pipeline.algorithm import vae
from gppdm_pipeline.algorithm.classifier.network import given_to_head, predict_logits
from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.diffusion.projection import orthogonal_updates
from gppdm_pipeline.algorithm.disk.checkpoint_files import CheckpointFolder
from gppdm_pipeline.algorithm.fitting import forks
from gppdm_pipeline.algorithm.fitting.forks import ranks_for, share
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.fitting.loop import Budget, Moving, Objective, backward, fit
from gppdm_pipeline.algorithm.fitting.muon import Muon
from gppdm_pipeline.algorithm.generator.losses import denoising_losses
from gppdm_pipeline.algorithm.generator.residuals import denoising_residuals
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.algorithm.team import RankError, parts
from gppdm_pipeline.methods import Method
from gppdm_pipeline.pipelines.measure import cpu_seconds

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or torch.cuda.is_available(),
    reason="processes are forked on Linux without a GPU",
)


@pytest.fixture
def threads():
    """Sets the number of threads, and puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def forked(monkeypatch):
    """The processes that were forked."""
    fork, found = os.fork, []

    def noted():
        process = fork()
        found.append(process)
        return process

    monkeypatch.setattr(os, "fork", noted)
    return found


def is_gone(process):
    """Whether a process has ended, waited for or not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def soon(condition, seconds):
    """Whether it comes true in so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


class Line(Objective):
    """A slope, an offset for each sign of x, and one without use."""

    def __init__(self, at_step=None):
        generator = torch.Generator().manual_seed(0)
        self.x, self.y = torch.randn(2, 60, generator=generator)
        self.x = self.x.abs() * torch.where(torch.arange(60) < 20, -1, 1)
        self.parameters = [nn.Parameter(torch.zeros(n)) for n in (1, 3, 3, 2)]
        self.at_step, self.steps = at_step or (lambda step: None), 0

    def drawn(self, batch, generator):
        """All images, of both signs, in their order."""
        return self.x, self.y

    def losses(self, drawn):
        """Two of them."""
        self.steps += 1
        self.at_step(self.steps)
        x, y = drawn
        slope, above, below, _ = self.parameters
        error = (slope * x - y).square().mean()
        if (x > 0).any():
            error = error + ((above.sum() - y).square() * (x > 0)).mean()
        if (x < 0).any():
            error = error + ((below.sum() - y).square() * (x < 0)).mean()
        return {"error": error, "size": slope.exp().sum()}

    def fit(self, steps=3, **context):
        """Train; returns the log."""
        moving = Moving(self.parameters, torch.optim.SGD(self.parameters, 0.1))
        labels, where = torch.zeros(60, dtype=torch.int64), Context(0, 1, **context)
        return fit(self, moving, labels, Budget(steps, 60), where, "line")


@pytest.mark.parametrize(
    ("number", "images", "sizes"),
    [(1, 64, [64]), (2, 33, [16, 17]), (2, 31, [31]), (4, 50, [16, 17, 17]), (2, 0, [0])],
)
def test_parts(number, images, sizes):
    cut = parts(images, number)
    assert [part.stop - part.start for part in cut] == sizes
    assert [i for part in cut for i in range(part.start, part.stop)] == list(range(images))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_gradients_are_those_of_one_rank(forked, size):
    """Those that no part has are none; of five ranks, two have no part."""
    found = {}

    def work(team):
        line, found[team.size] = Line(), []
        for sign in (1, -1):
            for parameter in line.parameters:
                parameter.grad = None
            losses = backward(line, (sign * line.x, line.y), line.parameters, team)
            assert not any(loss.requires_grad for loss in losses.values())
            found[team.size] += [losses, [parameter.grad for parameter in line.parameters]]
            with torch.no_grad():
                for parameter in line.parameters[:3]:
                    parameter.sub_(0.1 * parameter.grad)
        found[team.size].append(line.parameters)

    share(work, 1)
    assert not forked
    share(work, size)
    assert len(forked) == size - 1
    assert found[1][1][3] is None
    for one, other in zip(found[1], found[size], strict=True):
        torch.testing.assert_close(other, one)


@pytest.mark.parametrize("size", [2, 5])
def test_samples_are_gathered_in_order(tmp_path, size):
    """By every rank, those of ranks that have no part among them."""
    images = torch.arange(50 * 3).reshape(50, 3).to(torch.uint8)

    def work(team):
        whole = team.gather(images[team.part(50)], 50)
        few = team.gather(images[:20], 20)
        torch.save((whole, few), tmp_path / str(team.rank))

    share(work, size)
    for rank in range(size):
        whole, few = torch.load(tmp_path / str(rank))
        assert torch.equal(whole, images)
        assert torch.equal(few, images[:20])


@pytest.mark.parametrize("size", [2, 4])
def test_images_that_take_random_numbers_are_drawn_in_parts(tmp_path, forked, size):
    """In two batches, of which a fourth rank gets no part: all have drawn the same numbers."""
    replay = {"images_per_class": 36, "batch_size": 54, "sampler_steps": 3}
    method = Method.model_validate({"name": "ddgr", **PARTS, "replay": replay})
    state = learn(method, [(0, 1)])[-1]

    def work(team):
        context = Context(0, 2, team=team)
        replay, _ = method.synthesise_replay(state, context)
        torch.save((team.size, torch.from_numpy(replay.images)), tmp_path / str(team.rank))

    share(work, 1)
    _, alone = torch.load(tmp_path / "0")
    share(work, size)
    of_ranks = [torch.load(tmp_path / str(rank)) for rank in range(size)]
    assert all(found == size for found, _ in of_ranks)
    for _, images in of_ranks:
        assert torch.equal(images, of_ranks[0][1])
        assert (images.int() - alone.int()).abs().max() <= 1


PIECES = {
    "what a denoiser leaves out": lambda learnt, images, context: denoising_residuals(
        learnt["gppdm"], images, gppdm(replay={"batch_size": 64}), context
    ),
    "a denoiser's losses": lambda learnt, images, context: denoising_losses(
        learnt["gppdm"], images, gppdm(replay={"batch_size": 33}), context
    ),
    "what a VAE leaves out": lambda learnt, images, context: vae.reconstruction_residuals(
        learnt["vae_replay"], images, context
    ),
    "what a VAE draws": lambda learnt, images, context: torch.from_numpy(
        vae.draw_from_vae(learnt["vae_replay"], (0, 1), 25, context, "draw").images / 255
    ),
    "logits": lambda learnt, images, context: torch.from_numpy(
        predict_logits(learnt["gppdm"], images.images, context)
    ),
    "features": lambda learnt, images, context: given_to_head(
        learnt["gppdm"], images.images, context
    ),
}


@pytest.fixture(scope="module")
def learnt():
    """A state of each method after one task."""
    vae = {"width": 8, "latent_dim": 2, "steps": 2}
    settings = {"name": "vae_replay", "classifier": CLASSIFIER, "vae": vae}
    methods = gppdm(), Method.model_validate(settings)
    return {method.name: learn(method, [(0, 1)])[-1] for method in methods}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES)
def test_what_takes_one_pass_is_done_in_parts(learnt, tmp_path, monkeypatch, piece, size):
    """All ranks get all of it, each has done less, and a fourth one next to nothing."""
    images, convolve, rows = images_of(0, 1, per_class=35), nn.Conv2d.forward, []

    def noted(layer, x):
        rows.append(len(x))
        return convolve(layer, x)

    monkeypatch.setattr(nn.Conv2d, "forward", noted)

    def work(team):
        rows.clear()
        found = piece(learnt, images, Context(0, 2, team=team))
        torch.save((found, sum(rows)), tmp_path / str(team.rank))

    share(work, 1)
    whole, done = torch.load(tmp_path / "0")
    share(work, size)
    for rank in range(size):
        found, part = torch.load(tmp_path / str(rank))
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=4e-3)  # a grey level
        assert part <= 0.6 * done


@pytest.mark.parametrize("size", [2, 3])
def test_a_vae_is_shared_with_what_teaches_it(monkeypatch, size):
    """Latents of old classes are cut as images are: 31 of them in 15 and 16, beside 10 and 10."""
    config = vae.VaeConfig(width=8, latent_dim=2, steps=1, batch_size=51)
    old, new = images_of(0, 1, 2, 3, 5), images_of(4, 6, 7)
    state = LearnerState.empty().begin(1, old.classes, SHAPE)
    state, _ = vae.fit_vae(state, config, old, Context(0, 1))
    state, found = state.begin(2, new.classes, SHAPE), {}

    def taught(objective, moving, labels, budget, context, stage):
        batch = torch.arange(budget.batch_size) % len(labels)
        drawn = objective.drawn(batch, context.generator(stage))
        assert [len(tensor) for tensor in drawn] == [20] * 3 + [31] * 2

        def work(team):
            for parameter in moving.weights:
                parameter.grad = None
            losses = backward(objective, drawn, moving.weights, team)
            found[team.size] = losses, [parameter.grad for parameter in moving.weights]

        share(work, 1)
        share(work, size)
        return StageLog()

    monkeypatch.setattr(vae, "fit", taught)
    vae.fit_vae(state, config, new, Context(0, 2))
    assert len(found[1][0]) == 3
    torch.testing.assert_close(found[size], found[1])


def test_a_vae_with_few_images_beside_many_latents_is_shared(threads, forked):
    """In its first task, and in one with 8 images in 32 rows."""
    rows = {"width": 8, "latent_dim": 2, "steps": 2, "batch_size": 32, "learning_rate": 1e-3}
    settings = {"name": "vae_replay", "vae": rows, "classifier": {**CLASSIFIER, "batch_size": 6}}
    method = Method.model_validate(settings)
    threads(2)
    learn(method, [(0, 1, 4), (2,)])
    assert len(forked) == 2


DIM = 24


class Net(Objective):
    """A layer whose updates are orthogonal to old inputs, which lean on it, and another one."""

    def __init__(self):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(DIM, 10), nn.Tanh(), nn.Linear(10, 2))
        self.old, self.start = torch.randn(DIM, 5), self.net[0].weight.detach().clone()
        self.basis = torch.linalg.qr(self.old.double())[0].float()

    def drawn(self, batch, generator):
        """Old inputs among new ones."""
        new = torch.randn(len(batch) - 5, DIM, generator=generator)
        return (torch.cat([self.old.T, new]),)

    def losses(self, drawn):
        """Far from what it says."""
        return {"error": (self.net(drawn[0]) - 3).square().mean()}

    def fit(self, optimiser, size):
        """20 steps on so many ranks."""
        torch.set_num_threads(size)
        with orthogonal_updates(self.net, {"0": self.basis}):
            parameters = list(self.net.parameters())
            budget = Budget(20, 70, gradient_clip=0.1, ema_decay=0.9)
            moving, labels = Moving(parameters, optimiser(parameters)), torch.zeros(70).long()
            log = fit(self, moving, labels, budget, Context(0, 1), "net")
        return log, dict(self.net.state_dict())


def muon(parameters):
    """Matrices by Muon, biases by AdamW, both with decay."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "matrices": True},
        {"params": [p for p in parameters if p.ndim == 1], "matrices": False},
    ]
    return Muon(groups, lr=0.02, weight_decay=0.3)


@pytest.mark.parametrize(
    "optimiser", [muon, lambda p: torch.optim.AdamW(p, lr=0.02)], ids=["muon", "adamw"]
)
def test_one_two_and_four_ranks_agree(threads, forked, optimiser):
    """Projection is exact; clipping, averaging and Muon see the whole gradient."""
    logs, ends = zip(*[Net().fit(optimiser, size) for size in (1, 2, 4)], strict=True)
    assert len(forked) == 1 + 3
    for log, end in zip(logs, ends, strict=True):
        torch.testing.assert_close(end, ends[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(log.curves["error"], logs[0].curves["error"], rtol=1e-5, atol=0)
        net = Net()
        moved = end["0.weight"] - net.start
        assert (moved @ net.old).norm() / (net.start @ net.old).norm() <= 1e-5
        assert moved.norm() / net.start.norm() >= 1e-2
    again = Net().fit(optimiser, 2)[1]
    assert all(torch.equal(again[name], ends[1][name]) for name in again)


def test_two_ranks_learn_what_one_learns(threads, forked):
    """Adapters leave the denoiser as it is; the rest differs by rounding.

    That turns a step of AdamW where a gradient is as good as zero.
    """
    method = gppdm(
        memory="adapters",
        denoiser={"batch_size": 32, "learning_rate": 1e-3, "steps": 3},
        classifier={"batch_size": 32},
        adapters={"batch_size": 32, "learning_rate": 1e-3},
    )
    ends = {}
    for count in (1, 2, 2):
        threads(count)
        ends.setdefault(count, []).append(learn(method, [(0, 1), (2,)]))
    [[_, _, one], [_, first, two]], again = (ends[1][0], ends[2][0]), ends[2][1][-1]
    assert len(forked) == 2 * 4  # two networks in two tasks, twice
    assert all(map(is_gone, forked))
    assert not differences(two, again)
    frozen = first.denoiser.tensors
    assert all(torch.equal(two.denoiser.tensors[name], frozen[name]) for name in frozen)
    alone, together = tensors_of(one), tensors_of(two)
    close = [
        torch.isclose(together[name], tensor, rtol=1e-2, atol=2e-3).flatten()
        for name, tensor in alone.items()
    ]
    assert torch.cat(close).float().mean() > 0.995
    assert any(not torch.equal(together[name], tensor) for name, tensor in alone.items())


def test_afterwards_all_is_as_before(threads, forked):
    threads(3)
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(2):
        Line(at_step=lambda _: torch.get_num_threads() == 1 or os._exit(7)).fit()
    assert torch.get_num_threads() == 3
    assert len(forked) == 4
    assert all(map(is_gone, forked))
    assert len(set(os.listdir("/proc/self/fd"))) == len(before)


def test_what_goes_wrong_outside_ends_the_processes(threads, forked):
    threads(2)
    here = os.getpid()

    def interrupt(step):
        if os.getpid() == here and step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Line(at_step=interrupt).fit()
    assert len(forked) == 1
    assert is_gone(forked[0])
    assert torch.get_num_threads() == 2


def test_what_goes_wrong_in_a_process_is_told(threads, forked, capfd):
    threads(2)
    here = os.getpid()

    def fail(step):
        if os.getpid() != here:
            raise ValueError("no such part")

    with pytest.raises(RankError, match="exit code 1; its error is above"):
        Line(at_step=fail).fit()
    assert "ValueError: no such part" in capfd.readouterr().err


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_rank_is_told_and_the_training_goes_on(threads, forked, tmp_path, ranks):
    """To the same bits with as many ranks, and but for rounding with one."""
    threads(2)
    whole, line, here = Line(), Line(), os.getpid()
    whole.fit(9)
    checkpoints = CheckpointFolder(tmp_path, "key", 0)

    def kill(step):
        if os.getpid() != here and step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    start = time.monotonic()
    with pytest.raises(RankError, match=r"SIGKILL: out of memory.*goes on from its last"):
        Line(at_step=kill).fit(9, checkpoints=checkpoints)
    assert time.monotonic() - start < 30
    assert is_gone(forked[-1])
    assert checkpoints("line").latest().step == 4
    threads(ranks)
    line.fit(9, checkpoints=checkpoints)
    torch.testing.assert_close(line.parameters, whole.parameters)
    assert line.steps < 9
    if ranks == 2:
        assert all(map(torch.equal, line.parameters, whole.parameters))


@pytest.mark.parametrize("before", ["it arrives", "it meets the other"])
def test_a_rank_that_is_killed_before_it_begins_is_told(threads, forked, monkeypatch, before):
    """Nobody waits for it; where it was about to meet, not for long."""
    threads(2)
    assert forks._MEETING < timedelta(seconds=30)
    here = os.getpid()

    def dying(work):
        def done(*args, **given):
            if os.getpid() != here:
                os.kill(os.getpid(), signal.SIGKILL)
            return work(*args, **given)

        return done

    if before == "it arrives":
        monkeypatch.setattr(forks.gc, "freeze", dying(gc.freeze))
    else:
        monkeypatch.setattr(forks, "_met", dying(forks._met))
        monkeypatch.setattr(forks, "_MEETING", timedelta(seconds=2))
    start = time.monotonic()
    with pytest.raises(RankError, match=r"SIGKILL: out of memory.*goes on from its last"):
        Line().fit()
    assert time.monotonic() - start < 15
    assert all(map(is_gone, forked))


@pytest.mark.parametrize("before", ["they arrive", "it meets them"])
def test_ranks_end_with_rank_0_that_is_killed_before_it_begins(
    threads, monkeypatch, tmp_path, before
):
    """At once, or soon, where they are about to meet it."""
    threads(3)
    told = tmp_path / "others"
    place = (torch, "set_num_threads")
    if before == "it meets them":
        place = (forks, "_met")
        monkeypatch.setattr(forks, "_MEETING", timedelta(seconds=2))
    if not (rank_0 := os.fork()):
        real, here = getattr(*place), os.getpid()

        def dying(*args, **given):
            if os.getpid() == here:
                told.write_text(Path(f"/proc/{here}/task/{here}/children").read_text())
                os.kill(here, signal.SIGKILL)
            return real(*args, **given)

        setattr(*place, dying)
        try:
            share(lambda _: None, 3)
        finally:
            os._exit(1)
    os.waitpid(rank_0, 0)
    others = [*map(int, told.read_text().split())]
    assert len(others) == 2
    assert soon(lambda: all(map(is_gone, others)), 15)


def test_cpu_seconds_are_those_of_all(threads):
    """What processes took counts when they have ended."""
    threads(2)
    here = os.getpid()

    def compute(step):
        end = time.process_time() + (0.3 if os.getpid() != here else 0)
        while time.process_time() < end:
            pass

    before, own = cpu_seconds(), time.process_time()
    Line(at_step=compute).fit(1)
    assert cpu_seconds() - before > 0.25 + time.process_time() - own


def test_what_is_lost_is_finalised_once(threads, tmp_path):
    """By the process whose it was."""
    threads(2)

    class Ring:
        def __init__(self):
            self.itself = self

        def __del__(self):
            (tmp_path / str(os.getpid())).touch()

    gc.collect()
    Ring()
    Line(at_step=lambda _: gc.collect()).fit(1)
    assert [file.name for file in tmp_path.iterdir()] == [str(os.getpid())]


def test_one_does_it_where_there_can_be_no_process(threads, monkeypatch, caplog):
    threads(3)
    real, calls = os.fork, []

    def fails():
        calls.append(1)
        if len(calls) == 2:
            raise OSError("no room")
        return real()

    monkeypatch.setattr(os, "fork", fails)
    line, alone = Line(), Line()
    line.fit()
    assert torch.get_num_threads() == 3
    assert multiprocessing.active_children() == []
    assert [record.message for record in caplog.records] == [
        "no process for a part of a batch (no room): one takes all"
    ]
    threads(1)
    alone.fit()
    torch.testing.assert_close(line.parameters, alone.parameters)


def test_when_a_training_is_shared(threads, forked, monkeypatch):
    threads(2)
    assert [ranks_for(images, CPU) for images in (31, 32, 640)] == [1, 2, 2]
    assert ranks_for(64, torch.device("meta")) == 1
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        assert ranks_for(64, CPU) == 1
    monkeypatch.setattr(forks.sys, "platform", "darwin")
    assert ranks_for(64, CPU) == 1


def test_processes_die_with_the_one_that_forked_them(tmp_path):
    """However it dies; a signal to all of them is the first one's alone."""
    told = tmp_path / "process"
    root = Path(__file__).parents[2]
    run = subprocess.Popen(
        [sys.executable, root / "tests/reference/endless_training.py", told],
        env={**os.environ, "PYTHONPATH": str(root / "src")},
        start_new_session=True,
    )
    try:
        assert soon(told.exists, 120)
        other = int(told.read_text())
        os.killpg(run.pid, signal.SIGINT)
        assert soon(told.with_suffix(".interrupted").exists, 30)
        time.sleep(0.3)
        assert not is_gone(other)
    finally:
        run.kill()
        run.wait()
    assert soon(lambda: is_gone(other), 10)
