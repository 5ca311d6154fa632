"""What a stage costs: the one place that measures seconds and memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from gppdm_pipeline.algorithm.fitting.log import StageLog

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")

Result = TypeVar("Result")


def measured(stage: Callable[[], tuple[Result, StageLog]]) -> tuple[Result, dict[str, Any]]:
    """Run a stage, and record what it cost beside what it told.

    Returns:
        The stage's result, and {"seconds", "cpu_seconds", "peak_memory_bytes", "metrics",
        "curves"}, plain JSON values. CPU seconds as of `cpu_seconds`: what else the machine does
        hardly changes them. The peak is of this process's resident memory, without that of
        processes that take parts of batches: during the stage on Linux, since the process started
        elsewhere (only Linux can set the mark back).
    """
    _reset_peak()
    start, cpu = time.perf_counter(), cpu_seconds()
    result, log = stage()
    return result, {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": cpu_seconds() - cpu,
        "peak_memory_bytes": _peak(),
        "metrics": dict(log.metrics),
        "curves": {name: [list(point) for point in curve] for name, curve in log.curves.items()},
    }


def cpu_seconds() -> float:
    """Of all threads of this process, and of the processes it has started that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def _reset_peak() -> None:
    if _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")


def _peak() -> int:
    if _CLEAR_REFS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes if sys.platform == "darwin" else kibibytes * 1024
