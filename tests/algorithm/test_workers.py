"""Parts of a batch by several processes come to what they come to by threads."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
from tests.reference.tiny import gppdm, images_of, learn

from gppdm_pipeline.algorithm import workers
from gppdm_pipeline.algorithm.denoiser import DenoiserConfig
from gppdm_pipeline.algorithm.device import CPU
from gppdm_pipeline.algorithm.objective import Objective
from gppdm_pipeline.algorithm.pixels import Pixels
from gppdm_pipeline.algorithm.workers import WorkerError, backward_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")


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
    monkeypatch.setattr(workers, "_can_fork", lambda: True)
    return found


def is_gone(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def line():
    """Images x, what they should give, a slope, an offset for each sign, and one without use."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 60, generator=generator)
    x = x.abs() * torch.where(torch.arange(60) < 20, -1, 1)
    return x, y, [torch.zeros(n, requires_grad=True) for n in (1, 3, 3, 2)]


def losses_of(parameters):
    slope, above, below, _ = parameters

    def losses(batch):
        x, y = batch
        error = (slope * x - y).square().mean()
        if (x > 0).any():
            error = error + (above.sum() - y).square().mean()
        if (x < 0).any():
            error = error + (below.sum() - y).square().mean()
        return {"error": error, "size": slope.exp().sum()}

    return losses


@pytest.mark.parametrize("count", [2, 3])
def test_gradients_are_those_of_threads(threads, forked, monkeypatch, count):
    """Batch after batch, of parameters that move; those without use have none."""
    threads(count)
    found = {}
    for way in ("processes", "threads"):
        monkeypatch.setattr(workers, "_can_fork", lambda way=way: way == "processes")
        x, y, parameters = line()
        found[way] = []
        with backward_of(losses_of(parameters), parameters) as backward:
            for step in range(4):
                for parameter in parameters:
                    parameter.grad = None
                losses = backward((x * (1 + step), y))
                assert parameters[-1].grad is None
                grads = [parameter.grad.clone() for parameter in parameters[:-1]]
                found[way].append([*losses.values(), *grads])
                with torch.no_grad():
                    for parameter, grad in zip(parameters, grads, strict=False):
                        parameter.sub_(0.1 * grad)
        found[way].append([parameter.detach() for parameter in parameters])
        assert [*losses] == ["error", "size"]
        assert not any(loss.requires_grad for loss in losses.values())
    assert len(forked) == count - 1
    for one, other in zip(found["processes"], found["threads"], strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.equal(found["threads"][0][0], found["threads"][1][0])


def test_a_trained_method_is_that_of_threads(threads, forked, monkeypatch):
    threads(2)
    method = gppdm(
        denoiser={"batch_size": 40, "steps": 3, "optimiser": "muon"},
        classifier={"batch_size": 40},
        replay={"images_per_class": 20},
    )
    by_processes, again = (learn(method, [(0, 1), (2,)])[-1] for _ in range(2))
    assert len(forked) == 2 * 4  # for two networks in two tasks
    assert all(map(is_gone, forked))
    monkeypatch.setattr(workers, "_can_fork", lambda: False)
    by_threads = learn(method, [(0, 1), (2,)])[-1]
    for network in ("denoiser", "classifier"):
        one, same, other = (getattr(s, network).tensors for s in (by_processes, again, by_threads))
        assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
        # Where a part begins in memory decides how it is rounded.
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_afterwards_all_is_as_before(threads, forked):
    threads(2)
    x, y, parameters = line()
    with backward_of(losses_of(parameters), parameters) as backward:
        backward((x, y))
        assert torch.get_num_threads() == 1
        assert len({p.untyped_storage().data_ptr() for p in parameters}) == 1
    assert torch.get_num_threads() == 2
    assert len({p.untyped_storage().data_ptr() for p in parameters}) == len(parameters)
    assert all(map(is_gone, forked))


def test_what_goes_wrong_outside_ends_the_processes(threads, forked):
    threads(2)
    x, y, parameters = line()
    with (
        pytest.raises(KeyboardInterrupt),
        backward_of(losses_of(parameters), parameters) as backward,
    ):
        backward((x, y))
        raise KeyboardInterrupt
    assert len(forked) == 1
    assert is_gone(forked[0])
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("when", ["waiting", "working"])
def test_a_process_that_dies_is_told(threads, forked, when):
    threads(2)
    x, y, parameters = line()
    here, plain = os.getpid(), losses_of(parameters)

    def losses(batch):
        if when == "working" and os.getpid() != here and batch[0][0] > 50:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(batch)

    with backward_of(losses, parameters) as backward:
        backward((x, y))
        if when == "waiting":
            os.kill(forked[0], signal.SIGKILL)
        with pytest.raises(WorkerError, match="SIGKILL: out of memory"):
            backward((x + 100, y))
    assert is_gone(forked[0])


def test_what_goes_wrong_in_a_process_is_told(threads, forked, capfd):
    threads(2)
    x, y, parameters = line()
    here, plain = os.getpid(), losses_of(parameters)

    def losses(batch):
        if os.getpid() != here:
            raise ValueError("no such part")
        return plain(batch)

    with (
        backward_of(losses, parameters) as backward,
        pytest.raises(WorkerError, match="exit code 1; its error is above"),
    ):
        backward((x, y))
    assert "ValueError: no such part" in capfd.readouterr().err


def test_threads_do_it_where_there_can_be_no_process(threads, monkeypatch, caplog):
    threads(3)
    x, y, parameters = line()
    real = os.fork
    forks = mock.Mock(side_effect=[mock.DEFAULT, OSError("no room")], wraps=real)
    monkeypatch.setattr(os, "fork", forks)
    monkeypatch.setattr(workers, "_can_fork", lambda: True)
    with backward_of(losses_of(parameters), parameters) as backward:
        backward((x, y))
        backward((x, y))
        assert torch.get_num_threads() == 3
    assert forks.call_count == 2
    assert [record.message for record in caplog.records] == [
        "no process for a part of a batch (no room): threads take it"
    ]


def test_a_small_batch_is_not_cut(threads, forked):
    threads(2)
    x, y, parameters = line()
    with backward_of(losses_of(parameters), parameters) as backward:
        backward((x[:31], y[:31]))
    assert not forked


@pytest.mark.parametrize(("pull", "whole"), [(None, False), (object(), True)])
def test_a_mean_over_some_of_the_images_is_not_cut(threads, forked, pull, whole):
    threads(2)
    data = images_of(0, 1, per_class=32)
    pixels, rows = Pixels(data.images, CPU), torch.from_numpy(data.labels)
    assert Objective(pixels, rows, DenoiserConfig(), pull=pull).whole is whole
    x, y, parameters = line()
    with backward_of(losses_of(parameters), parameters, whole=whole) as backward:
        backward((x, y))
    assert bool(forked) is not whole


def test_processes_die_with_the_one_that_forked_them(tmp_path):
    """However it dies; and a signal to all of them is the first one's alone."""
    told = tmp_path / "process"
    script = Path(__file__).parents[1] / "reference" / "endless_training.py"
    run = subprocess.Popen([sys.executable, script, told], start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not told.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        worker = int(told.read_text())
        assert not is_gone(worker)
    finally:
        run.kill()
        run.wait()
    deadline = time.monotonic() + 10
    while not is_gone(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_gone(worker)
