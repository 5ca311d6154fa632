"""What a training step of the generator costs, beside the reference arrangement's.

    PYTHONPATH=src python benchmarks/training_step.py

Steps of the second task, in a preset's shapes, U-Net and batch (noise in place of images: the cost
is the same). The reference arrangement has the same U-Net; see `reference_arrangement.py`. Variants
take short turns, on the CPU those that differ by a part of the method with every step. With
--compile, which takes minutes, torch.compile is among them; a GPU is used with --device=cuda.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from measuring import (
    Clock,
    Seconds,
    compared,
    interleaved,
    medians_of_turns,
    parser_of,
    preset,
    show,
    step_by_step,
    timed,
    write_record,
)
from reference_arrangement import Reference, ReferenceTraining

from gppdm_pipeline.algorithm.context import Context, Precision, Progress, resolve_device
from gppdm_pipeline.algorithm.diffusion.network import build_unet
from gppdm_pipeline.algorithm.fitting import graphs, loop
from gppdm_pipeline.algorithm.fitting.batches import to_unit_range
from gppdm_pipeline.algorithm.generator import learn as generator_training
from gppdm_pipeline.algorithm.generator.parts import add_classes
from gppdm_pipeline.algorithm.state import LearnerState, Weights
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method
from gppdm_pipeline.methods.gppdm import Gppdm

SHAPES = {
    "digits": (8, 8, 1),
    "fashion_mnist": (28, 28, 1),
    "fashion_mnist_gpu": (28, 28, 1),
    "cifar100_t5": (32, 32, 3),
}
TABLES = ("against", "parts", "ways")
OLD, NEW, PER_CLASS = (0, 1), (2, 3), 100


@dataclass(frozen=True)
class Variant:
    """How our steps are computed.

    Attributes:
        route: of the prototypes.
        projected: whether cross-attention is.
        precision: of the network's products.
        channels_last: whether the U-Net's weights and images are in that order in memory.
        compiled: whether the U-Net is, by torch.compile.
        recorded: whether a step is replayed as one launch, which it is on CUDA alone.
    """

    route: str = "both"
    projected: bool = True
    precision: Precision = "float32"
    channels_last: bool = False
    compiled: bool = False
    recorded: bool = True


DEFAULT = Variant()
NEITHER = Variant("none", projected=False)
PARTS = {
    "neither prototypes nor projection": NEITHER,
    "prototypes": replace(DEFAULT, projected=False),
    "projection": replace(NEITHER, projected=True),
    "both": DEFAULT,
}
WAYS = {
    "default": DEFAULT,
    "channels last": replace(DEFAULT, channels_last=True),
    "bfloat16": replace(DEFAULT, precision="bfloat16"),
    "bfloat16, channels last": replace(DEFAULT, precision="bfloat16", channels_last=True),
}
ON_CUDA = {
    "kernel by kernel": replace(DEFAULT, recorded=False),
    "kernel by kernel, bfloat16": replace(DEFAULT, recorded=False, precision="bfloat16"),
}
COMPILED = {
    "compiled": replace(DEFAULT, compiled=True),
    "compiled, bfloat16": replace(DEFAULT, compiled=True, precision="bfloat16"),
}


def gppdm(benchmark: str, route: str, steps: int) -> Gppdm:
    """The preset's, whose denoiser takes few steps and has neither teacher nor pull."""
    settings = preset(benchmark)
    parts: dict[str, Any] = {**settings["generator"], "prototypes": {"route": route}}
    parts["denoiser"] = {**parts["denoiser"], "steps": steps, "distillation": 0.0}
    method = Method.model_validate({"name": "gppdm", **parts})
    assert isinstance(method, Gppdm)
    return method


def noise(benchmark: str, classes: Sequence[int]) -> LabelledImages:
    """Images of some classes."""
    labels = np.repeat(np.array(classes), PER_CLASS)
    shape = (len(labels), *SHAPES[benchmark])
    return LabelledImages(np.random.default_rng(0).integers(0, 256, shape, np.uint8), labels)


def second_task(benchmark: str, method: Gppdm, device: torch.device) -> LearnerState:
    """A state that has learnt the old classes, somewhat, and begins the new ones."""
    old, new, context = noise(benchmark, OLD), noise(benchmark, NEW), Context(0, 1, device)
    state, _ = method.train_generator(LearnerState.empty(), old, old.of_classes([]), context)
    return add_classes(
        state.begin(2, NEW, SHAPES[benchmark]), new, method, replace(context, task=2)
    )


def our_steps(
    benchmark: str, method: Gppdm, start: LearnerState, variant: Variant, device: torch.device
) -> list[Seconds]:
    """Seconds of steps of the second task."""
    clock = Clock(device)
    context = Context(0, 2, device, clock, precision=variant.precision)

    def build(weights: Weights) -> UNet2DConditionModel:
        unet = build_unet(weights)
        if variant.channels_last:
            unet = unet.to(memory_format=torch.channels_last)
        if variant.compiled:
            unet.compile()
        return unet

    way = graphs.recorded if variant.recorded else kernel_by_kernel
    with (
        mock.patch.object(generator_training, "build_unet", build),
        mock.patch.object(loop, "recorded", way),
    ):
        learn(benchmark, method, start, variant, context)
    return clock.steps


def learn(
    benchmark: str, method: Gppdm, start: LearnerState, variant: Variant, context: Context
) -> None:
    """Train the second task's denoiser, projected if the variant says so."""
    if not variant.projected:
        start = replace(start, bases={})
    old, new = noise(benchmark, OLD), noise(benchmark, NEW)
    generator_training.train_denoiser(start, new, old, method, context)


def kernel_by_kernel(step: graphs.Step, generator: torch.Generator) -> graphs.Step:
    """In place of `recorded`: every kernel is launched by itself."""
    return step


def reference_training(
    benchmark: str, method: Gppdm, start: LearnerState, device: torch.device, old: bool = True
) -> ReferenceTraining:
    """Of the second task; without old classes there is no nearest label, and one pass a step."""
    reference = Reference.of_state(start, method, device)
    images = noise(benchmark, (*OLD, *NEW))
    pixels = list(to_unit_range(images.images, device))
    new = list(NEW) if old else [*OLD, *NEW]
    return ReferenceTraining(reference, new, pixels, images.labels.tolist())


def measured(
    benchmark: str,
    turns: int,
    steps: int,
    device: torch.device,
    with_compiled: bool,
    wanted: Sequence[str],
) -> dict[str, dict[str, dict[str, float]]]:
    """Tables by title: what is compared, and its numbers."""
    states: dict[str, tuple[Gppdm, LearnerState]] = {}
    for route in ("none", "concat", "both"):
        method = gppdm(benchmark, route, steps + 1)
        states[route] = method, second_task(benchmark, method, device)

    def ours(variant: Variant) -> Callable[[], list[Seconds]]:
        return partial(our_steps, benchmark, *states[variant.route], variant, device)

    def theirs(old: bool) -> Callable[[], list[Seconds]]:
        training = reference_training(benchmark, *states["concat"], device, old)
        return partial(timed, training.step, device, steps)

    def parts() -> dict[str, list[Seconds]]:
        if device.type != "cpu":
            return {name: ours(variant)() for name, variant in PARTS.items()}

        def loop(variant: Variant, progress: Progress) -> None:
            context = Context(0, 2, progress=progress)
            learn(benchmark, *states[variant.route], variant, context)

        return step_by_step({name: partial(loop, variant) for name, variant in PARTS.items()})

    ways = WAYS | (COMPILED if with_compiled else {}) | (ON_CUDA if device.type == "cuda" else {})
    against = {
        "reference arrangement": theirs(True),
        "reference arrangement, one pass": theirs(False),
        "ours (the default)": ours(DEFAULT),
    }
    tables = {
        "against the reference arrangement": partial(interleaved, against),
        "parts of the method": partial(medians_of_turns, parts),
        "ways to compute": partial(interleaved, {name: ours(way) for name, way in ways.items()}),
    }
    found = {title: run(turns) for title, run in tables.items() if title.split()[0] in wanted}
    return {title: compared(turns, next(iter(turns)), device) for title, turns in found.items()}


def main() -> None:
    """Measure, print, write."""
    parser = parser_of(__doc__, "training_step")
    parser.add_argument("--benchmarks", nargs="+", default=["digits", "fashion_mnist"])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=8, help="of each variant in a turn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    given = parser.parse_args()
    torch.set_num_threads(1)  # CPU seconds of other processes would not be seen in a step
    device, results = resolve_device(given.device), {}
    for benchmark in given.benchmarks:
        results[benchmark] = measured(
            benchmark, given.turns, given.steps, device, given.compile, given.tables
        )
        for title, table in results[benchmark].items():
            show(f"{benchmark}: {title}", table)
        write_record(given.out, {"device": device.type, "benchmarks": results})


if __name__ == "__main__":
    main()
