"""What the states of all tasks tell of their training images: numbers, tables, nearest pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gppdm_pipeline.evaluation.figures import SMALL, WIDTH, montage, new_figure, show, wrapped
from gppdm_pipeline.evaluation.membership import pooled_attack, strongest
from gppdm_pipeline.evaluation.memorisation import in_all
from gppdm_pipeline.evaluation.page import Table
from gppdm_pipeline.evaluation.pictures import Picture
from gppdm_pipeline.images.labelled import LabelledImages

Record = Mapping[str, Any]


def leakage_of(tasks: Sequence[Record], names: Sequence[str]) -> dict[str, Any]:
    """All tasks together, by the names of classes, as plain JSON values.

    Args:
        tasks: what each task's state tells; nothing of a task that was not measured.
        names: of the classes, by label.

    Returns:
        `membership` and `memorisation`, in all and by class; `tasks_not_measured`, from 1.
    """
    return {
        "membership": _membership(tasks, names),
        "memorisation": _memorisation(tasks, names),
        "tasks_not_measured": [t for t, task in enumerate(tasks, 1) if not task],
    }


def leakage_tables(found: Record) -> list[Table]:
    """What `leakage_of` gives, as tables of a page."""
    return [*_attacks(found), *_copies(found)]


def nearest_pairs_picture(pairs: Mapping[str, LabelledImages]) -> Picture:
    """Drawn images beside the real ones that they are nearest to, a class to a row.

    Args:
        pairs: by class (at least one), drawn images each followed by a real one.
    """
    names, images = list(pairs), [each.images for each in pairs.values()]
    columns = max(map(len, images))
    height, width, channels = images[0].shape[1:]
    figure = new_figure(WIDTH, 0.75 * len(names) * height / width + 0.4)
    axes = figure.add_subplot()
    canvas = montage(images, columns, (height, width, channels))
    show(axes, canvas)
    places = np.linspace(height / 2, len(canvas) - height / 2, len(names))
    axes.set_yticks(places, [wrapped(name) for name in names], fontsize=SMALL, parse_math=False)
    return Picture(figure, [{"class": name, "pairs": len(pairs[name]) // 2} for name in names])


def _membership(tasks: Sequence[Record], names: Sequence[str]) -> dict[str, Any]:
    """The strongest attack, in all and by class; and each one."""
    made = [task["membership"] for task in tasks if task]
    attacks: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for task in made for name in task):
        parts = [task[name] for task in made if name in task]
        attacks[name] = {
            "all": pooled_attack([part["scores"] for part in parts]),
            "classes": {names[int(k)]: v for part in parts for k, v in part["classes"].items()},
        }
    best = strongest({name: each["all"] for name, each in attacks.items()})
    chosen = attacks[best] if best else {"all": None, "classes": {}}
    return {"attack": best, **chosen, "attacks": attacks}


def _memorisation(tasks: Sequence[Record], names: Sequence[str]) -> dict[str, Any]:
    """The copying tests by space, in all and by class."""
    made = [task["memorisation"] for task in tasks if "memorisation" in task]
    spaces: dict[str, Any] = {}
    for space in dict.fromkeys(space for task in made for space in task):
        classes = {names[int(k)]: v for task in made for k, v in task[space].items()}
        spaces[space] = {"all": in_all(classes), "classes": classes}
    return spaces


def _attacks(found: Record) -> list[Table]:
    head = ["attack", "class", "AUC", "95 % interval", "found at 1 % false, %", "images"]
    rows = []
    for name, each in found["membership"]["attacks"].items():
        for label, attack in {"all": each["all"], **each["classes"]}.items():
            if attack:
                rows.append(
                    [
                        name,
                        label,
                        f"{attack['auc']:.3f}",
                        f"{attack['auc_low']:.3f} to {attack['auc_high']:.3f}",
                        f"{100 * attack['tpr_at_1_percent']:.1f}",
                        f"{attack['members']} and {attack['others']}",
                    ]
                )
    note = (
        "How well someone who has a task's state tells the images that it was learnt from from "
        "images that it was not. An AUC of 0.5 tells nothing, 1 everything. At 1 % false: how many "
        "training images are found while one in a hundred others is accused wrongly; 1 % tells "
        "nothing."
    )
    return [Table("Membership", head, rows, note)] if rows else []


def _copies(found: Record) -> list[Table]:
    head = ["space", "class", "copied, %", "held-out, %", "copying, z", "authentic, %"]
    rows = []
    for space, each in found["memorisation"].items():
        for label, tests in {"all": each["all"], **each["classes"]}.items():
            if tests:
                shares = (tests[name] for name in ("copied", "copied_of_held_out"))
                rows.append(
                    [
                        space,
                        label,
                        *(f"{100 * share:.1f}" for share in shares),
                        f"{tests['copying']:.1f}",
                        f"{100 * tests['authentic']:.0f}",
                    ]
                )
    note = (
        "Whether drawn images are copies of training images. Copied: so much nearer to one than to "
        "the next that it is taken for a copy; beside it, how many held-out real images would be. "
        "z: below -3, drawn images are nearer to training images than held-out ones are. "
        "Authentic: not nearer to a training image than that one is to another."
    )
    return [Table("Memorisation", head, rows, note)] if rows else []
