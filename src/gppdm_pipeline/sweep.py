"""`python -m gppdm_pipeline.sweep`: methods x seeds on one benchmark, one run after the other.

Runs that are finished with the same settings are skipped, those that were stopped go on, so that
the same command can be given again at any time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import click
from kedro.framework.project import configure_project, settings
from kedro.io import DatasetError
from kedro.utils import find_kedro_project

from gppdm_pipeline.catalog.datasets import JsonDataset
from gppdm_pipeline.configuration.experiment import Experiment
from gppdm_pipeline.configuration.layers import ConfigurationError
from gppdm_pipeline.configuration.params import parse
from gppdm_pipeline.faults import PlainCommand
from gppdm_pipeline.run.budget import settled
from gppdm_pipeline.run.growing import read_record
from gppdm_pipeline.run.same_images import hash_of_images, hash_of_learnt
from gppdm_pipeline.stopping import stop_at_signals
from gppdm_pipeline.streams.sources import SourceError

_running: set[subprocess.Popen[bytes]] = set()

REPORTS, STATES = Path("data/08_reporting"), Path("data/06_models")
RECORD = "configuration.json"


@click.command(cls=PlainCommand)
@click.option("--benchmark", required=True, help="A preset in conf/base/benchmarks.")
@click.option("--methods", required=True, help="Names, joined by commas.")
@click.option("--seeds", default="0", show_default=True, help="Numbers, joined by commas.")
@click.option("--params", default="", help="Further settings for all runs, as for kedro run.")
def main(benchmark: str, methods: str, seeds: str, params: str) -> None:
    """Run every method with every seed, in the order of the seeds."""
    work_in_project()
    plan = [
        f"benchmark={benchmark},method={method},seed={seed}" + (f",{params}" if params else "")
        for seed, method in product(seeds.split(","), methods.split(","))
    ]
    experiments = experiments_of(plan)  # all of them, before the first starts
    failed: list[str] = []
    spent: list[float] = []
    for number, (given, experiment) in enumerate(zip(plan, experiments, strict=True), start=1):
        heading = f"[{number}/{len(plan)}] {experiment.run}"
        if is_finished(experiment):
            click.echo(f"{heading}: finished, {result(experiment)}")
            continue
        left = len(plan) - number
        click.echo(f"{heading} ... {_remaining(spent, left)}")
        start = time.monotonic()
        with runs_end_with_this():
            well = run(given)
        if well:
            spent.append(time.monotonic() - start)
            click.echo(f"{heading}: {spent[-1]:.0f} s, {result(experiment)}")
        else:
            failed.append(given)
            click.echo(f"{heading}: failed; its message is above", err=True)
    if failed:
        raise click.ClickException(
            f"{len(failed)} of {len(plan)} runs failed:\n"
            + "\n".join(f"  kedro run --pipeline=continual --params={given}" for given in failed)
        )


def work_in_project() -> None:
    """Go to the project that the command is given in: relative paths are of the project."""
    os.chdir(find_kedro_project(Path.cwd()) or Path.cwd())
    configure_project("gppdm_pipeline")


def experiments_of(params: Iterable[str]) -> list[Experiment]:
    """What `kedro run --params=<params>` would run; files are read once, which takes half a second.

    A budget is what it came to, where a run has begun with it; else steps are the settings' own.

    Raises:
        ClickException: if one of them is not valid.
    """
    loader = settings.CONFIG_LOADER_CLASS(
        conf_source=settings.CONF_SOURCE, **settings.CONFIG_LOADER_ARGS
    )
    try:
        asked = [loader.experiment_with(parse(some)) for some in params]
        return [
            settled(each, read_record(STATES / each.run / RECORD), (STATES / each.run).parent)
            for each in asked
        ]
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error


def is_finished(experiment: Experiment) -> bool:
    """Whether a whole run with these settings, of these images, has left its report."""
    settings_file = STATES / experiment.run / RECORD
    if not (settings_file.exists() and (REPORTS / experiment.run / "metrics.json").exists()):
        return False
    record = read(settings_file)
    experiment = experiment.numbered(record.get("classes", ()))
    return bool(record == experiment.record()) and of_same_images(experiment, learnt(experiment))


def learnt(experiment: Experiment) -> str | None:
    """The hash of the images that a finished run has learnt."""
    states, reports = STATES / experiment.run, REPORTS / experiment.run
    return hash_of_learnt(states, reports, experiment.number_of_tasks)


def of_same_images(experiment: Experiment, there: str | None) -> bool:
    """Whether a hash is that of the experiment's images; if either is not there, it is."""
    if there is None:
        return True
    try:
        return hash_of_images(experiment) == there
    except SourceError:
        return True


@contextmanager
def runs_end_with_this() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP to this process stop its runs, too, and wait until they have.

    Ctrl-C reaches them without help.
    """
    stop_at_signals()
    try:
        yield
    except SystemExit:
        for process in tuple(_running):
            process.terminate()
        for process in tuple(_running):
            process.wait()
        raise


def run(params: str) -> bool:
    """Run in a process of its own, from where the same run was stopped; True if it ends well.

    Its progress bars and messages go to this process's terminal.
    """
    command = [sys.executable, "-m", "gppdm_pipeline", f"--params={params}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _running.add(process)
    well = process.wait() == 0
    _running.remove(process)
    return well


def read(file: Path) -> dict[str, Any]:
    """What a JSON file holds.

    Raises:
        ClickException: naming the file, if it is damaged.
    """
    try:
        return JsonDataset(filepath=str(file)).load()
    except DatasetError as error:
        raise click.ClickException(str(error)) from error


def result(experiment: Experiment) -> str:
    """A run's average accuracy."""
    report = read(REPORTS / experiment.run / "metrics.json")
    return f"average accuracy {100 * report['average_accuracy']:.1f} %"


def _remaining(spent: list[float], left: int) -> str:
    if not spent:
        return f"{left} more to come"
    minutes = (left + 1) * sum(spent) / len(spent) / 60
    return f"{left} more to come, about {minutes:.0f} min in all"


if __name__ == "__main__":
    main()
