"""Folders on the way down from the one that the user named, and the classes in one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

from gppdm_pipeline.streams.errors import SourceError, printable, source_error
from gppdm_pipeline.streams.folders.entries import (
    Glance,
    Skipped,
    entries,
    glance,
    identity,
    is_folder,
    is_image,
)
from gppdm_pipeline.streams.folders.names import (
    composed,
    is_part,
    is_portion,
    is_split,
    is_text,
    shown_list,
)
from gppdm_pipeline.wording import listed

ClassFolders = Literal["outermost", "innermost"]
Classes = dict[str, tuple[str, ...]]
"""The folders of each class below a split's, by the class's name, in alphabetical order."""


@dataclass(frozen=True)
class Place:
    """A folder on the way down.

    Attributes:
        path: where it is.
        above: the identities of the folders above, to which a link may lead back.
        hollow: whether there is no image at all, so that every folder counts as if it had some.
    """

    path: Path
    above: frozenset[tuple[int, int]] = frozenset()
    hollow: bool = False

    def inside(self, name: str) -> Place:
        """A folder in it."""
        return Place(self.path / name, self.above | {identity(self.path)}, self.hollow)

    def look(self) -> Glance:
        """What it holds, as it was when it was looked at first."""
        return self._glance

    @cached_property
    def _glance(self) -> Glance:
        found = glance(self.path, self.above)
        return replace(found, full=found.empty, empty=()) if self.hollow else found

    def has_images(self) -> bool:
        """Whether an image lies in it directly."""
        found = entries(self.path, Skipped())
        return any(is_image(entry) for entry in found if not is_folder(entry))

    def down(self) -> Iterator[Place]:
        """It, and the folders below as long as there is one only, up to one with images."""
        here = self
        yield here
        while len(full := here.look().full) == 1 and (here is self or not here.has_images()):
            here = here.inside(full[0])
            yield here


def unwrapped(place: Place, *, to_splits: bool) -> Place | None:
    """The folder that holds the classes' folders (or the splits'), under wrappers such as images/.

    Args:
        place: where to begin.
        to_splits: stop above a folder that is a split by its name.

    Returns:
        None if images lie there without a folder that could be a class.
    """
    chain = list(place.down())
    for above, here in pairwise(chain):
        if to_splits and is_split(here.path.name):
            return above
    last = chain[-1]
    wraps = last is place or not last.has_images() or _says_nothing(last.path)
    if len(last.look().full) > 1 and wraps:
        return last
    for above, here in pairwise(chain):
        if not _says_nothing(here.path):
            return above  # one class
    return None


def _says_nothing(folder: Path) -> bool:
    """Whether the name is of no class: a part's, a split's, or that of the folder above again."""
    name = folder.name
    return is_part(name) or is_split(name) or name == folder.parent.name


def find_classes(place: Place, which: ClassFolders | None, *, lenient: bool) -> Classes:
    """The classes whose folders lie in one.

    Args:
        place: the folder that holds them.
        which: of folders that hold folders, whether these or those are classes; None asks.
        lenient: take any folder for a class, as those that are meant are named elsewhere.

    Raises:
        SourceError: if it cannot be told, and `lenient` does not say that it need not.
    """
    found = place.look()
    nested = {name: inner for name in found.full if (inner := _inner(place.inside(name)))}
    indexed = len(nested) == len(found.full) and all(
        len(name) == 1 and all(each.casefold().startswith(name.casefold()) for each in inner)
        for name, inner in nested.items()
    )
    if not lenient:
        _check_names(place.path, found)
        if nested and not indexed and which is None and not _alike(nested):
            raise _nested(place.path, found, nested)
        _check_single(place, found, which)
    folders = {name: name for name in found.folders if is_text(name)}
    if which == "innermost" or (nested and indexed and which is None):
        for name in nested:
            for path in _innermost(place.inside(name), f"{name}/"):
                folders[path] = path.partition("/")[2] if indexed else path
            del folders[name]
    classes: dict[str, list[str]] = {}
    for folder in sorted(folders):
        classes.setdefault(composed(folders[folder]), []).append(folder)
    return {name: tuple(classes[name]) for name in sorted(classes)}


def _alike(nested: dict[str, tuple[str, ...]]) -> bool:
    """Whether several classes have parts that are called the same, as cat/2020 and dog/2020."""
    counts = Counter(name for inner in nested.values() for name in inner)
    return min(counts.values()) > 1 and all(map(is_portion, counts))


def _inner(place: Place) -> tuple[str, ...]:
    """The folders in one that has no image itself; images/ alone, with images, does not count."""
    if place.has_images():
        return ()
    full = place.look().full
    own = len(full) == 1 and is_part(full[0]) and place.inside(full[0]).has_images()
    return () if own else full


def _innermost(place: Place, path: str) -> Iterator[str]:
    for name in _inner(place):
        if _inner(place.inside(name)):
            yield from _innermost(place.inside(name), f"{path}{name}/")
        else:
            yield f"{path}{name}"


def _line(name: str) -> str:
    return printable(name).replace("\n", "\\n")


def _check_names(folder: Path, found: Glance) -> None:
    strange = [name for name in found.folders if not is_text(name)]
    if strange:
        raise source_error(
            folder,
            f"the folder {_line(strange[0])}",
            "names in UTF-8 without control characters",
            "Rename it (`convmv -r -f latin1 -t utf-8` where that is its encoding), or name the "
            "classes to use in class_names.",
        )
    parts = [name for name in found.full if is_part(name)]
    splits = [name for name in found.full if is_split(name)]
    if parts or splits:
        raise source_error(
            folder,
            f"the folders {listed(found.folders)}",
            "a folder of images for each class, or these below train/",
            f"{shown_list(parts or splits)} is no class by its name: set `folder` to where the "
            "classes' folders are, or name the classes in class_names.",
        )


def _check_single(place: Place, found: Glance, which: ClassFolders | None) -> None:
    """Whether the only folder is a class, and no folder of classes with an image among them."""
    inner = place.inside(found.full[0]).look().full if len(found.full) == 1 else ()
    if which is None and any(not is_part(name) for name in inner):
        raise source_error(
            place.path,
            f"{shown_list(found.full)} alone, with images and the folders {listed(inner, 4)}",
            "a folder of images for each class",
            "Set `folder` to it if its folders are the classes, or class_folders to outermost if "
            "it is one class.",
        )


def _nested(folder: Path, found: Glance, nested: dict[str, tuple[str, ...]]) -> SourceError:
    name, inner = next(iter(nested.items()))
    held = f"{shown_list([name])}, which holds no image but the folders {listed(inner, 4)}"
    if all(is_split(each) for each in inner):
        repair = (
            f"Put splits above classes, such as train/{name}; if {name} is a data set of its own, "
            "set `folder` to it."
        )
    elif set(inner) & set(found.folders) - {name}:
        repair = f"Its folders have the names of those beside it: remove {name}, or move it away."
    else:
        repair = (
            "Set class_folders to outermost if it is one class, to innermost if its folders are "
            "classes, or name the classes in class_names; if the outer folders are splits, call "
            "them train and test; if each is a data set, set `folder` to one."
        )
    return source_error(folder, held, "a folder of images for each class", repair)
