"""What processors share: the work of each layer, or the batch (trained by processes).

    PYTHONPATH=src python benchmarks/threads.py

A generator's steps of the second task, a classifier's, and drawing, in a preset's shapes and
settings (noise in place of images: the cost is the same). Variants take short turns; what counts
is the speed by the clock, on a machine that has nothing else to do. Images are drawn by threads. A
process is slow for some steps after it was forked, until it has pages of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from unittest import mock

import gppdm_pipeline.environment  # noqa: F401 (how long threads spin: before torch is there)

# isort: split
import torch
from measuring import (
    Clock,
    Seconds,
    compared,
    interleaved,
    parser_of,
    preset,
    show,
    timed,
    write_record,
)
from training_step import NEW, OLD, noise, second_task

from gppdm_pipeline.algorithm.classifier import network as classifier
from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.fitting import loop
from gppdm_pipeline.algorithm.fitting import muon as optimiser
from gppdm_pipeline.algorithm.generator import draw
from gppdm_pipeline.algorithm.generator.learn import train_denoiser
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method
from gppdm_pipeline.methods.gppdm import Gppdm

ONE, LAYERS, BATCH = "one thread", "threads share layers", "threads share the batch"
PROCESSES = "processes share the batch"
DRAWN = 64
"""Images of each of the two old classes."""


@contextmanager
def sharing(variant: str, threads: int) -> Iterator[None]:
    """Inside, so many threads share what the variant says."""
    torch.set_num_threads(1 if variant == ONE else threads)
    with ExitStack() as patches:
        if variant == LAYERS:
            whole = mock.patch.object(draw, "parts_of", lambda n, _: [slice(0, n)])
            patches.enter_context(whole)
            patches.enter_context(mock.patch.object(loop, "ranks_for", lambda *_: 1))
            here = mock.patch.object(optimiser, "together", lambda f, xs, _: [f(x) for x in xs])
            patches.enter_context(here)
        yield
    torch.set_num_threads(threads)


def of_preset(benchmark: str, steps: int) -> Gppdm:
    """Its settings, but for few steps."""
    settings = preset(benchmark)
    parts = {"classifier": settings["classifier"], **settings["generator"]}
    for part in ("classifier", "denoiser"):
        parts[part] = {**parts[part], "steps": steps + 1}
    method = Method.model_validate({"name": "gppdm", **parts})
    assert isinstance(method, Gppdm)
    return method


def jobs(benchmark: str, steps: int) -> dict[str, Callable[[], Sequence[Seconds]]]:
    """By name, what is timed."""
    method = of_preset(benchmark, steps)
    state = second_task(benchmark, method, CPU)
    old, new = noise(benchmark, OLD), noise(benchmark, NEW)

    def generator() -> list[Seconds]:
        clock = Clock(CPU)
        train_denoiser(state, new, old, method, Context(0, 2, CPU, clock))
        return clock.steps

    def classify() -> list[Seconds]:
        clock, both = Clock(CPU), LabelledImages.concatenate([new, old])
        nothing = both.of_classes([])
        context = Context(0, 2, CPU, clock)
        classifier.fit_classifier(state, method.classifier, both, nothing, context)
        return clock.steps

    def drawing() -> object:
        return draw.replay_of(state, OLD, DRAWN, method, Context(0, 2), "synthesise_replay")

    return {
        "training the generator": generator,
        "training the classifier": classify,
        "drawing": partial(timed, drawing, CPU),
    }


def main() -> None:
    """Measure, print, write."""
    parser = parser_of(__doc__, "threads")
    parser.add_argument("--benchmarks", nargs="+", default=["digits", "fashion_mnist"])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="of a training in a turn")
    given = parser.parse_args()
    threads = torch.get_num_threads()
    results: dict[str, dict[str, object]] = {}
    for benchmark in given.benchmarks:
        for name, job in jobs(benchmark, given.steps).items():

            def run(variant: str, job: Callable[[], Sequence[Seconds]] = job) -> Sequence[Seconds]:
                with sharing(variant, threads):
                    return job()

            ways = (ONE, LAYERS, BATCH if name == "drawing" else PROCESSES)
            variants = {variant: partial(run, variant) for variant in ways}
            table = compared(interleaved(variants, given.turns), ONE, CPU)
            results.setdefault(benchmark, {})[name] = table
            show(f"{benchmark}: {name}", table)
            write_record(given.out, {"threads": threads, "benchmarks": results})


if __name__ == "__main__":
    main()
