"""What a training step costs, and what each part of the method adds to it.

    OMP_NUM_THREADS=1 PYTHONPATH=src python benchmarks/step_cost.py --out step_cost.json

Steps of the second task, in a preset's shapes and settings (noise in place of images: the cost is
the same). Variants take short turns, so that all see the same machine; what counts is the median
of the CPU time of single steps over all turns. Prints a table, and writes JSON if asked.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from gppdm_pipeline.algorithm.classifier.network import fit_classifier
from gppdm_pipeline.algorithm.context import CPU, Context, Precision, ProgressBar
from gppdm_pipeline.algorithm.generator.draw import replay_of
from gppdm_pipeline.algorithm.generator.learn import train_denoiser
from gppdm_pipeline.algorithm.generator.parts import add_classes
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method
from gppdm_pipeline.methods.gppdm import Gppdm

CONF = Path(__file__).parents[1] / "conf/base/benchmarks"
SHAPES = {"digits": (8, 8, 1), "fashion_mnist": (28, 28, 1)}
PER_CLASS, DRAWN = 20, 64


def without(*, route: str = "both", layers: str = "") -> dict[str, Any]:
    """Settings with these prototypes and projected layers, and no others."""
    return {"prototypes": {"route": route}, "projection": {"layers": layers.split()}}


# The first of each precision is what the others are compared with.
VARIANTS: dict[str, dict[str, Any]] = {
    "neither prototypes nor projection": without(route="none"),
    "prototypes by concatenation": without(route="concat"),
    "prototypes as tokens": without(route="tokens"),
    "prototypes by both": without(),
    "projection of keys and values": without(route="none", layers="k v"),
    "projection of all four": without(route="none", layers="q k v out"),
    "both": {},
    "both, with distillation": {"denoiser": {"distillation": 1.0}},
}


class Clock:
    """A progress that takes note of the CPU time between steps."""

    def __init__(self) -> None:
        """Start with none."""
        self.seconds: list[float] = []
        self._last: float | None = None

    @contextmanager
    def __call__(self, total: int, title: str) -> Iterator[ProgressBar]:
        """A loop; its first step has no time, for it holds what comes before."""
        self._last = None
        yield self

    def advance(self, n: int = 1, **metrics: float) -> None:
        """A step has ended."""
        now = time.process_time()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now


def method_of(benchmark: str, changes: Mapping[str, Any], steps: int) -> Gppdm:
    """The preset's gppdm with changes, and few steps."""
    preset = yaml.safe_load((CONF / f"{benchmark}.yml").read_text())[benchmark]
    settings = {"name": "gppdm", "classifier": {**preset["classifier"], "steps": steps}}
    parts = {**preset["generator"], **changes}
    denoiser = {
        **preset["generator"]["denoiser"],
        "distillation": 0.0,
        **changes.get("denoiser", {}),
    }
    parts["denoiser"] = {**denoiser, "steps": steps}
    method = Method.model_validate({**settings, **parts})
    assert isinstance(method, Gppdm)
    return method


def noise(benchmark: str, *classes: int) -> LabelledImages:
    """Images of some classes."""
    labels = np.repeat(np.array(classes), PER_CLASS)
    shape = (len(labels), *SHAPES[benchmark])
    return LabelledImages(np.random.default_rng(0).integers(0, 256, shape, np.uint8), labels)


def denoiser_steps(
    method: Gppdm, start: LearnerState, old: LabelledImages, new: LabelledImages, what: Precision
) -> list[float]:
    """Seconds of steps of the second task's denoiser."""
    clock = Clock()
    train_denoiser(start, new, old, method, Context(0, 2, CPU, clock, precision=what))
    return clock.seconds


def classifier_steps(method: Gppdm, images: LabelledImages, what: Precision) -> list[float]:
    """Seconds of steps of a classifier."""
    clock = Clock()
    state = LearnerState.empty().begin(1, images.classes, images.image_shape)
    context = Context(0, 1, CPU, clock, precision=what)
    fit_classifier(state, method.classifier, images, images.of_classes([]), context)
    return clock.seconds


def sampling(method: Gppdm, state: LearnerState, what: Precision) -> list[float]:
    """Seconds for an image, of a batch of some."""
    begun = time.process_time()
    replay_of(state, (0,), DRAWN, method, Context(0, 1, precision=what), "cost")
    return [(time.process_time() - begun) / DRAWN]


def prepared(benchmark: str, steps: int) -> dict[str, dict[str, Callable[[], list[float]]]]:
    """By group and variant, what runs a turn and gives its seconds."""
    old, new = noise(benchmark, 0, 1), noise(benchmark, 2, 3)
    groups: dict[str, dict[str, Callable[[], list[float]]]] = {
        name: {} for name in ("denoiser", "denoiser, bfloat16", "classifier", "sampling an image")
    }
    for name, changes in VARIANTS.items():
        method, context = method_of(benchmark, changes, steps), Context(0, 1)
        state, _ = method.train_generator(LearnerState.empty(), old, old.of_classes([]), context)
        start = state.begin(2, new.classes, new.image_shape)
        start = add_classes(start, new, method, Context(0, 2))
        run = partial(denoiser_steps, method, start, old, new)
        groups["denoiser"][name] = partial(run, "float32")
        if name in (next(iter(VARIANTS)), "both"):
            groups["denoiser, bfloat16"][f"{name}, float32"] = partial(run, "float32")
            groups["denoiser, bfloat16"][f"{name}, bfloat16"] = partial(run, "bfloat16")
    method = method_of(benchmark, {}, steps)
    state, _ = method.train_generator(LearnerState.empty(), old, old.of_classes([]), Context(0, 1))
    for what in ("float32", "bfloat16"):
        groups["classifier"][what] = partial(classifier_steps, method, old, what)
        groups["sampling an image"][what] = partial(sampling, method, state, what)
    return groups


def measure(benchmark: str, turns: int, steps: int) -> dict[str, dict[str, dict[str, float]]]:
    """By group and variant: median milliseconds, their ratio to the first's, how many."""
    groups = prepared(benchmark, steps)
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(turns):
        for group, variants in groups.items():
            for name, run in variants.items():
                seconds.setdefault((group, name), []).extend(run())
    table: dict[str, dict[str, dict[str, float]]] = {}
    for group, variants in groups.items():
        medians = {name: 1e3 * statistics.median(seconds[group, name]) for name in variants}
        base = next(iter(medians.values()))
        table[group] = {
            name: {
                "milliseconds": round(median, 4),
                "ratio": round(median / base, 4),
                "timings": len(seconds[group, name]),
            }
            for name, median in medians.items()
        }
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--benchmarks", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12, help="of each variant in a turn")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results = {name: measure(name, given.turns, given.steps) for name in given.benchmarks}
    for benchmark, groups in results.items():
        for group, variants in groups.items():
            print(f"\n{benchmark}: {group}\n{'':50}{'ms':>9}{'ratio':>8}")
            for name, found in variants.items():
                print(f"{name:50}{found['milliseconds']:9.2f}{found['ratio']:8.3f}")
    if given.out:
        machine = {"machine": platform.machine(), "threads": torch.get_num_threads()}
        record = {**machine, "torch": torch.__version__, **results}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
