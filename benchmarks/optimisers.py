"""What a denoiser has learnt after a given time: by optimiser, batch size and number of heads.

    OMP_NUM_THREADS=1 PYTHONPATH=src python benchmarks/optimisers.py --benchmarks digits

All classes in one task, so that nothing is a copy of a copy. The error is on images held out of the
training images: of x_0 as the denoiser sees it in a noisy image, squared, over the noise's variance
to the signal's; 1 would be the noisy image itself. It is the mean over levels of noise, the same
images and noise for all variants. Prints a table, and writes JSON.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from measuring import markdown, parser_of, preset, write_record

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.process import Process
from gppdm_pipeline.algorithm.fitting.batches import to_unit_range
from gppdm_pipeline.algorithm.generator.learn import train_denoiser
from gppdm_pipeline.algorithm.generator.parts import add_classes, condition_table, denoiser_of
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method
from gppdm_pipeline.methods.gppdm import Gppdm
from gppdm_pipeline.pipelines.measure import cpu_seconds
from gppdm_pipeline.streams.scenario import StreamConfig, TaskSplit, read_task

BENCHMARKS = ("digits", "fashion_mnist")
LEVELS = (30, 100, 200, 300, 450, 600, 750, 900)  # tau
HELD_OUT, JUDGES = 0.2, 1000

ADAMW = {"optimiser": "adamw", "heads": 8, "learning_rate": 1e-3, "batch_size": 64}
MUON = {**ADAMW, "optimiser": "muon"}
# Changes of the preset, and how many times --steps are taken: at half the batch, twice as many.
VARIANTS: dict[str, tuple[dict[str, Any], float]] = {
    "AdamW 1e-3, batch 64": (ADAMW, 1),
    "AdamW 2e-3, batch 64": ({**ADAMW, "learning_rate": 2e-3}, 1),
    "AdamW 4e-3, batch 64": ({**ADAMW, "learning_rate": 4e-3}, 1),
    "AdamW 2e-3, batch 32": ({**ADAMW, "learning_rate": 2e-3, "batch_size": 32}, 2),
    "AdamW 1e-3, batch 64, thrice as long": (ADAMW, 3),
    "Muon 0.01, batch 64": ({**MUON, "muon_learning_rate": 0.01}, 1),
    "Muon 0.02, batch 64": (MUON, 1),
    "Muon 0.05, batch 64": ({**MUON, "muon_learning_rate": 0.05}, 1),
    "the same, the rest by AdamW 3e-3": ({**MUON, "learning_rate": 3e-3}, 1),
    "and batch 32": ({**MUON, "learning_rate": 3e-3, "batch_size": 32}, 2),
    "and 2 heads": ({**MUON, "learning_rate": 3e-3, "batch_size": 32, "heads": 2}, 2),
}


def one_task(benchmark: str, seed: int) -> TaskSplit:
    """All classes at once; part of the training images is held out. No test image is looked at."""
    stream = preset(benchmark)["stream"]
    names = StreamConfig.model_validate(stream).class_names
    together = {**stream, "classes_per_task": len(names), "validation_fraction": HELD_OUT}
    return read_task(StreamConfig.model_validate(together), seed, 1)


def method_of(benchmark: str, changes: dict[str, Any], steps: int) -> Gppdm:
    """The preset's gppdm with a denoiser that is changed."""
    given = preset(benchmark)
    denoiser = {**given["generator"]["denoiser"], **changes, "steps": steps, "first_task": 1.0}
    parts = {**given["generator"], "denoiser": denoiser}
    method = Method.model_validate({"name": "gppdm", "classifier": given["classifier"], **parts})
    assert isinstance(method, Gppdm)
    return method


def trained(method: Gppdm, train: LabelledImages, seed: int) -> tuple[LearnerState, float]:
    """A state with the denoiser, and the CPU seconds of its training."""
    context = Context(seed, 1)
    state = LearnerState.empty().begin(1, train.classes, train.image_shape)
    state = add_classes(state, train, method, context)
    begun = cpu_seconds()
    state, _ = train_denoiser(state, train, train.of_classes([]), method, context)
    return state, cpu_seconds() - begun


@torch.no_grad()
def errors(method: Gppdm, state: LearnerState, images: LabelledImages) -> list[float]:
    """Of x_0 over the noise's share, at each of LEVELS."""
    context = Context(0, 1)
    denoiser = denoiser_of(state, method, context)
    table = condition_table(state, state.classes, method, context)
    index_of = {label: row for row, label in enumerate(state.classes)}
    conditions = table(torch.tensor([index_of[int(label)] for label in images.labels]))
    process = Process(method.denoiser, context.device)
    clean = to_unit_range(images.images, context.device)
    generator, found = torch.Generator().manual_seed(0), []
    for tau in LEVELS:
        level = process.level(torch.tensor(tau))
        noisy = level.noised(clean, torch.randn(clean.shape, generator=generator))
        output = denoiser(noisy, torch.full((len(clean),), tau), conditions)
        seen = process.clean(noisy, output, level).clamp(-1, 1)
        found.append(float((seen - clean).square().mean() * (level.signal / level.sigma) ** 2))
    return found


def measure(benchmark: str, steps: int, seeds: int) -> dict[str, dict[str, Any]]:
    """By variant: steps, CPU seconds and error of each seed."""
    results: dict[str, dict[str, Any]] = {}
    for seed in range(seeds):
        split = one_task(benchmark, seed)
        judges = split.validation.select(np.arange(min(JUDGES, len(split.validation))))
        for name, (changes, times) in VARIANTS.items():
            method = method_of(benchmark, changes, round(times * steps))
            state, seconds = trained(method, split.train, seed)
            by_level = errors(method, state, judges)
            found = results.setdefault(name, {"steps": method.denoiser.steps, "runs": []})
            mean = sum(by_level) / len(by_level)
            found["runs"].append({"cpu_seconds": seconds, "error": mean, "by_level": by_level})
            print(f"{benchmark}, seed {seed}, {name}: {mean:.4f} in {seconds:.0f} s", flush=True)
    return results


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each variant; seconds and error relative to the first's, mean over seeds."""
    base = next(iter(results.values()))["runs"]

    def relative(runs: list[dict[str, Any]], key: str) -> float:
        return sum(run[key] / first[key] for run, first in zip(runs, base, strict=True)) / len(base)

    rows = (
        [
            name,
            found["steps"],
            relative(found["runs"], "cpu_seconds"),
            sum(run["error"] for run in found["runs"]) / len(base),
            relative(found["runs"], "error"),
        ]
        for name, found in results.items()
    )
    return markdown(["", "steps", "CPU seconds to the first's", "error", "to the first's"], rows)


def main() -> None:
    """Measure, print, write."""
    parser = parser_of(__doc__, "optimisers")
    parser.add_argument("--benchmarks", nargs="+", default=list(BENCHMARKS), choices=BENCHMARKS)
    parser.add_argument("--steps", type=int, default=200, help="of the first variant")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0")
    given = parser.parse_args()
    results = {name: measure(name, given.steps, given.seeds) for name in given.benchmarks}
    for benchmark, found in results.items():
        print(f"\n{benchmark}\n\n{table(found)}")
    write_record(given.out, results)


if __name__ == "__main__":
    main()
