"""One run of many: what it would be, whether it is there, and how it is made."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
from gppdm_pipeline.run.budget import settled
from gppdm_pipeline.run.command import Command
from gppdm_pipeline.run.growing import read_record
from gppdm_pipeline.run.releasing import release_prepared
from gppdm_pipeline.run.same_images import hash_of_images, hash_of_learnt
from gppdm_pipeline.stopping import stop_at_signals
from gppdm_pipeline.streams.sources import SourceError

_running: set[subprocess.Popen[bytes]] = set()

REPORTS, STATES = Path("data/08_reporting"), Path("data/06_models")
IMAGES, SCRATCH = Path("data/03_primary"), Path("data/.checkpoints")
RECORD = "configuration.json"


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
        asked = [loader.experiment_with(parse(some), _record_of) for some in params]
        return [settled(each, _record_of(each), (STATES / each.run).parent) for each in asked]
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error


def _record_of(experiment: Experiment) -> dict[str, Any]:
    """Of the run that goes on, if there is one and it shall."""
    return {} if experiment.overwrite else read_record(STATES / experiment.run / RECORD)


def is_finished(experiment: Experiment) -> bool:
    """Whether a whole run with these settings, of these images, has left its report, and ended.

    One that has images left that are to be released is not finished: see `let_release_go_on`.
    """
    return not _is_to_release(experiment) and _has_ended(experiment)


def let_release_go_on(experiment: Experiment) -> None:
    """Let a run of which all is there but images left that are to be released go on with that.

    Given again, it would be made anew otherwise, as one that has ended.
    """
    if _is_to_release(experiment) and _has_ended(experiment):
        experiment = experiment.numbered(read(STATES / experiment.run / RECORD).get("classes", ()))
        Command(SCRATCH / experiment.run, experiment, {}).begin()


def _has_ended(experiment: Experiment) -> bool:
    settings_file = STATES / experiment.run / RECORD
    if not (settings_file.exists() and (REPORTS / experiment.run / "metrics.json").exists()):
        return False
    record = read(settings_file)
    experiment = experiment.numbered(record.get("classes", ()))
    if Command(SCRATCH / experiment.run, experiment, {}).is_left:  # stopped, with numbers made
        return False
    return record == experiment.record() and of_same_images(experiment, learnt(experiment))


def _is_to_release(experiment: Experiment) -> bool:
    parts = {
        **dict.fromkeys(("train", "validation"), experiment.retention),
        "test": experiment.retention_of_test,
    }
    there = (IMAGES / experiment.run).glob("task_*/*.npz")
    return any(parts.get(file.stem) == "release" for file in there)


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
    finally:
        release_prepared(experiment)


@contextmanager
def runs_end_with_this() -> Iterator[None]:
    """Inside, whatever ends this process's work stops its runs, too, and waits until they have.

    SIGTERM and SIGHUP do; Ctrl-C reaches the runs without help.
    """
    stop_at_signals()
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
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
