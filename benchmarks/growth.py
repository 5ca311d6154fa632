"""How seconds and memory of a task grow with the number of tasks.

    PYTHONPATH=src python benchmarks/growth.py

The first 2, 5, 10 and 20 tasks of one stream of synthetic classes, one a task, at tiny budgets;
each run is a process of its own. Without a limit on replay the seconds of a task should be a + b x
(old classes); with `replay.images` b should be about 0, and with adapters what is left of it is
what it takes to read the replay of old classes. The first task, which replays nothing, is not in
the fit. Seconds are of the process (CPU), memory is its largest resident set within a task.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from measuring import markdown, parser_of, write_record

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.fitting.log import StageLog
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.catalog.scratch import Scratch
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method
from gppdm_pipeline.methods.base import learn_task
from gppdm_pipeline.pipelines.measure import measured

SHAPE, PER_CLASS, CAP = (8, 8, 1), 100, 400
SETTINGS = {
    "name": "gppdm",
    "classifier": {"width": 16, "steps": 60, "batch_size": 64},
    "denoiser": {"channels": [16, 32], "steps": 60, "batch_size": 32},
    "projection": {"images_per_class": 32},
}
REPLAY = {"images_per_class": 200, "sampler_steps": 5}
VARIANTS: dict[str, dict[str, Any]] = {
    "no limit": {},
    f"replay.images: {CAP}": {"replay": {"images": CAP}},
    "memory: adapters": {"memory": "adapters"},
    "memory: adapters, full in four bits, and sums": {
        "memory": "adapters",
        "adapters": {"rank": "full", "bits": 4},
        "analytic": {"filters": 8},
    },
}


def images_of(label: int) -> LabelledImages:
    """A class: noise around a pattern that depends on the label alone."""
    rng = np.random.default_rng(label)
    pattern, noise = rng.uniform(40, 216, SHAPE), rng.normal(0, 15, (PER_CLASS, *SHAPE))
    pixels = (pattern + noise).clip(0, 255).astype(np.uint8)
    return LabelledImages(pixels, np.full(PER_CLASS, label))


def learn(tasks: int, variant: dict[str, Any], folder: Path) -> list[dict[str, float]]:
    """Learn a class a task; by task: old classes, seconds, megabytes. `folder` is for replay."""
    replay = {**REPLAY, **variant.get("replay", {})}
    method = Method.model_validate({**SETTINGS, **variant, "replay": replay})
    drawn = Scratch(folder, every=3600).drawn
    state, found = LearnerState.empty(), []
    for task in range(1, tasks + 1):
        train = images_of(task - 1)
        context = Context(0, task, drawn=drawn)
        state, record = measured(partial(_learnt, method, state, train, context))
        found.append(
            {
                "old_classes": task - 1,
                "cpu_seconds": record["cpu_seconds"],
                "wall_seconds": record["seconds"],
                "peak_mb": record["peak_memory_bytes"] / 1e6,
                "state_mb": state.bytes() / 1e6,
            }
        )
    return found


def _learnt(
    method: Method, state: LearnerState, train: LabelledImages, context: Context
) -> tuple[LearnerState, StageLog]:
    return learn_task(method, state, train, train.select(np.arange(10)), context), StageLog()


def formula(runs: Sequence[Sequence[dict[str, float]]]) -> dict[str, float]:
    """CPU seconds of a task = a + b x old classes: fitted to all runs, and how far it is off.

    Args:
        runs: tasks of each, the first of which is left out.

    Returns:
        a and b; the median and the largest error, as shares of what was measured.
    """
    points = [task for run in runs for task in run[1:]]
    x = np.array([p["old_classes"] for p in points])
    y = np.array([p["cpu_seconds"] for p in points])
    # Errors count as shares, as they are judged.
    design = np.stack([np.ones(len(x)), x], axis=1)
    (a, b), *_ = np.linalg.lstsq(design / y[:, None], np.ones(len(y)), rcond=None)
    errors = np.abs(a + b * x - y) / y
    return {
        "a": float(a),
        "b": float(b),
        "median_error": float(np.median(errors)),
        "largest_error": float(errors.max()),
        "within_15_percent": float((errors <= 0.15).mean()),
    }


def main() -> None:
    """Measure, print, write."""
    parser = parser_of(__doc__, "growth")
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--one", choices=list(VARIANTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        with TemporaryDirectory() as folder:
            print(json.dumps(learn(given.tasks[0], VARIANTS[given.one], Path(folder))))
        return
    results: dict[str, Any] = {}
    for name in VARIANTS:
        runs = {tasks: _in_a_process(tasks, name) for tasks in given.tasks}
        results[name] = {"runs": runs, "formula": formula(list(runs.values()))}
        write_record(given.out, {"variants": results})
        print(f"\n{name}\n\n{_table(runs)}\n\n{_in_words(results[name]['formula'])}", flush=True)


def _in_a_process(tasks: int, variant: str) -> list[dict[str, float]]:
    command = [sys.executable, __file__, "--tasks", str(tasks), "--one", variant]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _table(runs: dict[int, list[dict[str, float]]]) -> str:
    header = ["tasks", "seconds", "second task", "last task", "peak MB, 2nd", "peak MB, last"]
    header += ["largest peak", "state MB"]
    rows = []
    for tasks, run in runs.items():
        peaks = [task["peak_mb"] for task in run]
        total = sum(task["cpu_seconds"] for task in run)
        ends = run[1]["cpu_seconds"], run[-1]["cpu_seconds"], peaks[1], peaks[-1]
        rows.append([tasks, total, *ends, max(peaks), run[-1]["state_mb"]])
    return markdown(header, rows)


def _in_words(fit: dict[str, float]) -> str:
    off = f"off by {fit['median_error']:.1%} (median), {fit['largest_error']:.1%} at most"
    return f"CPU seconds of a task = {fit['a']:.3g} + {fit['b']:.3g} x old classes; {off}"


if __name__ == "__main__":
    main()
