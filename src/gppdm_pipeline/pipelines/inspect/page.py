"""An inspection as a page that is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gppdm_pipeline.configuration.budget import Fit

_MOST_NAMES, _MOST_FAULTS = 12, 5  # on the console


def as_markdown(record: Mapping[str, Any], picture: str | None = None) -> str:
    """The page.

    Args:
        record: what `describe` makes.
        picture: the file beside the page; None leaves it out, and long lists short, as for the
            console.
    """
    tasks = record["tasks"]
    classes = {each["name"] for task in tasks for each in task["classes"]}
    height, width, channels = record["image_shape"]
    colours = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    lines = [
        f"# What will be learned: {record['benchmark']}",
        "",
        f"{_counted(len(classes), 'class')} in {_counted(len(tasks), 'task')}, images of "
        f"{height} x {width} ({colours}){_space(record)}, seed {record['seed']}.",
        "",
        *([record["space_choice"], ""] if "space_choice" in record else []),
        "| task | classes (training images) | train | validation | test |",
        "|---:|---|---:|---:|---:|",
    ]
    for task in tasks:
        numbers = " | ".join(str(task[part]) for part in ("train", "validation", "test"))
        lines.append(
            f"| {task['task']} | {_classes(task, None if picture else _MOST_NAMES)} | {numbers} |"
        )
    if any(not each["new"] for task in tasks for each in task["classes"]):
        lines += ["", "*In italics: classes that come back; their test images came before.*"]
    if record["left_out"]:
        lines += ["", f"Left out of the stream: {', '.join(record['left_out'])}."]
    if record["notes"]:
        lines += ["", "## What was found", "", *(f"- {note}" for note in record["notes"])]
    if picture:
        lines += ["", f"![The first training images of each class]({picture})"]
    lines += ["", "## To look at", "", *_faults(record, None if picture else _MOST_FAULTS)]
    lines += ["", *_costs(record)]
    return "\n".join(lines) + "\n"


def _space(record: Mapping[str, Any]) -> str:
    return f", learnt in {record['space']['name']}" if "space" in record else ""


def _classes(task: Mapping[str, Any], most: int | None) -> str:
    shown = task["classes"][:most]
    names = [
        f"{each['name']} ({each['train']})"
        if each["new"]
        else f"*{each['name']}* ({each['train']})"
        for each in shown
    ]
    more = len(task["classes"]) - len(shown)
    return ", ".join(names).replace("|", "\\|") + (f" and {more} more" if more else "")


def _faults(record: Mapping[str, Any], most: int | None) -> list[str]:
    found = record["duplicates"]
    lines = []
    copies = {
        "training images are copies of another one": found["within_train"],
        "test images are copies of another one": found["within_test"],
        "test images are copies of a training image, so that the accuracy on them tells nothing": (
            found["across"]
        ),
        "groups of equal images have more than one label": found["of_other_classes"],
    }
    lines += [f"- {count} {what}." for what, count in copies.items() if count]
    lines += [f"  - the same image, {_places(each)}" for each in found["examples"][:most]]
    near = record["near_copies"]
    if near["across"]:
        lines.append(
            f"- {near['across']} test images look like a training image, as if scaled or encoded "
            "anew: thumbnails, or one picture saved twice?"
        )
    lines += [f"  - images that look alike, {_places(each)}" for each in near["examples"][:most]]
    small = [
        f"- Task {each['task']}: {each['name']} has {_counted(each['images'], 'image')} "
        f"{'to learn from' if each['part'] == 'train' else 'to be tested on'}."
        for each in record["small"]
    ]
    lines += small[:most]
    if most is not None and len(small) > most:
        lines.append(f"- {len(small) - most} more classes are as small.")
    limits = (
        f"fewer than {record['small_train']} training images in a task or {record['small_test']} "
        "test images"
    )
    return lines or [
        "Nothing: no image is there twice, no test image looks like a training image, and no class "
        f"has {limits}."
    ]


def _places(example: Mapping[str, Any]) -> str:
    """Whose images, and where in their split."""
    parts = [(part, ", ".join(map(str, example[part]))) for part in ("train", "test")]
    kept = "; ".join(f"{part} {places}" for part, places in parts if places)
    return f"of {', '.join(example['classes'])}: {kept}"


def _costs(record: Mapping[str, Any]) -> list[str]:
    estimate = record["estimate"]
    seconds, size = estimate["seconds"], estimate["bytes"]
    by_stage = ", ".join(
        f"{stage} {_duration(value)}" for stage, value in seconds.items() if stage != "total"
    )
    by_kind = ", ".join(f"{kind} {_size(value)}" for kind, value in size.items() if kind != "total")
    budget = record["budget"]
    return [
        f"## About what {record['method']} takes ({estimate['device']})",
        "",
        f"- time: {_duration(seconds['total'])} ({by_stage})",
        *([f"- {Fit.model_validate(budget).told()}"] if budget else []),
        f"- disk: at most {_size(size['total'])} ({by_kind})",
        "",
        "From a few steps of each training at the true shapes, multiplied. Whatever else runs on "
        "the machine is not known here.",
    ]


def _counted(number: int, thing: str) -> str:
    plural = f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{number} {thing if number == 1 else plural}"


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _size(number: float) -> str:
    for unit, length in (("GB", 1e9), ("MB", 1e6)):
        if number >= length:
            return f"{number / length:.1f} {unit}"
    return f"{number / 1e3:.0f} kB"
