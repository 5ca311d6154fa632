"""Where the runs of a sweep or a plan are made: here, in jobs of SLURM, or on a Ray cluster.

Every executor makes each run from where an earlier attempt was stopped, and tries one that fails
again. Machines share the project's folder.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Protocol

import click

from gppdm_pipeline.configuration.layers import ConfigurationError
from gppdm_pipeline.configuration.params import parse
from gppdm_pipeline.grids import runs

Begun = Callable[[str], None]
Ended = Callable[[str, bool], None]


class Executor(Protocol):
    """Makes runs."""

    def run(self, wanted: Sequence[str], begun: Begun, ended: Ended) -> None:
        """Make the runs with these settings.

        Args:
            wanted: each run's settings, as for `kedro run --params`.
            begun: is told of each that begins, or is handed on.
            ended: is told of each, in the order in which they end, and whether it ended well. It is
                called where this is, in the main thread.
        """


@dataclass(frozen=True)
class Local:
    """On this machine, `jobs` runs at once, each with its share of the processor's cores."""

    jobs: int = 1
    retries: int = 0

    def run(self, wanted: Sequence[str], begun: Begun, ended: Ended) -> None:
        """As `Executor`."""
        if self.jobs > 1:  # else each would have a thread on every core
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // self.jobs)))
        stopped = threading.Event()

        def tried(params: str) -> bool:
            begun(params)
            return any(runs.run(params) for _ in range(1 + self.retries) if not stopped.is_set())

        with ThreadPoolExecutor(self.jobs) as pool, runs.runs_end_with_this():
            try:
                made = {pool.submit(tried, params): params for params in wanted}
                for future in as_completed(made):
                    ended(made[future], future.result())
            except BaseException:
                stopped.set()  # before its runs are: they are not tried again
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take the options that `chosen` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS = (
    click.option(
        "--executor",
        type=click.Choice(["local", "slurm", "ray"]),
        default="local",
        show_default=True,
        help="Where runs are made.",
    ),
    click.option(
        "--jobs",
        default=1,
        show_default=True,
        type=click.IntRange(1),
        help="Runs at once: here, or within each job of SLURM.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0),
        help="How often a run that failed is tried again.  [default: local 0, else 2]",
    ),
    click.option(
        "--chunk",
        type=click.IntRange(1),
        help="Runs of one job of SLURM.  [default: as many as --jobs]",
    ),
    click.option("--address", help="Of a Ray cluster, such as auto; without it, Ray starts here."),
    click.option(
        "--resources",
        default="",
        help="What a job of SLURM (as submitit names it) or a run on Ray gets: num_gpus=0.25,...",
    ),
)


def chosen(
    executor: str,
    jobs: int,
    retries: int | None,
    chunk: int | None,
    address: str | None,
    resources: str,
) -> Executor:
    """The executor that the options name.

    Raises:
        ClickException: if an option is not one of the executor's, or its package is missing.
    """
    given = {"--chunk": chunk, "--address": address, "--resources": resources}
    _check(executor, {**given, "--jobs": jobs > 1})
    if executor == "local":
        return Local(jobs, retries or 0)
    tries = 2 if retries is None else retries
    try:
        asked = parse(resources)
        if executor == "slurm":
            from gppdm_pipeline.grids.on_slurm import Slurm  # noqa: PLC0415 (an extra)

            return Slurm(jobs, chunk or jobs, tries, asked)
        from gppdm_pipeline.grids.on_ray import OnRay  # noqa: PLC0415 (an extra)

        return OnRay(address, tries, asked)
    except ImportError as error:
        raise click.ClickException(
            f"--executor={executor} needs the package {error.name}, which the extra {executor} "
            f"installs: pip install '.[{executor}]'"
        ) from error
    except ConfigurationError as error:
        raise click.ClickException(f"{error}".replace("--params", "--resources")) from error


def _check(executor: str, given: Mapping[str, object]) -> None:
    """Refuse an option that is given, but not the executor's."""
    of = {"local": {"--jobs"}, "slurm": {"--jobs", "--chunk", "--resources"}}
    of["ray"] = {"--address", "--resources"}
    if others := [name for name, value in given.items() if value and name not in of[executor]]:
        raise click.ClickException(
            f"{others[0]} is no option of --executor={executor}, which takes "
            f"{', '.join(sorted(of[executor]))}. Leave it out."
        )
