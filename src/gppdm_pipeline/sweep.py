"""`python -m gppdm_pipeline.sweep`: methods x seeds on one benchmark.

Runs that are finished with the same settings are skipped, those that were stopped go on, so that
the same command can be given again at any time.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import click

from gppdm_pipeline.faults import PlainCommand
from gppdm_pipeline.grids import executors
from gppdm_pipeline.grids.making import Wanted, make_all
from gppdm_pipeline.grids.runs import (
    experiments_of,
    is_finished,
    let_release_go_on,
    result,
    work_in_project,
)


@click.command(cls=PlainCommand)
@click.option("--benchmark", required=True, help="A preset in conf/base/benchmarks.")
@click.option("--methods", required=True, help="Names, joined by commas.")
@click.option("--seeds", default="0", show_default=True, help="Numbers, joined by commas.")
@click.option("--params", default="", help="Further settings for all runs, as for kedro run.")
@executors.options
def main(benchmark: str, methods: str, seeds: str, params: str, **where: Any) -> None:
    """Run every method with every seed, in the order of the seeds."""
    work_in_project()
    executor = executors.chosen(**where)
    grid = [
        f"benchmark={benchmark},method={method},seed={seed}" + (f",{params}" if params else "")
        for seed, method in product(seeds.split(","), methods.split(","))
    ]
    wanted = [
        Wanted(experiment.run, given, experiment)
        for given, experiment in zip(grid, experiments_of(grid), strict=True)
    ]  # all of them, before the first starts
    failed = make_all(wanted, executor, _finished)
    if failed:
        raise click.ClickException(
            f"{len(failed)} of {len(wanted)} runs failed:\n"
            + "\n".join(f"  kedro run --pipeline=continual --params={run.params}" for run in failed)
        )


def _finished(wanted: Wanted) -> str | None:
    if is_finished(wanted.experiment):
        return f"finished, {result(wanted.experiment)}"
    let_release_go_on(wanted.experiment)
    return None


if __name__ == "__main__":
    main()
