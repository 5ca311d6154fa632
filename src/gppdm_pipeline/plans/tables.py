"""Tables and pictures of a plan's records, written into the results' page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np

from gppdm_pipeline.algorithm.disk.writing import replace_file
from gppdm_pipeline.evaluation.pictures import Picture
from gppdm_pipeline.plans.markdown import (
    as_markdown,
    differences_as_markdown,
    replay_as_markdown,
)
from gppdm_pipeline.plans.record_pictures import (
    Strip,
    accuracy_against_cost_picture,
    first_classes_picture,
)
from gppdm_pipeline.plans.records import Record

TABLES = Path("docs/results.md")


def section(
    folder: Path,
    stream: str,
    files: Mapping[str, Sequence[Path]],
    others: Mapping[str, Sequence[int]],
    baseline: str,
    pictured_seed: int,
    slopes: bool,
) -> str:
    """Tables and pictures of a stream, as Markdown; the pictures are written.

    Args:
        folder: of the plan's records.
        stream: its name.
        files: the records of each variant, the baseline's among them.
        others: by variant, the seeds whose records are of other settings, and left out.
        baseline: what differences are taken to.
        pictured_seed: the seed whose replayed images are kept.
        slopes: as of `as_markdown`.
    """
    records = _read(files)
    strips = _strips(files, pictured_seed)
    image_bytes = next((math.prod(strip.shape[-3:]) for strip in strips.values()), None)
    table = as_markdown(records, baseline, image_bytes, slopes)
    parts = [f"**{stream}**", table, replay_as_markdown(records)]
    if others:
        left = "; ".join(f"{name} {', '.join(map(str, seeds))}" for name, seeds in others.items())
        parts.append(f"Left out, since they were made with other settings (seeds): {left}.")
    if any(records.values()):
        title = f"{folder.name}, {stream}: accuracy against cost"
        picture = accuracy_against_cost_picture(records, title)
        parts.append(_shown(picture, f"{folder.name}_{stream}_cost", title))
    if strips:
        title = f"{folder.name}, {stream}: replay of the first two classes after each task"
        picture = first_classes_picture(strips, f"{title} (seed {pictured_seed})")
        parts.append(_shown(picture, f"{folder.name}_{stream}_replay", title))
    return "\n".join(part.strip() + "\n" for part in parts if part)


def differences(
    streams: Mapping[str, Mapping[str, Sequence[Path]]], pairs: Sequence[tuple[str, str]]
) -> str:
    """The table of differences between variants, as Markdown; nothing without a pair.

    Args:
        streams: by name, the files of the records of each variant.
        pairs: of variants: the second is subtracted from the first.
    """
    if not pairs:
        return ""
    read = {stream: _read(files) for stream, files in streams.items()}
    return f"**Differences of average accuracy**\n\n{differences_as_markdown(read, pairs)}\n"


def write_between(file: Path, name: str, text: str) -> None:
    """Replace what stands in `file` between the marks of `name`.

    Raises:
        click.ClickException: if the marks are not there.
    """
    begin, end = f"<!-- {name}: made by the plan -->\n", f"<!-- end of {name} -->"
    before, found, rest = file.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise click.ClickException(f"{file} has no lines {begin.strip()!r} and {end!r}")
    replace_file(file, f"{before}{begin}\n{text}\n{end}{after}".encode())


def _read(files: Mapping[str, Sequence[Path]]) -> dict[str, list[Record]]:
    return {name: [json.loads(file.read_text()) for file in found] for name, found in files.items()}


def _shown(picture: Picture, name: str, title: str) -> str:
    """Write the picture beside the tables; returns the Markdown that shows it."""
    file = TABLES.parent / "images" / "plans" / f"{name}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, picture.rendered("png"))
    return f"![{title}]({file.relative_to(TABLES.parent)})\n"


def _strips(files: Mapping[str, Sequence[Path]], seed: int) -> dict[str, Strip]:
    """The images that are kept beside the records of one seed, by variant."""
    beside = {
        name: file.with_suffix(".npz")
        for name, found in files.items()
        for file in found
        if file.stem == f"seed_{seed}"
    }
    strips: dict[str, Strip] = {}
    for name, file in beside.items():
        if file.exists():
            with np.load(file, allow_pickle=False) as arrays:
                strips[name] = arrays["replay"]
    return strips
