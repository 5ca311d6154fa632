"""What a training step costs, and what each part of the method adds to it.

    OMP_NUM_THREADS=1 PYTHONPATH=src python benchmarks/step_cost.py --out step_cost.json

Steps of the second task of a preset's shapes (noise in place of images: the cost is the same), one
variant after the other in short turns, so that all see the same machine; medians over all turns.
Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import yaml

from gppdm_pipeline.algorithm.classifier import fit_classifier
from gppdm_pipeline.algorithm.device import CPU, Context, ProgressBar
from gppdm_pipeline.algorithm.generator import replay_of
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.configuration import resolve
from gppdm_pipeline.images import LabelledImages
from gppdm_pipeline.layers import Layer
from gppdm_pipeline.methods.gppdm import Gppdm

CONF = Path(__file__).parents[1] / "conf/base/benchmarks"
SHAPES = {"digits": (8, 8, 1), "fashion_mnist": (28, 28, 1)}
PER_CLASS = 20
DRAWN = 64

PLAIN = {"prototypes": {"route": "none"}, "projection": {"layers": []}}
# name -> (settings beside the preset's, precision)
TRAINING: dict[str, tuple[dict[str, object], str]] = {
    "neither prototypes nor projection": (PLAIN, "float32"),
    "neither, bfloat16": (PLAIN, "bfloat16"),
    "prototypes by concatenation": (
        {"prototypes": {"route": "concat"}, "projection": {"layers": []}},
        "float32",
    ),
    "prototypes as tokens": (
        {"prototypes": {"route": "tokens"}, "projection": {"layers": []}},
        "float32",
    ),
    "prototypes by both": ({"projection": {"layers": []}}, "float32"),
    "projection of keys and values": (
        {"prototypes": {"route": "none"}, "projection": {"layers": ["k", "v"]}},
        "float32",
    ),
    "projection of all four": ({"prototypes": {"route": "none"}}, "float32"),
    "both prototypes and projection (the default)": ({}, "float32"),
    "both, bfloat16": ({}, "bfloat16"),
    "both, distillation": ({"denoiser": {"distillation": 1.0}}, "float32"),
    "both, min-SNR": ({"denoiser": {"min_snr": 5.0}}, "float32"),
}


class Clock:
    """A progress that takes note of when each step ends."""

    def __init__(self) -> None:
        """Start with none."""
        self.seconds: list[float] = []

    @contextmanager
    def __call__(self, total: int, title: str) -> Iterator[ProgressBar]:
        """Keep the time from each step to the next; the first has none."""
        clock = self

        class Bar:
            last: float | None = None

            def advance(self, n: int = 1, **metrics: float) -> None:
                now = time.perf_counter()
                if self.last is not None:
                    clock.seconds.append((now - self.last) / n)
                self.last = now

        yield Bar()


def method_of(benchmark: str, changes: dict[str, object], steps: int) -> Gppdm:
    """The preset's method, with changes, and few steps."""
    preset = yaml.safe_load((CONF / f"{benchmark}.yml").read_text())[benchmark]
    source = {"reader": "sklearn_digits"}  # any: no image is read
    preset["stream"] = {"source": source, "classes_per_task": 2}
    budget = {
        "denoiser": {**changes.get("denoiser", {}), "steps": steps},  # type: ignore[dict-item]
        "classifier": {"steps": steps},
    }
    top = {"benchmark": benchmark, "method": "gppdm", "gppdm": {**changes, **budget}}
    found = resolve({benchmark: Layer(preset, str)}, [Layer(top, str)]).learner
    assert isinstance(found, Gppdm)
    return found


def noise(shape: tuple[int, int, int], *classes: int) -> LabelledImages:
    """Images of some classes."""
    labels = np.repeat(np.array(classes), PER_CLASS)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), *shape), np.uint8)
    return LabelledImages(images, labels)


def turns(
    benchmark: str, steps: int
) -> tuple[dict[str, Callable[[], list[float]]], dict[str, list[float]]]:
    """For each variant, what runs some steps and gives the seconds of each; and nothing yet."""
    shape, found = SHAPES[benchmark], {}
    first, second = noise(shape, 0, 1), noise(shape, 2, 3)
    for name, (changes, precision) in TRAINING.items():
        method = method_of(benchmark, changes, steps)
        context = Context(0, 1, precision=precision)  # type: ignore[arg-type]
        start, _ = method.train_generator(
            LearnerState.empty(), first, first.of_classes([]), context
        )

        def train(method=method, start=start, precision=precision) -> list[float]:  # type: ignore[no-untyped-def]
            clock = Clock()
            context = Context(0, 2, CPU, clock, precision=precision)
            no_bases = method.projection.model_copy(update={"images_per_class": 1})
            method = method.model_copy(update={"projection": no_bases})
            method.train_generator(start, second, first, context)
            return clock.seconds[: steps - 1]

        found[f"denoiser: {name}"] = train
    for precision in ("float32", "bfloat16"):
        method = method_of(benchmark, {}, steps)

        def classify(method=method, precision=precision) -> list[float]:  # type: ignore[no-untyped-def]
            clock = Clock()
            state = LearnerState.empty().begin(1, (0, 1), shape)
            context = Context(0, 1, CPU, clock, precision=precision)
            fit_classifier(state, method.classifier, first, first.of_classes([]), context)
            return clock.seconds

        found[f"classifier: {precision}"] = classify

        def draw(method=method, start=start, precision=precision) -> list[float]:  # type: ignore[no-untyped-def]
            context = Context(0, 1, precision=precision)
            begun = time.perf_counter()
            replay_of(start, (0,), DRAWN, method, context, "cost")
            return [(time.perf_counter() - begun) / DRAWN]

        found[f"sampling an image: {precision}"] = draw
    return found, {name: [] for name in found}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmarks", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12, help="of each variant in a turn")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results: dict[str, dict[str, dict[str, float]]] = {}
    for benchmark in arguments.benchmarks:
        variants, seconds = turns(benchmark, arguments.steps)
        for _ in range(arguments.turns):
            for name, run in variants.items():
                seconds[name] += run()
        results[benchmark] = table = {}
        print(f"\n{benchmark}\n{'':62}{'ms':>9}{'ratio':>8}")
        for name, found in seconds.items():
            group = name.split(":")[0]
            base = next(n for n in seconds if n.startswith(group))
            median = statistics.median(found)
            ratio = median / statistics.median(seconds[base])
            table[name] = {"milliseconds": 1e3 * median, "ratio": ratio, "timings": len(found)}
            print(f"{name:62}{1e3 * median:9.2f}{ratio:8.3f}")
    if arguments.out:
        machine = {"processor": platform.processor() or platform.machine()}
        machine |= {"torch": torch.__version__, "threads": torch.get_num_threads()}  # type: ignore[dict-item]
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"machine": machine, **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
