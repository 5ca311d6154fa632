"""A stopwatch in place of progress bars: what each loop of a stage took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median


@dataclass
class Loop:
    """One loop, as its progress bar would see it."""

    total: int
    seconds: float = 0.0
    marks: list[tuple[float, int]] = field(default_factory=list)

    def advance(self, n: int = 1, **metrics: float) -> None:
        """`n` more are done."""
        self.marks.append((time.perf_counter(), n))

    @property
    def per_unit(self) -> float:
        """Seconds; the first half of the steps, in which memory is found, does not count."""
        late = self.marks[len(self.marks) // 2 - 1 :]
        if len(self.marks) > 3:
            return median((end - begin) / max(n, 1) for (begin, _), (end, n) in pairwise(late))
        return self.seconds / max(self.total, 1)


@dataclass
class Stopwatch:
    """The loops of one stage, by title."""

    loops: dict[str, Loop] = field(default_factory=dict)

    @contextmanager
    def __call__(self, total: int, title: str) -> Iterator[Loop]:
        """Begin a loop of so many units; its title tells it from others."""
        loop = self.loops[title] = Loop(total)
        start = time.perf_counter()
        yield loop
        loop.seconds = time.perf_counter() - start
