"""How fast a GPU learns and draws, and which accuracy it reaches in how many minutes.

    PYTHONPATH=src python benchmarks/gpu.py rates --benchmarks fashion_mnist cifar100_t5
    PYTHONPATH=src python benchmarks/gpu.py learn --benchmarks fashion_mnist --minutes 9

`rates` runs steps of a preset's generator on noise: images a second in training (channels first and
last) and sampling, in float32 and bfloat16, the share of the chip's peak (operations counted by
torch), and where the time goes (torch.profiler). `learn` runs the pipeline itself until the minutes
are over; the same command goes on where it stopped, and adds to the minutes. What comes after `--`
goes to the pipeline, such as `--params=stream.source.reader=npz,stream.source.file=...`, or
`--params=space.name=latents,space.autoencoder=<folder>,variant=latents`; each variant has a record
of its own. Both run on a CPU for trial.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measuring import markdown, parser_of, show, timed, write_record
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from training_step import OLD, Variant, gppdm, our_steps, second_task

from gppdm_pipeline.algorithm.context import Context, Precision, resolve_device
from gppdm_pipeline.algorithm.diffusion.network import DenoiserConfig
from gppdm_pipeline.algorithm.generator.draw import replay_of
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.configuration.params import parse
from gppdm_pipeline.methods.gppdm import Gppdm

# Dense products without sparsity, in 10^12 operations a second, as NVIDIA gives them. For float32
# it is TF32's, in which torch computes convolutions by default, though not matrix products.
PEAKS: dict[str, dict[Precision, float]] = {
    "H100": {"float32": 494, "bfloat16": 989},
    "H200": {"float32": 494, "bfloat16": 989},
    "A100": {"float32": 156, "bfloat16": 312},
}
# By a part of an operation's or kernel's name; the first that fits.
KINDS = {
    "convolutions": ("conv", "cudnn", "implicit_gemm", "wgrad", "dgrad", "fprop", "nchwtonhwc"),
    "attention": ("attention", "flash", "fmha"),
    "products": ("mm", "gemm", "cutlass", "nvjet", "linear"),
    "optimiser": ("adam", "foreach", "lerp", "multi_tensor"),
    "normalisation": ("norm", "rowwisemoments", "fusedparams"),
    "copies and gathers": ("copy", "memcpy", "cat", "index", "gather", "memset"),
    "elementwise": ("elementwise", "add", "mul", "silu"),
    "sums": ("reduce", "sum"),
}
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
DRAWN = 2000
FEW = 8  # steps, for what is slow to count


def rates(
    benchmark: str, precision: Precision, steps: int, drawn: int, device: torch.device
) -> dict[str, Any]:
    """Training and sampling in a precision."""
    variant, method = Variant(precision=precision), gppdm(benchmark, "both", steps + 1)
    start = second_task(benchmark, method.model_copy(update={"denoiser": _few(method)}), device)
    batch = method.denoiser.batch_size

    def step(variant: Variant) -> float:
        taken = our_steps(benchmark, method, start, variant, device)
        return median(seconds.wall for seconds in taken) / batch

    draw = partial(_draw, method, start, drawn, precision, device)
    draw()  # to warm up, as the first steps of a training do
    (took,) = timed(draw, device)
    few = method.model_copy(update={"denoiser": _few(method)})
    one_by_one = replace(variant, recorded=False)
    flops = _flops(partial(our_steps, benchmark, few, start, one_by_one, device)) / FEW / batch
    drawn_few = _flops(partial(_draw, method, start, FEW * len(OLD), precision, device))
    return {
        "training": _rate(step(variant), flops, precision),
        "training, channels last": _rate(
            step(replace(variant, channels_last=True)), flops, precision
        ),
        "sampling": _rate(took.wall / drawn, drawn_few / FEW / len(OLD), precision),
        "time_by_kind": _by_kind(
            partial(our_steps, benchmark, few, start, variant, device), device
        ),
    }


def _few(method: Gppdm) -> DenoiserConfig:
    """The method's denoiser with few steps."""
    return method.denoiser.model_copy(update={"steps": FEW})


def _draw(
    method: Gppdm, state: LearnerState, images: int, precision: Precision, device: torch.device
) -> None:
    context = Context(0, 1, device, precision=precision)
    replay_of(state, OLD, images // len(OLD), method, context, "rates")


def _rate(seconds: float, flops: float, precision: Precision) -> dict[str, float | None]:
    """Of one image: seconds and floating-point operations, forward and backward together."""
    peak = _peak(precision)
    share = None if peak is None else flops / seconds / (1e12 * peak)
    return {"images_a_second": 1 / seconds, "gflop_an_image": flops / 1e9, "share_of_peak": share}


def _peak(precision: Precision) -> float | None:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((peaks[precision] for chip, peaks in PEAKS.items() if chip in name), None)


def _flops(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def _by_kind(run: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Share of the device's time that each kind of operation takes."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with profile(activities=activities) as profiler:
        run()
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    seconds = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in profiler.key_averages():
        if cuda and (event.device_type.name != "CUDA" or event.is_user_annotation):
            continue  # its kernels are events themselves
        name = event.key.lower()
        kind = next((k for k, parts in KINDS.items() if any(p in name for p in parts)), "other")
        seconds[kind] += getattr(event, key)
    total = sum(seconds.values())
    return {kind: spent / total for kind, spent in seconds.items()}


def learn(
    benchmark: str,
    minutes: float,
    device: str,
    precision: str,
    before: dict[str, Any],
    rest: list[str],
) -> dict[str, Any]:
    """Run the pipeline until it ends or the minutes are over.

    Args:
        benchmark: preset.
        minutes: of this call.
        device: as `--params=device`.
        precision: likewise.
        before: what an earlier call gave; may be empty.
        rest: further arguments of the pipeline.

    Returns:
        `seconds` of all calls, `accuracy_by_minutes` (after each task), and whether it has ended.
    """
    params = f"benchmark={benchmark},method=gppdm,device={device},precision={precision}"
    given = [arg.removeprefix("--params=") for arg in rest if arg.startswith("--params=")]
    others = [arg for arg in rest if not arg.startswith("--params=")]
    command = [sys.executable, "-m", "gppdm_pipeline", f"--params={','.join([params, *given])}"]
    begun, clock = time.time(), time.perf_counter()
    with subprocess.Popen([*command, *others]) as process:
        try:
            ended = process.wait(60 * minutes) == 0
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait()
            ended = False
    spent = before.get("seconds", 0.0)
    curve = dict(before.get("accuracy_by_minutes", {}))
    for file in _evaluations(benchmark, ",".join(given)):
        if file.stat().st_mtime >= begun:
            tasks = json.loads(file.read_text())["per_task"]
            accuracy = sum(t["correct"] for t in tasks) / sum(t["count"] for t in tasks)
            after = (spent + file.stat().st_mtime - begun) / 60
            curve[file.parent.name] = {"minutes": after, "average_accuracy": accuracy}
    return {
        "seconds": spent + time.perf_counter() - clock,
        "calls": before.get("calls", 0) + 1,
        "accuracy_by_minutes": curve,
        "ended": ended,
        "precision": precision,
        "device": device,
    }


def _evaluations(benchmark: str, params: str) -> list[Path]:
    settings = parse(params)
    variant = f"-{settings['variant']}" if "variant" in settings else ""
    run = Path(f"data/08_reporting/{benchmark}/gppdm{variant}/seed_{settings.get('seed', 0)}")
    return sorted(run.glob("task_*/evaluation.json"))


def _name(benchmark: str, rest: list[str]) -> str:
    """Of the record: a variant has one of its own."""
    given = ",".join(arg.removeprefix("--params=") for arg in rest if arg.startswith("--params="))
    variant = parse(given).get("variant")
    return f"{benchmark} {variant}" if variant else benchmark


def main() -> None:
    """Measure, print, write."""
    parser = parser_of(__doc__, "gpu")
    parser.add_argument("what", choices=["rates", "learn"])
    parser.add_argument("--benchmarks", nargs="+", default=["fashion_mnist", "cifar100_t5"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=100, help="of training, for rates")
    parser.add_argument("--drawn", type=int, default=DRAWN, help="images drawn, for rates")
    parser.add_argument("--minutes", type=float, default=9, help="of each benchmark, for learn")
    parser.add_argument("--precision", default="bfloat16", help="for learn")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    given, rest = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    results: dict[str, dict[str, Any]] = {"rates": {}, "learn": {}}
    if given.out.exists():
        results |= {k: json.loads(given.out.read_text())[k] for k in results}
    for benchmark in given.benchmarks:
        if given.what == "rates":
            device = resolve_device(given.device)
            found = results["rates"].setdefault(benchmark, {})
            for precision in PRECISIONS:
                found[precision] = rates(benchmark, precision, given.steps, given.drawn, device)
                write_record(given.out, results)
            _show_rates(benchmark, found)
        else:
            name = _name(benchmark, rest)
            before = results["learn"].get(name, {})
            results["learn"][name] = learn(
                benchmark, given.minutes, given.device, given.precision, before, rest
            )
            curve = results["learn"][name]["accuracy_by_minutes"]
            rows = [[task, *point.values()] for task, point in curve.items()]
            print(f"\n{name}\n\n{markdown(['after', 'minutes', 'average accuracy'], rows)}")
        write_record(given.out, results)


def _show_rates(benchmark: str, found: dict[str, Any]) -> None:
    table = {
        f"{what}, {precision}": parts[what]
        for precision, parts in found.items()
        for what in ("training", "training, channels last", "sampling")
    }
    show(benchmark, table)
    show("share of time", {precision: parts["time_by_kind"] for precision, parts in found.items()})


if __name__ == "__main__":
    main()
