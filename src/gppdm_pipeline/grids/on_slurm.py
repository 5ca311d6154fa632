"""Runs in jobs of SLURM, by submitit; on a machine without SLURM the jobs are processes of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import submitit
from submitit.helpers import DelayedSubmission

from gppdm_pipeline.grids import runs
from gppdm_pipeline.grids.executors import Begun, Ended, Local

JOBS = Path("data/.jobs")
"""What jobs are given and what they print; it can be removed when none is left."""

_POLL = 1.0  # seconds between looks at jobs


@dataclass(frozen=True)
class Chunk:
    """The work of one job: runs, `local.jobs` at once; those that are finished are not repeated."""

    params: tuple[str, ...]
    local: Local

    def __call__(self) -> list[bool]:
        """Make the runs; whether each is finished."""
        runs.work_in_project()
        given = zip(self.params, runs.experiments_of(self.params), strict=True)
        left = [params for params, experiment in given if not runs.is_finished(experiment)]
        ended: dict[str, bool] = {}
        try:
            self.local.run(left, lambda _: None, ended.__setitem__)
        except KeyboardInterrupt as error:  # of this process alone, when the job is cancelled
            raise SystemExit(130) from error
        return [ended.get(params, True) for params in self.params]

    def checkpoint(self) -> DelayedSubmission:
        """What a job begins with that is queued again: runs go on where they stopped."""
        return DelayedSubmission(self)


@dataclass
class Slurm:
    """A job for each chunk of the runs.

    A run that fails is tried again within its job. A job that ends without an answer, since it or
    its node was lost, is queued again as often.

    Attributes:
        jobs: runs at once within a job.
        chunk: runs of a job.
        retries: how often.
        resources: of a job, as submitit's `update_parameters` takes them.

    Raises:
        ClickException: if submitit refuses the resources.
    """

    jobs: int
    chunk: int
    retries: int
    resources: Mapping[str, Any]
    _submitit: submitit.AutoExecutor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._submitit = submitit.AutoExecutor(JOBS)
        try:
            self._submitit.update_parameters(
                **{"name": "gppdm", "timeout_min": 24 * 60, **self.resources}
            )
        except (AssertionError, NameError, ValueError) as error:
            raise click.ClickException(f"--resources: submitit refuses them: {error}") from error

    def run(self, wanted: Sequence[str], begun: Begun, ended: Ended) -> None:
        """As `Executor`."""
        local = Local(self.jobs, self.retries)
        chunks = [
            Chunk(tuple(wanted[start : start + self.chunk]), local)
            for start in range(0, len(wanted), self.chunk)
        ]
        waiting: dict[Any, tuple[Chunk, int]] = {}
        try:
            for chunk in chunks:
                waiting[self._submitit.submit(chunk)] = chunk, self.retries
                for params in chunk.params:
                    begun(params)
            while waiting:
                self._look(waiting, ended)
        finally:
            for job in waiting:
                job.cancel(check=False)

    def _look(self, waiting: dict[Any, tuple[Chunk, int]], ended: Ended) -> None:
        """Take the answers of jobs that have ended; queue those again that ended without one."""
        time.sleep(_POLL)
        for job in [job for job in waiting if job.done()]:
            chunk, retries = waiting.pop(job)
            lost = job.exception()
            if lost and retries:
                waiting[self._submitit.submit(chunk)] = chunk, retries - 1
            if lost:
                click.echo(f"job {job.job_id} ({job.paths.stderr}): {lost}", err=True)
            elif not all(job.result()):
                click.echo(f"job {job.job_id}: messages are in {job.paths.stderr}", err=True)
            if not (lost and retries):
                answer = [False] * len(chunk.params) if lost else job.result()
                for params, well in zip(chunk.params, answer, strict=True):
                    ended(params, well)
