"""`python -m gppdm_pipeline.plan FILE`: the runs behind docs/results.md, and their tables.

A plan names streams, variants and seeds. Each finished run leaves a record, a small JSON file that
is committed, so that the work of several days and machines adds up: a run whose record is there,
with the same settings, is not run again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
from pydantic import ValidationError

from gppdm_pipeline.algorithm.disk.writing import replace_file
from gppdm_pipeline.catalog.datasets import ImagesDataset
from gppdm_pipeline.configuration.experiment import Experiment
from gppdm_pipeline.configuration.params import written
from gppdm_pipeline.faults import PlainCommand
from gppdm_pipeline.grids import executors, runs
from gppdm_pipeline.grids.executors import Executor
from gppdm_pipeline.grids.making import Wanted, make_all
from gppdm_pipeline.plans.plan_files import Plan, read_plan
from gppdm_pipeline.plans.record_pictures import strip_of
from gppdm_pipeline.plans.records import record_of
from gppdm_pipeline.plans.retired import what_counts, without_retired
from gppdm_pipeline.plans.tables import TABLES, differences, section, write_between
from gppdm_pipeline.run.guard import differences as unlike
from gppdm_pipeline.streams.scenario import StreamConfig
from gppdm_pipeline.streams.sources import moved

REPLAYS = Path("data/05_model_input")
RESULTS = Path("benchmarks/results")


@dataclass(frozen=True)
class PlannedRun:
    """One run: where it stands in its plan, and its settings as for `kedro run --params`.

    Of a stream's first seed, some replayed images are kept (`pictured`).
    """

    stream: str
    variant: str
    seed: int
    params: str
    pictured: bool

    def record(self, folder: Path) -> Path:
        """Its record's file, below the plan's folder."""
        return folder / self.stream / self.variant / f"seed_{self.seed}.json"

    def __str__(self) -> str:
        return f"{self.stream} {self.variant} seed {self.seed}"


@click.command(cls=PlainCommand)
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path, resolve_path=True)
)
@click.option("--streams", help="Only these, joined by commas.")
@click.option("--variants", help="Only these, joined by commas.")
@click.option("--seeds", help="Only these, joined by commas.")
@click.option("--tables", is_flag=True, help="Run nothing, write the tables of what there is.")
@executors.options
def main(
    file: Path,
    streams: str | None,
    variants: str | None,
    seeds: str | None,
    tables: bool,
    **where: Any,
) -> None:
    """Run what has no record yet, and write the tables."""
    runs.work_in_project()
    executor = executors.chosen(**where)
    plan, folder = read_plan(file), RESULTS / file.stem
    on = _chosen("streams", streams, plan.streams)
    known = {str(seed): seed for name in on for seed in plan.streams[name].seeds}
    chosen = [known[seed] for seed in _chosen("seeds", seeds, known)]
    wanted = runs_of(plan, on, _chosen("variants", variants, plan.variants), chosen)
    failed = [] if tables else run_all(wanted, folder, executor)
    files = {name: _records(plan, folder, name) for name in plan.streams}
    text = differences({name: of for name, (of, _) in files.items()}, plan.differences)
    text += "\n".join(
        section(folder, name, *files[name], plan.baseline, stream.seeds[0], plan.slopes)
        for name, stream in plan.streams.items()
    )
    write_between(TABLES, file.stem, text)
    click.echo(text)
    if failed:
        names = "\n".join(f"  {name}" for name in failed)
        raise click.ClickException(f"{len(failed)} of {len(wanted)} runs failed:\n{names}")


def runs_of(
    plan: Plan, streams: list[str], variants: list[str], seeds: list[int] | None = None
) -> list[PlannedRun]:
    """The runs, stream by stream, and of each stream all variants with one seed, then the next."""
    return [
        PlannedRun(
            name,
            variant,
            seed,
            _params(plan, name, variant, seed),
            seed == plan.streams[name].seeds[0],
        )
        for name in streams
        for seed in plan.streams[name].seeds
        if seeds is None or seed in seeds
        for variant in variants
    ]


def run_all(wanted: list[PlannedRun], folder: Path, executor: Executor) -> list[str]:
    """Run what has no record; returns the names of the runs that failed."""
    experiments = runs.experiments_of(planned.params for planned in wanted)
    planned = {
        Wanted(str(each), each.params, experiment): each
        for each, experiment in zip(wanted, experiments, strict=True)
    }

    def kept(run: Wanted) -> None:
        keep(run.experiment, planned[run].record(folder), planned[run].pictured)

    def there(run: Wanted) -> str | None:
        if _has_record(run.experiment, planned[run].record(folder)):
            return "recorded"
        if not runs.is_finished(run.experiment):
            runs.let_release_go_on(run.experiment)
            return None
        kept(run)
        return f"finished, {runs.result(run.experiment)}"

    return [run.name for run in make_all([*planned], executor, there, kept)]


def _has_record(experiment: Experiment, file: Path) -> bool:
    """Whether a run has a record, which may be that of another plan, and is copied then."""
    record = _recorded(experiment, file)
    if record and record != file:
        file.parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".json", ".npz"):
            if record.with_suffix(suffix).exists():
                replace_file(file.with_suffix(suffix), record.with_suffix(suffix).read_bytes())
    return record is not None


def keep(experiment: Experiment, file: Path, pictured: bool) -> None:
    """Write the record of a finished run, and if `pictured`, a few of its replayed images."""
    reports = runs.REPORTS / experiment.run
    last = max((runs.STATES / experiment.run).glob("task_*/state/provenance.json"))
    logs = sorted(reports.glob("task_*/*.json"))
    record = record_of(
        runs.read(reports / "metrics.json"),
        {f"{log.parent.name}.{log.stem}": runs.read(log) for log in logs},
        {**runs.read(last), "date": datetime.now(UTC).date().isoformat()},
        Path.cwd(),
    )
    if images := runs.learnt(experiment):
        record["images"] = images
    file.parent.mkdir(parents=True, exist_ok=True)
    if pictured and "replay_quality" in record:
        inputs = REPLAYS / experiment.run
        tasks = sorted(inputs.glob("task_*/replay.npz"))[1:]  # before the first, there is none
        kept = [ImagesDataset(filepath=str(path)).load() for path in tasks]
        kept.append(ImagesDataset(filepath=str(inputs / "assessment/replay.npz")).load())
        strip = io.BytesIO()
        np.savez_compressed(strip, replay=strip_of(kept, record))
        replace_file(file.with_suffix(".npz"), strip.getvalue())
    # Last: a run that has its record is not asked for its images again.
    replace_file(file, (json.dumps(record, separators=(",", ":")) + "\n").encode())


def _params(plan: Plan, stream: str, variant: str, seed: int) -> str:
    """Runs whose settings are not those of the preset alone get a name of their own."""
    planned, settings = plan.streams[stream], plan.variants[variant]
    own = [stream] * bool(planned.params) + [variant] * (settings.keys() > {"method"})
    given = {"benchmark": planned.benchmark, "seed": seed, **planned.params, **settings}
    if own:
        given["variant"] = "-".join(own)
    return written(given)


def _chosen(option: str, given: str | None, known: Mapping[str, object]) -> list[str]:
    names = list(known) if given is None else given.split(",")
    for name in names:
        if name not in known:
            raise click.ClickException(
                f"--{option}: the plan has no {name!r}. Allowed: {', '.join(known)}."
            )
    return names


def _recorded(experiment: Experiment, file: Path) -> Path | None:
    """A record of these settings: the run's own, or one of another plan."""
    for record in (file, *sorted(RESULTS.rglob("seed_*.json"))):
        if record.exists() and _is_of(experiment, runs.read(record)):
            return record
    return None


def _records(
    plan: Plan, folder: Path, stream: str
) -> tuple[dict[str, list[Path]], dict[str, list[int]]]:
    """Files of a stream's records by variant, and the seeds of those that are of other settings."""
    records: dict[str, list[Path]] = {variant: [] for variant in plan.variants}
    others: dict[str, list[int]] = {}
    wanted = runs_of(plan, [stream], list(plan.variants))
    there = [planned for planned in wanted if planned.record(folder).exists()]
    experiments = runs.experiments_of(planned.params for planned in there)
    for planned, experiment in zip(there, experiments, strict=True):
        file = planned.record(folder)
        if _is_of(experiment, runs.read(file)):
            records[planned.variant].append(file)
        else:
            others.setdefault(planned.variant, []).append(planned.seed)
    return records, others


def _is_of(experiment: Experiment, record: Mapping[str, Any]) -> bool:
    """Whether a record is of the experiment's settings and images.

    Settings that it does not name are at their defaults.
    """
    there = record["configuration"]
    if any(there.get(key) != getattr(experiment, key) for key in ("benchmark", "method", "seed")):
        return False
    learner = without_retired({**there[experiment.method], "classifier": there["classifier"]})
    own = experiment.identity()
    now = {"name": experiment.method, "classifier": own["classifier"], **own[experiment.method]}
    try:
        stream = StreamConfig.model_validate(moved(there["stream"], experiment.stream.source))
        known = type(experiment.learner).model_validate(learner).model_dump(mode="json")
        same = (
            stream == experiment.stream
            and what_counts(known) == what_counts(now)
            and there.get("precision", "float32") == experiment.precision
            and not unlike({"space": there.get("space")}, {"space": own.get("space")})
        )
    except ValidationError:  # of a key that there is no more
        return False
    return same and runs.of_same_images(experiment, record.get("images"))


if __name__ == "__main__":
    main()
