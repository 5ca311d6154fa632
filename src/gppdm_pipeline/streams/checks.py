"""What is wrong with a stream's configuration, told by name and with what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Literal

from gppdm_pipeline.streams.names import repeated_names, unknown_names
from gppdm_pipeline.streams.repetition import RepetitionConfig, most_new_classes
from gppdm_pipeline.streams.sources import Reader
from gppdm_pipeline.wording import listed

First = int | Literal["half"] | None


def check_order(
    order: Sequence[str], names: Sequence[str], words: Sequence[str] = (), may_lack: bool = False
) -> None:
    """Whether each class is named once.

    Args:
        order: what is written.
        names: of all classes.
        words: what may be written instead.
        may_lack: whether classes may be missing.

    Raises:
        ValueError: naming what is unknown (with the nearest right spelling), repeated or missing.
    """
    near = unknown_names(order, [*names, *words])
    repeated = repeated_names(order)
    missing = [] if may_lack else [name for name in names if name not in order]
    faults = near + [
        f"{fault} {listed(found)}"
        for fault, found in (("repeated", repeated), ("missing", missing))
        if found
    ]
    if faults:
        instead = "".join(f'"{word}", ' for word in words) + ("or " if words else "")
        raise ValueError(
            f"must be {instead}name each of the {len(names)} classes once: " + "; ".join(faults)
        )


def check_tasks(
    tasks: Sequence[Sequence[str]], names: Sequence[str], may_lack: bool, may_return: bool
) -> None:
    """Whether tasks bring classes that there are, and as often as they may.

    Args:
        tasks: the names of each task's classes.
        names: of all classes.
        may_lack: whether classes that no task brings are left out.
        may_return: whether a class may be in several tasks.

    Raises:
        ValueError: naming what is unknown (with the nearest right spelling), repeated or missing.
    """
    faults = unknown_names(chain(*tasks), names)
    tasks_of: dict[str, list[str]] = {}
    for number, task in enumerate(tasks, start=1):
        if not task:
            faults.append(f"task {number} has no class")
        if repeated := repeated_names(task):
            faults.append(f"task {number} names {listed(repeated)} twice")
        for name in dict.fromkeys(task):
            tasks_of.setdefault(name, []).append(str(number))
    for name, numbers in tasks_of.items():
        if len(numbers) > 1 and not may_return:
            faults.append(
                f"{name!r} is in the tasks {', '.join(numbers)}, and a class may come back only if "
                "stream.returning_images says how its images are dealt out: divide, or a number"
            )
    missing = [name for name in names if name not in tasks_of]
    if missing and not may_lack:
        faults.append(
            f"no task brings {listed(missing)}: add them, or leave them out with "
            "stream.unlisted=leave_out"
        )
    if faults:
        raise ValueError("must be lists of the source's class names: " + "; ".join(faults))


def number_first(first: First, classes: int) -> int:
    """How many classes come in a first task of its own; 0: there is none."""
    return classes // 2 if first == "half" else first or 0


def sizes(value: int | tuple[int, ...], first: First, classes: int) -> tuple[int, ...]:
    """The number of classes of each task."""
    before = number_first(first, classes)
    after = value if isinstance(value, tuple) else (value,) * ((classes - before) // value)
    return (before, *after) if before else after


def check_sizes(value: int | tuple[int, ...], first: First, classes: int, may_lack: bool) -> None:
    """Whether tasks of these sizes use up the classes.

    Args:
        value: of every task, or of each.
        first: of a task before them.
        classes: how many there are.
        may_lack: whether some may be left over.

    Raises:
        ValueError: if they do not.
    """
    if first == "half" and classes % 2:
        raise ValueError(f"{classes} classes have no half: set first_classes to a number")
    left = classes - number_first(first, classes)
    which = f"{classes} classes" if left == classes else f"{left} classes behind first_classes"
    if left < 1:
        raise ValueError(f"first_classes is {first}, and no class of {classes} is left behind them")
    if isinstance(value, int):
        if left < value or (left % value and not may_lack):
            divisors = ", ".join(str(d) for d in range(1, left + 1) if left % d == 0)
            raise ValueError(
                f"{value} classes a task do not divide the source's {which}: use one of "
                f"{divisors}, or a list of numbers that sum to {left}"
            )
    elif sum(value) > left or (sum(value) < left and not may_lack):
        otherwise = ", or set stream.unlisted=leave_out" if sum(value) < left else ""
        raise ValueError(
            f"{list(value)} sum to {sum(value)}, but the source has {which}: "
            f"use numbers that sum to {left}{otherwise}"
        )


def check_repetition(
    config: RepetitionConfig, names: Sequence[str], classes: int, deals: bool
) -> None:
    """Whether a stream with repetition can be made of these classes.

    Args:
        config: of the stream.
        names: of the source's classes.
        classes: how many of them come.
        deals: whether it is said how the images of a class that comes back are dealt out.

    Raises:
        ValueError: naming the setting.
    """
    if not deals:
        raise ValueError(
            "lets classes come back: say in stream.returning_images how their images are dealt "
            "out, divide or a number"
        )
    if isinstance(config.probability, dict):
        if faults := unknown_names(config.probability, names):
            raise ValueError("probability must be by the names of classes: " + "; ".join(faults))
    least, most = most_new_classes(config.experiences, classes), config.classes_per_experience
    if most is not None and most < least:
        raise ValueError(
            f"classes_per_experience is {most}, but {classes} classes in {config.experiences} "
            f"experiences are up to {least} new ones in one: set it to {least} at least"
        )


def check_batches(source: Reader) -> None:
    """Whether the source may say which images a task has.

    Raises:
        ValueError: if it lists no batches.
    """
    if type(source).batches is Reader.batches:
        raise ValueError(
            f"must be unset: reader {getattr(source, 'reader', '')} lists no training batches; "
            "use classes_per_task, tasks or repetition"
        )
