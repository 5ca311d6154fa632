"""What a stage costs: the one place that measures seconds and memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from gppdm_pipeline.algorithm.log import StageLog

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")

Result = TypeVar("Result")


def measured(stage: Callable[[], tuple[Result, StageLog]]) -> tuple[Result, dict[str, Any]]:
    """Run a stage, and record what it cost beside what it told.

    Returns:
        The stage's result, and {"seconds", "cpu_seconds", "peak_memory_bytes", "metrics",
        "curves"}, plain JSON values. CPU seconds are the whole process's, of all its threads: what
        else the machine does hardly changes them. The peak is of the whole process's resident
        memory: during the stage on Linux, since the process started elsewhere (only Linux can set
        the mark back).
    """
    _reset_peak()
    start, cpu = time.perf_counter(), time.process_time()
    result, log = stage()
    return result, {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_memory_bytes": _peak(),
        "metrics": dict(log.metrics),
        "curves": {name: [list(point) for point in curve] for name, curve in log.curves.items()},
    }


def _reset_peak() -> None:
    if _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")


def _peak() -> int:
    if _CLEAR_REFS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes if sys.platform == "darwin" else kibibytes * 1024
