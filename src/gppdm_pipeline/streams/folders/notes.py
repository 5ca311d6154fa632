"""What may be another than it seems in the names of classes, in sentences."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable

from gppdm_pipeline.streams.folders.names import likeness
from gppdm_pipeline.streams.folders.places import Classes, Place
from gppdm_pipeline.wording import listed


def notes_on_classes(place: Place, classes: Classes) -> list[str]:
    """What is unusual of the classes that were found.

    Args:
        place: the folder that holds theirs.
        classes: what was found there.
    """
    notes = []
    if len(classes) == 1:
        notes.append(f"There is one class only, {next(iter(classes))}.")
    by_case = _alike(classes, str.casefold)
    notes += [
        f"The classes {listed(alike)} differ in the case of letters only." for alike in by_case
    ]
    notes += [
        f"The classes {listed(alike)} look the same: they differ in blanks or signs of other codes."
        for alike in _alike(classes, likeness)
        if alike not in by_case
    ]
    notes += [
        f"Two folders are {name}, in two ways to write its accents: they are read as one class."
        for name, folders in classes.items()
        if len(folders) > 1
    ]
    if place.has_images():
        notes.append(f"Images that lie in {place.path.name}/ itself are of no class: left out.")
    return notes


def notes_on_masks(paths: Iterable[str]) -> list[str]:
    """Whether images are called as if they were masks of others, as 1_mask.png beside 1.png."""
    stems = {os.path.splitext(path)[0] for path in paths}
    masks = [re.fullmatch(r"(.+)[ _-]mask(?:_\d+)?", stem) for stem in stems]
    count = sum(found is not None and found[1] in stems for found in masks)
    if not count:
        return []
    return [
        f"By their names, {count} images are masks of others (1_mask beside 1): they are read as "
        "images of the class. Move them away if they are none."
    ]


def _alike(names: Iterable[str], key: Callable[[str], str]) -> list[list[str]]:
    """Names for which the key is the same, several in each list."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]
