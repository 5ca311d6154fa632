"""What the benchmarks share: short turns, medians, ratios, tables, records.

Variants take turns in one process, so that all see the same machine; a ratio is taken within each
turn, and what is given is the median over turns with the least and the largest. Seconds are of the
process (CPU) and of the clock; beside other work only ratios of the former mean something.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from threading import Semaphore
from typing import Any

import torch
import yaml

from gppdm_pipeline.algorithm.context import CPU, Progress, ProgressBar
from gppdm_pipeline.pipelines.measure import cpu_seconds

RESULTS = Path(__file__).parent / "results"
CONF = Path(__file__).parents[1] / "conf/base/benchmarks"
CPU_MODEL = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Seconds:
    """Of one call: the process's own, and the clock's."""

    cpu: float
    wall: float


def timed(run: Callable[[], object], device: torch.device, calls: int = 1) -> list[Seconds]:
    """How long each of some calls of `run` takes, with what it leaves to the device."""
    return [_timed(run, device) for _ in range(calls)]


class Clock:
    """A progress that takes note of the time between steps.

    CPU seconds are without those of processes that take parts of batches: they count when they end.
    """

    def __init__(self, device: torch.device) -> None:
        self.steps: list[Seconds] = []
        self._device = device
        self._last: Seconds | None = None

    @contextmanager
    def __call__(self, total: int, title: str) -> Iterator[ProgressBar]:
        """A loop; its first step has no time, for it holds what comes before."""
        self._last = None
        yield self

    def advance(self, n: int = 1, **metrics: float) -> None:
        """A step has ended."""
        now = _now(self._device)
        if self._last is not None:
            self.steps.append(Seconds(now.cpu - self._last.cpu, now.wall - self._last.wall))
        self._last = now


class _Relay(Clock):
    """A clock of one of several loops, of which only that one runs that was handed the baton."""

    def __init__(self, ring: list[_Relay]) -> None:
        super().__init__(CPU)
        self.baton = Semaphore(0)
        self._ring = ring
        ring.append(self)

    def run(self, loop: Callable[[Progress], object]) -> list[Seconds]:
        """Seconds of its steps; the baton goes on after each, and at the end."""
        self.baton.acquire()
        try:
            loop(self)
        finally:
            self._hand_on()
            self._ring.remove(self)
        return self.steps

    def advance(self, n: int = 1, **metrics: float) -> None:
        """A step has ended; the next one begins when all others have made theirs."""
        super().advance(n, **metrics)
        self._hand_on()
        self.baton.acquire()
        self._last = _now(self._device)

    def _hand_on(self) -> None:
        self._ring[(self._ring.index(self) + 1) % len(self._ring)].baton.release()


def step_by_step(loops: Mapping[str, Callable[[Progress], object]]) -> dict[str, list[Seconds]]:
    """Seconds of the steps of loops on the CPU that take turns with every step.

    A machine that changes its speed within a second slows a step of each.
    """
    ring: list[_Relay] = []
    relays = {name: _Relay(ring) for name in loops}
    with ThreadPoolExecutor(len(loops)) as pool:
        running = {name: pool.submit(relays[name].run, loop) for name, loop in loops.items()}
        ring[0].baton.release()
    return {name: each.result() for name, each in running.items()}


def medians_of_turns(
    take: Callable[[], Mapping[str, Sequence[Seconds]]], turns: int
) -> dict[str, list[Seconds]]:
    """By variant, the median of what it took in each turn, in which `take` says what all took.

    A turn before the first warms up and is left out.
    """
    found: dict[str, list[Seconds]] = {}
    for turn in range(turns + 1):
        for name, each in take().items():
            middle = Seconds(median(s.cpu for s in each), median(s.wall for s in each))
            if turn:
                found.setdefault(name, []).append(middle)
    return found


def interleaved(
    variants: Mapping[str, Callable[[], Sequence[Seconds]]], turns: int
) -> dict[str, list[Seconds]]:
    """As `medians_of_turns`, of variants that say what they took one after the other."""
    return medians_of_turns(lambda: {name: run() for name, run in variants.items()}, turns)


def compared(
    found: Mapping[str, Sequence[Seconds]], base: str, device: torch.device
) -> dict[str, dict[str, float]]:
    """By variant: median milliseconds, and by how much it is faster than `base`.

    On the CPU the ratio is of CPU seconds, since the clock's depend on what else runs; elsewhere it
    is the clock's.
    """
    table = {}
    for name, turns in found.items():
        pairs = list(zip(found[base], turns, strict=True))
        walls = [b.wall / s.wall for b, s in pairs]
        ratios = [b.cpu / s.cpu for b, s in pairs] if device.type == "cpu" else walls
        table[name] = {
            "cpu_ms": _rounded(1e3 * median(s.cpu for s in turns)),
            "wall_ms": _rounded(1e3 * median(s.wall for s in turns)),
            "speed": _rounded(median(ratios)),
            "speed_least": _rounded(min(ratios)),
            "speed_most": _rounded(max(ratios)),
            "speed_by_the_clock": _rounded(median(walls)),
            "turns": len(turns),
        }
    return table


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; numbers with four significant digits."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def show(title: str, table: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table of variants (rows) and their numbers."""
    header = list(next(iter(table.values())))
    rows = ([name, *numbers.values()] for name, numbers in table.items())
    print(f"\n{title}\n\n{markdown(['', *header], rows)}", flush=True)


def write_record(file: Path, results: Mapping[str, Any]) -> None:
    """JSON: the machine, the date and the command, then the results."""
    file.parent.mkdir(parents=True, exist_ok=True)
    record = {"measured": circumstances(), **results}
    scratch = file.with_suffix(".partial")
    scratch.write_text(json.dumps(record, indent=2) + "\n")
    scratch.replace(file)


def circumstances() -> dict[str, object]:
    """What a number depends on besides the code."""
    cuda = torch.cuda.is_available()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "torch": torch.__version__,
    }


def parser_of(description: str | None, name: str) -> argparse.ArgumentParser:
    """A parser with `--out`, described by the first line of a docstring."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="JSON")
    return parser


def preset(benchmark: str) -> dict[str, Any]:
    """The settings in conf/base/benchmarks."""
    found: dict[str, Any] = yaml.safe_load((CONF / f"{benchmark}.yml").read_text())[benchmark]
    return found


def _timed(run: Callable[[], object], device: torch.device) -> Seconds:
    begun = _now(device)
    run()
    ended = _now(device)
    return Seconds(ended.cpu - begun.cpu, ended.wall - begun.wall)


def _now(device: torch.device) -> Seconds:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Seconds(cpu_seconds(), time.perf_counter())


def _cpu_name() -> str:
    lines = CPU_MODEL.read_text().splitlines() if CPU_MODEL.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
