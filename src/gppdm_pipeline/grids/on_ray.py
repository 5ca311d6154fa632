"""Runs on a Ray cluster."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import ray
from kedro.framework.project import configure_project
from ray.exceptions import RayError

from gppdm_pipeline.grids import runs
from gppdm_pipeline.grids.executors import Begun, Ended
from gppdm_pipeline.provenance import PACKAGE


@dataclass(frozen=True)
class OnRay:
    """Each run is a task of Ray, which tries it again if it fails or loses its node.

    Attributes:
        address: of the cluster; None starts Ray here.
        retries: how often.
        resources: of a run, as `ray.remote` takes them.
    """

    address: str | None
    retries: int
    resources: Mapping[str, Any]

    def run(self, wanted: Sequence[str], begun: Begun, ended: Ended) -> None:
        """As `Executor`.

        Raises:
            ClickException: if there is no such cluster, or Ray refuses the resources.
        """
        try:
            # A worker has made one run: what that leaves in a process is not the next one's.
            task = ray.remote(
                max_calls=1, max_retries=self.retries, retry_exceptions=True, **self.resources
            )(_make)
            ray.init(
                self.address,
                include_dashboard=False if self.address is None else None,
                runtime_env={"env_vars": {"PYTHONPATH": str(PACKAGE.parent)}},
            )
        except (ConnectionError, TypeError, ValueError) as error:
            raise click.ClickException(f"--executor=ray: Ray refuses: {error}") from error
        try:
            made = {}
            for params in wanted:
                made[task.remote(os.getcwd(), params)] = params
                begun(params)
            waiting = [*made]
            while waiting:
                [done], waiting = ray.wait(waiting)
                ended(made[done], _well(done))
        finally:
            ray.shutdown()


def _well(done: Any) -> bool:
    try:
        ray.get(done)
    except RayError as error:
        click.echo(str(error), err=True)
        return False
    return True


def _make(project: str, params: str) -> None:
    """Make a run in a worker of Ray, which is so ended with it; nothing, if it is finished."""
    from gppdm_pipeline.cli import run  # noqa: PLC0415 (Kedro's options, which a driver has)

    os.chdir(project)
    configure_project("gppdm_pipeline")
    if runs.is_finished(*runs.experiments_of([params])):
        return
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            run([f"--params={params}"], prog_name="gppdm_pipeline")
        except SystemExit as end:
            if end.code:
                raise RuntimeError("the run failed; its message is above") from None
