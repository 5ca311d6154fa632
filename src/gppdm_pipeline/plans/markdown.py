"""Tables of records, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev

from gppdm_pipeline.plans.records import (
    Record,
    by_seed,
    cost_of,
    distance_slope,
    first_labels,
    known_distance,
    on_gpu,
    paired,
)


def as_markdown(
    records: Mapping[str, Sequence[Record]],
    baseline: str,
    image_bytes: int | None = None,
    slopes: bool = False,
) -> str:
    """A table of variants, one a row, without the columns that no record has.

    Accuracies and forgetting are means ± standard deviations over seeds; differences are those of
    `paired`. Seconds are the least of the seeds, since other work only adds to them.

    Args:
        records: of each variant, in any order of the seeds; none for one that was not run.
        baseline: the name of a variant.
        image_bytes: the bytes of one image of the stream. With it, a column says how many images
            of each class take as many bytes as the state.
        slopes: whether a column says how much Frechet distance replay gains per generation, in mean
            and standard deviation (`distance_slope`).
    """
    columns: dict[str, Callable[[Sequence[Record]], str]] = {
        "average accuracy, %": lambda found: _spread(found, "average_accuracy"),
        f"difference to {baseline}": lambda found: paired(found, records[baseline]),
        "incremental, %": lambda found: _spread(found, "average_incremental_accuracy"),
        "forgetting, %": lambda found: _spread(found, "forgetting"),
        **({"distance per generation": _slopes} if slopes else {}),
        "change of old keys and values": _change,
        "CPU seconds": _cpu_seconds,
        "GPU seconds": lambda found: _least([run for run in found if on_gpu(run)]),
        "state, MB": lambda found: _number(max(run["state_bytes"][-1] for run in found) / 1e6),
    }
    if image_bytes is not None:
        columns["state as raw images per class"] = lambda found: _images(found, image_bytes)
    cells = {
        variant: {name: of(found) for name, of in columns.items()}
        for variant, found in records.items()
        if found
    }
    if baseline in cells:
        cells[baseline][f"difference to {baseline}"] = ""
    names = [name for name in columns if any(row[name] for row in cells.values())]
    lines = [_row(["variant", "seeds", *names]), _row(["---"] + ["---:"] * (len(names) + 1))]
    for variant, found in records.items():
        seeds = ", ".join(str(seed) for seed in sorted(by_seed(found))) or "not run"
        row = cells.get(variant, {})
        lines.append(_row([variant, seeds, *(row.get(name, "") for name in names)]))
    return "\n".join(lines) + "\n"


def differences_as_markdown(
    streams: Mapping[str, Mapping[str, Sequence[Record]]], pairs: Sequence[tuple[str, str]]
) -> str:
    """A table of `paired` differences: one row for each pair of variants, one column a stream.

    Args:
        streams: by name, the records of each variant.
        pairs: of variants: the second is subtracted from the first.
    """
    lines = [_row(["difference", *streams]), _row(["---"] + ["---:"] * len(streams))]
    for one, other in pairs:
        cells = [paired(records[one], records[other]) for records in streams.values()]
        lines.append(_row([f"{one} less {other}", *cells]))
    return "\n".join(lines) + "\n"


def replay_as_markdown(records: Mapping[str, Sequence[Record]]) -> str:
    """A table of the quality of the first two classes' replay after every task.

    A cell has the share that the oracle takes for its class, in per cent, and the Frechet distance
    to real test images in the features of the first extractor asked for; both are means of the two
    classes and of all seeds whose records have them. The last row is what as many real training
    images reach.

    Args:
        records: of each variant.

    Returns:
        The table, or nothing where no record has the quality of replay.
    """
    rows = {
        variant: [run for run in found if "replay_quality" in run]
        for variant, found in records.items()
    }
    measured = [run for found in rows.values() for run in found]
    tasks = max((len(run["replay_quality"]["after_task"]) for run in measured), default=0)
    if not tasks:
        return ""
    names = ["replay of the first two classes: agreement, distance after task"]
    lines = [_row(names + [str(t + 1) for t in range(tasks)]), _row(["---"] + ["---:"] * tasks)]
    for variant, found in rows.items():
        if found:
            lines.append(_row([variant, *_means([_first_classes(run) for run in found])]))
    floor = _means([_first_classes(run, of_real_images=True) for run in measured])
    lines.append(_row(["real training images", *floor]))
    return "\n".join(lines) + "\n"


def _slopes(found: Sequence[Record]) -> str:
    known = [distance_slope(run) for run in found if "replay_quality" in run]
    known = [slope for slope in known if not math.isnan(slope)]
    if not known:
        return ""
    return f"{fmean(known):+.2f}" + (f" ± {stdev(known):.2f}" if len(known) > 1 else "")


def _first_classes(record: Record, *, of_real_images: bool = False) -> list[tuple[float, float]]:
    """The oracle's agreement in per cent and the Frechet distance, after each task."""
    quality = record["replay_quality"]
    extractor = quality["settings"]["extractors"][0]
    found = []
    for after in quality["after_task"]:
        measured = quality["reference"] if of_real_images else after
        first = [measured[label] for label in first_labels(record) if label in after]
        share = fmean(100 * each["oracle_agreement"] for each in first)
        found.append(
            (share, fmean(known_distance(each["frechet_distance"][extractor]) for each in first))
        )
    return found


def _means(runs: Sequence[Sequence[tuple[float, float]]]) -> list[str]:
    """For each task, the means over runs."""
    return [
        f"{fmean(share for share, _ in after):.0f} %, {fmean(d for _, d in after):.1f}"
        for after in zip(*runs, strict=True)
    ]


def _change(found: Sequence[Record]) -> str:
    """The largest relative change of an old class's keys and values, of all layers and tasks."""
    changes = [
        value
        for record in found
        for metrics in record["stages"].values()
        for name, value in metrics.items()
        if name.startswith(("key_drift/", "value_drift/"))
    ]
    return _number(max(changes)) if changes else ""


def _cpu_seconds(found: Sequence[Record]) -> str:
    """The least; older records have the clock's alone, which are at least those of one thread."""
    on_cpu = [run for run in found if not on_gpu(run)]
    known = [run for run in on_cpu if "cpu_seconds" in run]
    return _least(known) or (f"≤ {_least(on_cpu)}" if on_cpu else "")


def _least(found: Sequence[Record]) -> str:
    return f"{min(map(cost_of, found)):.0f}" if found else ""


def _images(found: Sequence[Record], image_bytes: int) -> str:
    """How many images of each class take as many bytes as the largest state."""
    most = max(found, key=lambda record: record["state_bytes"][-1])
    return str(most["state_bytes"][-1] // (image_bytes * len(most["per_class_accuracy"])))


def _spread(found: Sequence[Record], measure: str) -> str:
    """Mean and standard deviation of a share, in per cent."""
    known = [100 * record[measure] for record in found if record[measure] is not None]
    if not known:
        return ""
    return f"{fmean(known):.1f}" + (f" ± {stdev(known):.1f}" if len(known) > 1 else "")


def _number(value: float) -> str:
    return f"{value:.1f}" if value == 0 or abs(value) >= 0.05 else f"{value:.0e}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
