"""Quality of drawn images against model evaluations, and images a second, beside the reference.

    PYTHONPATH=src python benchmarks/sampling_curve.py

The generator is that of a finished run that can be guided (`kedro run --pipeline=continual
--params=gppdm.denoiser.label_dropout=0.1`), or one trained on all classes at once with --steps, and
kept. The reference arrangement (DDIM, 100 steps, two passes a
step; see `reference_arrangement.py`) and ours draw from the same weights and the same starting
noise. Quality is measured beside all test images, in the features of the oracle. What is drawn is
recorded at once: the same command goes on, and more --seeds or steps add to what is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from measuring import markdown, parser_of, preset, timed, write_record
from numpy.typing import NDArray
from reference_arrangement import STEPS, Reference
from sampling_pictures import curve

from gppdm_pipeline.algorithm.context import Context, resolve_device, silent
from gppdm_pipeline.algorithm.diffusion.process import Process
from gppdm_pipeline.algorithm.disk.states import load_state, save_state
from gppdm_pipeline.algorithm.generator.draw import Drawer, Solver
from gppdm_pipeline.algorithm.generator.parts import ReplayConfig, condition_table, denoiser_of
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.catalog.oracle import TrainedOracle, trained_oracle
from gppdm_pipeline.evaluation.distances import Features, frechet_distance
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method
from gppdm_pipeline.methods.gppdm import Gppdm
from gppdm_pipeline.streams.stream_config import StreamConfig

GUIDANCE = 1.0
INTERVAL = (0.2, 5.0)
SIGMA_MAX = 40.0
MARGIN, FASTER = 0.02, 10
"""What is to be shown: how much faster, at a quality at most so much worse."""


Draws = dict[str, dict[str, dict[str, float]]]
"""By the name of a way and the seed: what a draw took, and its quality."""


@dataclass(frozen=True)
class Setting:
    """A way to draw.

    Attributes:
        name: in tables.
        against: the name of the reference that it is compared with.
        replay: guidance and steps of our sampler; None for the reference's.
        guidance: of the reference's; None for conditional passes alone.
    """

    name: str
    against: str
    replay: ReplayConfig | None = None
    guidance: float | None = None


def settings_for(steps: list[int], batch_size: int) -> list[Setting]:
    """The references first, then ours: from all noise, from less, guided, guided in an interval."""
    plain = f"DDIM {STEPS}, one pass"
    guided = f"reference: DDIM {STEPS}, w = {GUIDANCE:g}"
    families: dict[str, tuple[str, dict[str, Any]]] = {
        "w = 0": (plain, {}),
        f"w = 0 from sigma {SIGMA_MAX:g}": (plain, {"sigma_max": SIGMA_MAX}),
        f"w = {GUIDANCE:g}": (guided, {"guidance": GUIDANCE}),
        f"w = {GUIDANCE:g} in {INTERVAL}": (
            guided,
            {"guidance": GUIDANCE, "guidance_interval": INTERVAL},
        ),
    }
    ours = [
        Setting(
            f"ours: {n} steps, {family}",
            against,
            ReplayConfig(sampler_steps=n, batch_size=batch_size, **guidance),
        )
        for family, (against, guidance) in families.items()
        for n in steps
    ]
    return [Setting(plain, plain), Setting(guided, guided, guidance=GUIDANCE), *ours]


@dataclass
class Bench:
    """What one benchmark is measured with.

    Attributes:
        state: with the generator.
        method: its settings.
        oracle: judges.
        real: features of test images.
        device: where to compute.
        labels: of the images to draw, in order.
        batch_size: images at a time.
    """

    state: LearnerState
    method: Gppdm
    oracle: TrainedOracle
    real: Features
    device: torch.device
    labels: NDArray[np.int64]
    batch_size: int

    def draw(self, setting: Setting, seed: int) -> dict[str, float]:
        """Draw with a seed; what it took and what came of it."""
        generator = torch.Generator(self.device).manual_seed(seed)
        passes = [0]
        drawn: list[NDArray[np.uint8]] = []
        if setting.replay is None:
            run = self._theirs(setting, generator, passes, drawn)
        else:
            run = self._ours(setting.replay, generator, passes, drawn)
        (took,) = timed(run, self.device)
        agrees = self.oracle.predict(drawn[0]) == self.labels
        return {
            "cpu_seconds": took.cpu,
            "wall_seconds": took.wall,
            "evaluations": passes[0] / len(self.labels),
            "frechet_distance": frechet_distance(self.real, self.oracle(drawn[0])),
            "oracle_agreement": float(agrees.mean()),
        }

    def _theirs(
        self, setting: Setting, generator: torch.Generator, passes: list[int], drawn: list[Any]
    ) -> Callable[[], None]:
        reference = Reference.of_state(self.state, self.method, self.device)

        def run() -> None:
            labels = self.labels.tolist()
            drawn.append(
                reference.draw(labels, setting.guidance, generator, batch_size=self.batch_size)
            )
            passes[0] = reference.passes

        return run

    def _ours(
        self, replay: ReplayConfig, generator: torch.Generator, passes: list[int], drawn: list[Any]
    ) -> Callable[[], None]:
        context, classes = Context(0, 1, self.device), self.state.classes
        denoiser = denoiser_of(self.state, self.method, context)
        table = condition_table(self.state, classes, self.method, context)
        row_of = {label: row for row, label in enumerate(classes)}
        rows = torch.tensor([row_of[int(k)] for k in self.labels], device=self.device)
        shape = self.state.image_shape
        assert shape is not None

        def count(_: object, inputs: tuple[torch.Tensor, ...], __: object) -> None:
            passes[0] += len(inputs[0])

        denoiser.unet.register_forward_hook(count)
        process = Process(self.method.denoiser, self.device)
        drawer = Drawer(denoiser, table, process, replay, shape)

        def run() -> None:
            with silent(0, "") as bar:
                drawn.append(drawer(rows, Solver(replay), generator, bar))

        return run


def bench_of(benchmark: str, given: Any) -> Bench:
    """The generator of a finished run or one trained here, and the oracle; both are kept."""
    device, models = resolve_device(given.device), given.models / benchmark
    settings = preset(benchmark)
    stream = StreamConfig.model_validate(settings["stream"])
    folder: Path = models / given.run
    if folder.exists():
        run = json.loads((folder.parents[1] / "configuration.json").read_text())
        method = Gppdm.model_validate(run["gppdm"])
        if not method.denoiser.label_dropout:
            raise SystemExit(
                f"{folder} was trained with denoiser.label_dropout 0 and cannot be guided; give "
                "--run of one trained with gppdm.denoiser.label_dropout=0.1"
            )
        state = load_state(folder)
    else:
        method, state = _trained(settings, stream, models, given.steps, device)
    train, test = stream.read("train"), stream.read("test")
    classifier = Method.model_validate({"name": "joint", "classifier": settings["classifier"]})
    oracle = trained_oracle(train, classifier.classifier, device, models / "oracles")
    labels = np.repeat(state.classes, given.per_class)
    real = oracle(test.images)
    return Bench(state, method, oracle, real, device, labels, given.batch_size)


def _trained(
    settings: Mapping[str, Any],
    stream: StreamConfig,
    models: Path,
    steps: int,
    device: torch.device,
) -> tuple[Gppdm, LearnerState]:
    """A generator of all classes at once."""
    own = {"steps": steps, "first_task": 1.0, "label_dropout": 0.1}
    denoiser = {**settings["generator"]["denoiser"], **own}
    method = Gppdm.model_validate({"denoiser": denoiser})
    folder = models / f"sampling_curve_{steps}"
    if not folder.exists():
        train = stream.read("train")
        empty = LabelledImages.empty(train.image_shape)
        state, _ = method.train_generator(LearnerState.empty(), train, empty, Context(0, 1, device))
        save_state(state, folder, {"steps": steps})
    return method, load_state(folder)


def measured(
    bench: Bench,
    rows: list[Setting],
    seeds: list[int],
    draws: Draws,
    save: Callable[[], None],
) -> None:
    """Draw what is lacking in `draws`: name -> seed -> numbers. All ways take turns."""
    for seed in map(str, seeds):
        for setting in rows:
            of_setting = draws.setdefault(setting.name, {})
            if seed not in of_setting:
                of_setting[seed] = bench.draw(setting, int(seed))
                save()


def summary(draws: Draws, rows: list[Setting], images: int) -> list[dict[str, Any]]:
    """A row for each way: medians over seeds, and the extremes of what decides.

    Speeds and distances are compared seed by seed: ours begins with the reference's noise.
    """
    table = []
    for setting in rows:
        ours, theirs = draws.get(setting.name, {}), draws.get(setting.against, {})
        pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
        if pairs:
            table.append({"": setting.name, **_compared(pairs, images)})
    return table


def _compared(
    pairs: list[tuple[dict[str, float], dict[str, float]]], images: int
) -> dict[str, Any]:
    middle = {key: median(ours[key] for ours, _ in pairs) for key in pairs[0][0]}
    speed = median(theirs["cpu_seconds"] / ours["cpu_seconds"] for ours, theirs in pairs)
    worse = [ours["frechet_distance"] / theirs["frechet_distance"] for ours, theirs in pairs]
    right = median(ours["oracle_agreement"] / theirs["oracle_agreement"] for ours, theirs in pairs)
    return {
        "evaluations": middle["evaluations"],
        "images a CPU second": images / middle["cpu_seconds"],
        "speed": speed,
        "Frechet distance": middle["frechet_distance"],
        "distance to the reference's": median(worse),
        "least": min(worse),
        "most": max(worse),
        "oracle agreement": middle["oracle_agreement"],
        "holds": speed >= FASTER and median(worse) <= 1 + MARGIN and right >= 1 - MARGIN,
        "seeds": len(pairs),
    }


def main() -> None:
    """Measure, print, write, draw."""
    parser = parser_of(__doc__, "sampling_curve")
    parser.add_argument("--benchmarks", nargs="+", default=["digits", "fashion_mnist"])
    parser.add_argument("--models", type=Path, default=Path("data/06_models"))
    parser.add_argument("--run", type=Path, default=Path("gppdm/seed_0/task_05/state"))
    parser.add_argument("--steps", type=int, default=3000, help="of training, without such a run")
    parser.add_argument("--sampler-steps", type=int, nargs="+", default=[5, 8, 10, 15, 20, 30])
    parser.add_argument("--per-class", type=int, default=100, help="images to draw")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pictures", type=Path, default=Path("docs/images/performance"))
    given = parser.parse_args()
    results = json.loads(given.out.read_text())["benchmarks"] if given.out.exists() else {}
    rows = settings_for(given.sampler_steps, given.batch_size)
    for benchmark in given.benchmarks:
        bench = bench_of(benchmark, given)
        kept = results.setdefault(benchmark, {"images": len(bench.labels), "draws": {}})
        if kept["images"] != len(bench.labels):
            parser.error(f"{given.out} has draws of {kept['images']} images; give another --out")
        save = partial(write_record, given.out, {"benchmarks": results})
        measured(bench, rows, given.seeds, kept["draws"], save)
        kept["summary"] = summary(kept["draws"], rows, kept["images"])
        save()
        print(f"\n{benchmark}\n\n{table_of(kept['summary'])}")
        curve(benchmark, kept["summary"], given.pictures)


def table_of(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    return markdown(list(rows[0]), (list(row.values()) for row in rows))


if __name__ == "__main__":
    main()
