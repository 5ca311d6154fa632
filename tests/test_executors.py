"""Where the runs of a grid are made: retries, options that do not belong together, jobs."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter

import click
import pytest
from click.testing import CliRunner

from gppdm_pipeline import sweep
from gppdm_pipeline.grids import executors, making, runs
from gppdm_pipeline.grids.executors import Local
from gppdm_pipeline.grids.making import Wanted, make_all

GIVEN = {"jobs": 1, "retries": None, "chunk": None, "address": None, "resources": ""}


@pytest.fixture
def tries(monkeypatch):
    """Settings of runs that were begun, in order; each fails as often as its seed says."""
    begun = []

    def run(params):
        begun.append(params)
        return begun.count(params) > int(params.removeprefix("seed="))

    monkeypatch.setattr(runs, "run", run)
    return begun


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_run_that_fails_is_tried_again(tries, jobs, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ended, begun = {}, []
    wanted = [f"seed={failures}" for failures in range(4)]
    Local(jobs, retries=2).run(wanted, begun.append, ended.__setitem__)
    assert ended == {"seed=0": True, "seed=1": True, "seed=2": True, "seed=3": False}
    assert Counter(tries) == {"seed=0": 1, "seed=1": 2, "seed=2": 3, "seed=3": 3}
    assert sorted(begun) == wanted


def test_what_is_stopped_is_not_tried_again(monkeypatch):
    begun = []

    def run(params):
        begun.append(params)
        os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C, which the run gets, too
        time.sleep(0.3)
        return False

    monkeypatch.setattr(runs, "run", run)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            Local(retries=3).run(["seed=0", "seed=1"], lambda _: None, lambda *_: None)
    finally:
        signal.signal(signal.SIGINT, before)
    assert begun == ["seed=0"]


def test_what_is_there_is_not_made_and_failures_come_in_the_order_of_the_grid(tries, monkeypatch):
    monkeypatch.setattr(making.runs, "result", lambda experiment: "a result")
    wanted = [Wanted(f"run {seed}", f"seed={seed}", None) for seed in (2, 0, 9, 1, 8)]

    class Backwards(Local):
        def run(self, wanted, begun, ended):
            super().run(wanted[::-1], begun, ended)

    kept = []
    there = {"run 0": "recorded"}
    failed = make_all(wanted, Backwards(retries=1), lambda run: there.get(run.name), kept.append)
    assert [run.name for run in failed] == ["run 2", "run 9", "run 8"]
    assert [run.name for run in kept] == ["run 1"]
    assert "seed=0" not in tries


@pytest.mark.parametrize(
    ("executor", "given", "message"),
    [
        ("local", {"address": "auto"}, "--address is no option of --executor=local, which takes"),
        ("local", {"resources": "num_gpus=1"}, "--resources is no option of --executor=local"),
        ("slurm", {"address": "auto"}, "--address is no option of --executor=slurm"),
        ("ray", {"jobs": 2}, "--jobs is no option of --executor=ray, which takes --address, --res"),
        ("ray", {"chunk": 2}, "--chunk is no option of --executor=ray"),
        ("ray", {"resources": "gpus"}, "--resources: 'gpus' is no key=value"),
    ],
)
def test_options_that_do_not_belong_together(executor, given, message):
    with pytest.raises(click.ClickException) as told:
        executors.chosen(executor, **{**GIVEN, **given})
    assert message in str(told.value)


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_package_is_named_with_its_extra(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"gppdm_pipeline.grids.on_{name}", raising=False)
    done = CliRunner().invoke(
        sweep.main, ["--benchmark=digits", "--methods=joint", f"--executor={name}"]
    )
    assert done.exit_code == 1
    assert f"--executor={name} needs the package {package}" in done.output
    assert f"pip install '.[{name}]'" in done.output
