"""Make the runs that are not there, and tell how it goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click

from gppdm_pipeline.configuration.experiment import Experiment
from gppdm_pipeline.grids import runs
from gppdm_pipeline.grids.executors import Executor
from gppdm_pipeline.stopping import stop_at_signals


@dataclass(frozen=True)
class Wanted:
    """A run of a sweep or plan.

    Attributes:
        name: shown.
        params: its settings, as for `kedro run --params`.
        experiment: what they come to.
    """

    name: str
    params: str
    experiment: Experiment


def make_all(
    wanted: Sequence[Wanted],
    executor: Executor,
    there: Callable[[Wanted], str | None],
    keep: Callable[[Wanted], None] = lambda _: None,
) -> list[Wanted]:
    """Make what is not there.

    Args:
        wanted: all runs.
        executor: makes them.
        there: why a run need not be made; None if it must.
        keep: called for each that has been made.

    Returns:
        Those that failed, in the order of `wanted`.
    """
    headings = {
        each.params: f"[{number}/{len(wanted)}] {each.name}"
        for number, each in enumerate(wanted, start=1)
    }
    left: dict[str, Wanted] = {}
    for each in wanted:
        if why := there(each):
            click.echo(f"{headings[each.params]}: {why}")
        else:
            left[each.params] = each
    progress = _Progress(headings, left, keep)
    stop_at_signals()
    executor.run([*left], progress.begun, progress.ended)
    return [each for each in wanted if each.params in progress.failed]


class _Progress:
    """A line for each run that begins and that ends.

    Attributes:
        failed: the settings of runs that did.
    """

    def __init__(
        self, headings: dict[str, str], left: dict[str, Wanted], keep: Callable[[Wanted], None]
    ) -> None:
        self._headings, self._left, self._keep = headings, left, keep
        self._start, self._begun = time.monotonic(), dict.fromkeys(left, 0.0)
        self._waiting, self._well = len(left), 0
        self.failed: set[str] = set()

    def begun(self, params: str) -> None:
        self._waiting -= 1
        self._begun[params] = time.monotonic()
        click.echo(f"{self._headings[params]} ... {self._remaining()}")

    def ended(self, params: str, well: bool) -> None:
        heading, wanted = self._headings[params], self._left[params]
        if not well:
            self.failed.add(params)
            click.echo(f"{heading}: failed; its message is above", err=True)
            return
        self._well += 1
        self._keep(wanted)
        seconds = time.monotonic() - self._begun[params]
        click.echo(f"{heading}: {seconds:.0f} s, {runs.result(wanted.experiment)}")

    def _remaining(self) -> str:
        text = f"{self._waiting} more to come"
        if not self._well:
            return text
        minutes = (time.monotonic() - self._start) / self._well * (self._waiting + 1) / 60
        return f"{text}, about {minutes:.0f} min in all"
