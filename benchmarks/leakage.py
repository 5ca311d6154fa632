"""Accuracy against leakage: what each method, and each setting of gppdm, tells of its images.

    PYTHONPATH=src python benchmarks/leakage.py --seeds 0 1 2
    PYTHONPATH=src python benchmarks/leakage.py --variants gppdm exemplar --seeds 0
    PYTHONPATH=src python benchmarks/leakage.py --params stream.source.train_per_class=20

Learns a benchmark with each variant, audits the run (docs/privacy.md), keeps what both say in the
record, and prints the table: means over seeds with their standard deviation. What the record has is
not run again, and a run that is there (of a plan, say: give its `variant=` among the `--params`) is
only audited. The picture shows accuracy over the AUC of the strongest attack, a point a run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib import colormaps
from measuring import markdown, parser_of, write_record

from gppdm_pipeline.evaluation.figures import SMALL, WIDTH, new_figure, style
from gppdm_pipeline.evaluation.pictures import Picture

# What noise leaves something of: a small network, AdamW, large batches, gradients cut short. The
# classifier sees drawn images alone, so that it is as private as they are.
_SMALL = ",".join(
    [
        "method=gppdm,gppdm.redraw=0,gppdm.prototypes.start=noise,gppdm.denoiser.channels=[8,16]",
        "gppdm.denoiser.condition_dim=32,gppdm.denoiser.optimiser=adamw,gppdm.denoiser.steps=100",
        "gppdm.denoiser.first_task=1.0,gppdm.denoiser.batch_size=96,gppdm.adapters.batch_size=96",
        "gppdm.adapters.rank=1,gppdm.adapters.learning_rate=0.01,gppdm.adapters.attention=true",
        "gppdm.analytic.filters=0",
    ]
)
_PRIVATE = f"{_SMALL},gppdm.private.max_grad_norm=0.2,gppdm.private.noise_multiplier"
VARIANTS = {
    "gppdm": "method=gppdm",
    "gppdm, no sums": "method=gppdm,gppdm.analytic.filters=0",
    "gppdm, half the steps": "method=gppdm,gppdm.denoiser.steps=100",
    "gppdm, three times the steps": "method=gppdm,gppdm.denoiser.steps=600",
    "gppdm, rank 1": "method=gppdm,gppdm.adapters.rank=1",
    "gppdm, weight decay 0.1": "method=gppdm,gppdm.denoiser.weight_decay=0.1",
    "gppdm, prototypes from noise": "method=gppdm,gppdm.prototypes.start=noise",
    "diffusion_replay": "method=diffusion_replay",
    "vae_replay": "method=vae_replay",
    "exemplar": "method=exemplar",
    "joint": "method=joint",
    "gppdm, small": _SMALL,
    "gppdm, small, noise 2.2": f"{_PRIVATE}=2.2",
    "gppdm, small, noise 5.8": f"{_PRIVATE}=5.8",
}
PICTURES = Path(__file__).parents[1] / "docs/images"
HEADER = [
    *("", "accuracy, %", "strongest attack", "AUC", "found at 1 % false, %", "copied, %"),
    *("copied of held-out, %", "authentic, %", "epsilon", "runs"),
]
DEVICE = "device=cpu"
MARKERS = "osD^v<>pXP*hd8"  # one for each variant


def main() -> None:
    """Run what is missing, then print the table and write the picture."""
    parser = parser_of(__doc__, "leakage")
    parser.add_argument("--benchmark", default="digits")
    parser.add_argument("--params", default="", help="settings of all runs, as of kedro run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    given = parser.parse_args()
    there = json.loads(given.out.read_text()) if given.out.exists() else {}
    runs: dict[str, dict[str, Any]] = there.get("runs", {})
    params = f"benchmark={given.benchmark},{given.params}".rstrip(",")
    for seed in given.seeds:
        for variant in given.variants:
            name = f"{params}, {variant}, seed {seed}"
            if name not in runs:
                runs[name] = _measured(given.benchmark, params, variant, seed)
                write_record(given.out, {"runs": runs})
                print(f"{name}: {_line(runs[name])}", flush=True)
    of = {
        variant: [
            run for name, run in runs.items() if name.startswith(f"{params}, {variant}, seed")
        ]
        for variant in VARIANTS
    }
    of = {variant: found for variant, found in of.items() if found}
    print(markdown(HEADER, (_row(variant, found) for variant, found in of.items())))
    picture = PICTURES / f"leakage_{given.benchmark}.png"
    picture.write_bytes(_picture(of, given.benchmark).rendered("png"))


def _measured(benchmark: str, common: str, variant: str, seed: int) -> dict[str, Any]:
    """Learn, audit, and what the two say."""
    params = f"{common},{VARIANTS[variant]},seed={seed}"
    name = f"leakage_{list(VARIANTS).index(variant)}"
    named = [each for each in common.split(",") if each.startswith("variant=")]
    if named:
        name = named[0].removeprefix("variant=")
    else:
        params += f",variant={name}"
    seconds = {}
    for pipeline in ("continual", "audit"):
        begun = time.perf_counter()
        command = [sys.executable, "-m", "gppdm_pipeline", "run", f"--pipeline={pipeline}"]
        command += ["--only-missing-outputs"] * (pipeline == "continual")
        subprocess.run([*command, f"--params={params},{DEVICE}"], check=True, stdout=sys.stderr)
        seconds[pipeline] = round(time.perf_counter() - begun, 1)
    method = VARIANTS[variant].split(",")[0].removeprefix("method=")
    folder = Path(f"data/08_reporting/{benchmark}/{method}-{name}/seed_{seed}")
    metrics, audit = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "audit")
    )
    return {
        "benchmark": benchmark,
        "variant": variant,
        "seed": seed,
        "params": params,
        "accuracy": metrics["average_accuracy"],
        "attacks": {name: each["all"] for name, each in audit["membership"]["attacks"].items()},
        "attack": audit["membership"]["attack"],
        "memorisation": {name: each["all"] for name, each in audit["memorisation"].items()},
        "real_images_in_the_state": audit["state"]["real_images"],
        "epsilon": (audit["state"]["private"] or {}).get("epsilon"),
        "seconds": seconds,
    }


def _line(run: dict[str, Any]) -> str:
    attack = run["attacks"].get(run["attack"], {})
    return f"{100 * run['accuracy']:.1f} %, AUC {attack.get('auc')}, {run['seconds']} s"


def _row(variant: str, runs: list[dict[str, Any]]) -> list[object]:
    attacks = [run["attacks"].get(run["attack"], {}) for run in runs]
    pixels = [run["memorisation"].get("pixels") or {} for run in runs]
    return [
        variant,
        _mean([100 * run["accuracy"] for run in runs]),
        ", ".join(sorted({run["attack"] or "none" for run in runs})),
        _mean([attack.get("auc") for attack in attacks], 3),
        _mean([_percent(attack.get("tpr_at_1_percent")) for attack in attacks]),
        *(
            _mean([_percent(each.get(key)) for each in pixels])
            for key in ("copied", "copied_of_held_out", "authentic")
        ),
        _mean([run.get("epsilon") for run in runs]),
        str(len(runs)),
    ]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _mean(numbers: list[float | None], digits: int = 1) -> str:
    found = [number for number in numbers if number is not None]
    if not found:
        return "-"
    spread = f" ± {stdev(found):.{digits}f}" if len(found) > 1 else ""
    return f"{fmean(found):.{digits}f}{spread}"


def _picture(of: dict[str, list[dict[str, Any]]], benchmark: str) -> Picture:
    """Accuracy over the AUC of the strongest attack."""
    figure = new_figure(WIDTH, 4.2)
    axes = figure.add_subplot()
    rows: list[dict[str, object]] = []
    for number, (variant, runs) in enumerate(of.items()):
        points = [
            (run["attacks"][run["attack"]]["auc"], 100 * run["accuracy"])
            for run in runs
            if run["attack"]
        ]
        if not points:
            continue
        look: dict[str, Any] = {"color": colormaps["tab10"](number % 10), "marker": MARKERS[number]}
        x, y = zip(*points, strict=True)
        axes.scatter(x, y, 20, alpha=0.5, linewidths=0, **look)
        axes.scatter(fmean(x), fmean(y), 80, label=variant, **look)
        rows.append({"variant": variant, "auc": fmean(x), "accuracy": fmean(y)})
    style(
        axes,
        title=f"{benchmark}: accuracy over what is told of training images",
        x="AUC of the strongest membership attack (0.5 tells nothing)",
        y="average accuracy, %",
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=SMALL)
    return Picture(figure, rows)


if __name__ == "__main__":
    main()
