"""Parts of a batch by several processes come to what they come to by threads."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from tests.reference.tiny import gppdm, learn

from gppdm_pipeline.algorithm.fitting import workers
from gppdm_pipeline.algorithm.fitting.threads import added
from gppdm_pipeline.algorithm.fitting.workers import WorkerError, backward_of
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
    monkeypatch.setattr(workers, "_can_fork", lambda: True)
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


def children():
    """Of this process."""
    tasks = Path("/proc/self/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def line():
    """Images x, what they should give, a slope, an offset for each sign, and one without use."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 60, generator=generator)
    x = x.abs() * torch.where(torch.arange(60) < 20, -1, 1)
    return x, y, [torch.zeros(n, requires_grad=True) for n in (1, 3, 3, 2)]


def minimised(losses, whole=False):
    """What a training minimises: the sum of these losses."""
    return SimpleNamespace(losses=losses, total=added, whole=whole)


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
    """Batch after batch, of parameters that move; those that a batch does not need have none."""
    threads(count)
    found = {}
    for way in ("processes", "threads"):
        monkeypatch.setattr(workers, "_can_fork", lambda way=way: way == "processes")
        x, y, parameters = line()
        found[way] = []
        with backward_of(minimised(losses_of(parameters)), parameters) as backward:
            for step in range(4):
                for parameter in parameters:
                    parameter.grad = None
                # The first part has both signs, the last one another one at each step.
                losses = backward((x * (-1) ** step, y) if step < 3 else (x.abs(), y))
                grads = [parameter.grad for parameter in parameters]
                assert [grad is None for grad in grads] == [False, False, step == 3, True]
                grads = [torch.zeros(()) if grad is None else grad.clone() for grad in grads]
                found[way].append([*losses.values(), *grads])
                with torch.no_grad():
                    for parameter, grad in zip(parameters, grads, strict=True):
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
        # Where a part begins in memory decides how it is rounded, and a step of AdamW is turned
        # by that where a gradient is as good as zero.
        close = [torch.isclose(one[k], other[k], rtol=1e-2, atol=2e-3).flatten() for k in one]
        assert torch.cat(close).float().mean() > 0.995


def test_afterwards_all_is_as_before(threads, forked):
    threads(2)
    x, y, parameters = line()
    with backward_of(minimised(losses_of(parameters)), parameters) as backward:
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
        backward_of(minimised(losses_of(parameters)), parameters) as backward,
    ):
        backward((x, y))
        raise KeyboardInterrupt
    assert len(forked) == 1
    assert is_gone(forked[0])
    assert torch.get_num_threads() == 2


def test_what_goes_wrong_while_processes_begin_leaves_none(threads, forked, monkeypatch):
    threads(3)
    x, y, parameters = line()
    noted, calls = os.fork, []

    def interrupted():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return noted()

    monkeypatch.setattr(os, "fork", interrupted)
    with (
        pytest.raises(KeyboardInterrupt),
        backward_of(minimised(losses_of(parameters)), parameters) as backward,
    ):
        backward((x, y))
    assert len(forked) == 1
    assert is_gone(forked[0])
    assert torch.get_num_threads() == 3


def test_open_files_stay_as_many(threads, forked):
    threads(3)
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(2):
        x, y, parameters = line()
        with backward_of(minimised(losses_of(parameters)), parameters) as backward:
            backward((x, y))
    assert len(set(os.listdir("/proc/self/fd"))) == len(before)


def test_cpu_seconds_are_those_of_all(threads, forked):
    """What processes took counts when they have ended."""
    threads(2)
    x, y, parameters = line()
    here, plain = os.getpid(), losses_of(parameters)

    def losses(batch):
        if os.getpid() != here:
            end = time.process_time() + 0.3
            while time.process_time() < end:
                pass
        return plain(batch)

    before, own = cpu_seconds(), time.process_time()
    with backward_of(minimised(losses), parameters) as backward:
        backward((x, y))
    assert cpu_seconds() - before > 0.25 + time.process_time() - own


def test_what_is_lost_is_finalised_once(threads, forked, tmp_path):
    """By the process whose it was."""
    threads(2)
    x, y, parameters = line()
    here, plain = os.getpid(), losses_of(parameters)

    class Ring:
        def __init__(self):
            self.itself = self

        def __del__(self):
            (tmp_path / str(os.getpid())).touch()

    def losses(batch):
        gc.collect()
        return plain(batch)

    with backward_of(minimised(losses), parameters) as backward:
        gc.collect()
        Ring()
        backward((x, y))
    assert [file.name for file in tmp_path.iterdir()] == [str(here)]


def test_a_gpu_forbids_processes(monkeypatch):
    assert workers._can_fork()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not workers._can_fork()


@pytest.mark.parametrize("when", ["waiting", "working"])
def test_a_process_that_dies_is_told(threads, forked, when):
    threads(2)
    x, y, parameters = line()
    here, plain = os.getpid(), losses_of(parameters)

    def losses(batch):
        if when == "working" and os.getpid() != here and batch[0][0] > 50:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(batch)

    with backward_of(minimised(losses), parameters) as backward:
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
        backward_of(minimised(losses), parameters) as backward,
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
    with backward_of(minimised(losses_of(parameters)), parameters) as backward:
        backward((x, y))
        backward((x, y))
        assert torch.get_num_threads() == 3
    assert forks.call_count == 2
    assert [child for child in children() if not is_gone(child)] == []
    assert [record.message for record in caplog.records] == [
        "no process for a part of a batch (no room): threads take it"
    ]


def test_a_small_batch_is_not_cut(threads, forked):
    threads(2)
    x, y, parameters = line()
    with backward_of(minimised(losses_of(parameters)), parameters) as backward:
        backward((x[:31], y[:31]))
    assert not forked


@pytest.mark.parametrize("whole", [False, True])
def test_a_batch_is_not_cut_where_it_has_one_weight(threads, forked, whole):
    threads(2)
    x, y, parameters = line()
    with backward_of(minimised(losses_of(parameters), whole), parameters) as backward:
        backward((x, y))
    assert bool(forked) is not whole


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
        worker = int(told.read_text())
        os.killpg(run.pid, signal.SIGINT)
        assert soon(told.with_suffix(".interrupted").exists, 30)
        time.sleep(0.3)
        assert not is_gone(worker)
    finally:
        run.kill()
        run.wait()
    assert soon(lambda: is_gone(worker), 10)
