"""Progress on the terminal, and a line in the log where there is none."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from gppdm_pipeline.algorithm.context import Progress, ProgressBar

logger = logging.getLogger(__name__)


class _Bar:
    """Shows the latest values of the metrics beside the bar."""

    def __init__(self, bar: tqdm) -> None:  # type: ignore[type-arg]
        self._bar = bar
        self.latest: dict[str, float] = {}

    def advance(self, n: int = 1, **metrics: float) -> None:
        """`n` more are done."""
        if metrics:
            self.latest |= metrics
            self._bar.set_postfix_str(self.summary(), refresh=False)
        self._bar.update(n)

    def summary(self) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in self.latest.items())


def bars_of(task: int, total_tasks: int) -> Progress:
    """Bars whose titles begin with the task, such as `task 2/5 train_generator`."""

    @contextmanager
    def progress(total: int, title: str) -> Iterator[ProgressBar]:
        heading = f"task {task}/{total_tasks} {title}"
        terminal = sys.stderr.isatty()
        start = time.perf_counter()
        with tqdm(
            total=total, desc=f"{heading:<28}", disable=not terminal, dynamic_ncols=True
        ) as bar:
            shown = _Bar(bar)
            yield shown
        if not terminal:
            seconds = time.perf_counter() - start
            values = f", {shown.summary()}" if shown.latest else ""
            logger.info("%s: %d in %.1f s%s", heading, total, seconds, values)

    return progress
