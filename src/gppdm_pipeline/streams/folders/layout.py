"""Which folders are splits and which are classes, told rather than guessed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gppdm_pipeline.streams.errors import SourceError, source_error
from gppdm_pipeline.streams.folders.entries import Skipped, glance, images_below
from gppdm_pipeline.streams.folders.names import Kind, is_part, is_split, shown_list, split_of
from gppdm_pipeline.streams.folders.notes import notes_on_classes
from gppdm_pipeline.streams.folders.places import (
    Classes,
    ClassFolders,
    Place,
    find_classes,
    unwrapped,
)
from gppdm_pipeline.streams.folders.word_net import shown_names
from gppdm_pipeline.wording import listed

ANNOTATIONS = "val/val_annotations.txt"
_EXPECTED = "a folder of images for each class, or these below train/"


@dataclass(frozen=True)
class Split:
    """One split's folders.

    Attributes:
        place: the folder that holds those of the classes.
        classes: by the names of the training folders.
    """

    place: Place
    classes: Classes


@dataclass(frozen=True)
class Layout:
    """What a folder is found to be.

    Attributes:
        base: the folder that holds the splits, or the classes.
        train: the training images, or all of them.
        test: the test images; None where none are set apart in a folder.
        annotated: whether the test images are told by Tiny-ImageNet's annotations.
        found: a sentence that says where the images are.
        notes: sentences that say what is not used, and what may be another than it seems.
    """

    base: Path
    train: Split
    found: str
    test: Split | None = None
    annotated: bool = False
    notes: tuple[str, ...] = ()

    def names(self) -> dict[str, str]:
        """The classes by the names to show, each with its folder's name, in the data's own order.

        Raises:
            SourceError: if wnids.txt lists a folder that is not there.
        """
        return shown_names(self.base, self.train.place.path, [*self.train.classes])


def find_layout(
    folder: Path, wanted: Collection[str] = (), which: ClassFolders | None = None
) -> Layout:
    """Look at a folder of images.

    Args:
        folder: what the user named.
        wanted: names of classes, if the user gave them: they settle what is unclear else.
        which: see `find_classes`.

    Raises:
        SourceError: if there is no folder of images, or what is a class cannot be told.
    """
    found = glance(folder, frozenset())
    place = Place(folder, hollow=not found.images and not found.full)
    if wanted:
        for layout in _readings(place, which):
            if {*wanted} <= {*layout.names(), *layout.train.classes}:
                return layout
    return _inferred(place, which, lenient=False)


def _readings(place: Place, which: ClassFolders | None) -> Iterator[Layout]:
    """What the folder could be, the likeliest first."""
    try:
        yield _inferred(place, which, lenient=True)
    except SourceError:
        pass  # raised again if no other reading has the classes
    for level in place.down():
        split = Split(level, find_classes(level, "outermost", lenient=True))
        yield Layout(level.path, split, _found(level.path, place.path))


def _inferred(place: Place, which: ClassFolders | None, *, lenient: bool) -> Layout:
    base = unwrapped(place, to_splits=True)
    if base is None:
        raise _without_classes(place)
    splits = _splits(base)
    train = unwrapped(base.inside(splits["train"][0]), to_splits=False) if splits else base
    if train is None:
        raise _without_classes(base.inside(splits["train"][0]))
    split = Split(train, find_classes(train, which, lenient=lenient))
    found, notes = _found(base.path, place.path), notes_on_classes(split.place, split.classes)
    layout = Layout(base.path, split, found, notes=tuple(notes))
    return _with_tests(layout, base, splits, which) if splits else layout


def _found(base: Path, folder: Path) -> str:
    where = "" if base == folder else f" in {base.relative_to(folder)}/"
    return f"The classes' folders are{where or ' in it'}; test images are set apart of each."


def _splits(base: Place) -> dict[Kind, list[str]]:
    """The names of the splits' folders by kind; none if the folders are classes.

    Raises:
        SourceError: if there is no telling, or several folders are for training.
    """
    found, splits = base.look(), _split_names(base)
    if not splits:
        return {}
    names = [name for group in splits.values() for name in group]
    holders = {name for name in names if base.inside(name).look().full}
    trains = [name for name in splits["train"] if name in holders]
    others = [name for name in found.full if name not in names]
    beside = any(base.inside(name).has_images() for name in others)
    if not trains and not others:
        raise _without_training(base, splits)
    if not trains or (beside and not holders - {*trains}):
        raise source_error(
            base.path,
            f"the folders {listed(found.folders)}",
            _EXPECTED,
            "Set `folder` to where they are; if these are the classes, name them in class_names; "
            f"move away what is none ({shown_list(names)} by the name a split of other folders).",
        )
    if len(trains) > 1:
        raise source_error(
            base.path,
            f"training images in {shown_list(trains)}",
            "one folder of them",
            "Move the others away, or set `folder` to the one to use.",
        )
    return {**splits, "train": trains}


def _without_training(base: Place, splits: Mapping[Kind, list[str]]) -> SourceError:
    """Why folders that are splits by their names, and nothing else, are not enough."""
    classes = "if these are the classes, name them in class_names."
    if splits["train"]:
        return source_error(
            base.path,
            f"images in {shown_list(base.look().full)} without a folder of their class",
            f"folders of classes, such as {splits['train'][0]}/cat",
            f"Sort them so; {classes}",
        )
    return source_error(
        base.path,
        f"{shown_list(base.look().full)} and no folder of training images",
        _EXPECTED,
        f"Call the folder to learn from train, or set `folder` to it; {classes}",
    )


def _split_names(base: Place) -> dict[Kind, list[str]]:
    """Folders that are splits by their names; "alphabet_train" is one beside "alphabet_test"."""
    said = {name: split for name in base.look().full if (split := split_of(name, joint=True))}
    kinds: dict[str, set[Kind]] = {}
    for kind, rest in said.values():
        kinds.setdefault(rest, set()).add(kind)
    splits: dict[Kind, list[str]] = {"train": [], "test": [], "val": []}
    for name, (kind, rest) in said.items():
        if not rest or (len(kinds[rest]) > 1 and base.inside(name).look().full):
            splits[kind].append(name)
    return splits if any(splits.values()) else {}


def _with_tests(
    layout: Layout, base: Place, splits: Mapping[Kind, list[str]], which: ClassFolders | None
) -> Layout:
    """The layout with its test images, and a note for what is not used."""
    train = splits["train"][0]
    annotations = base.path / ANNOTATIONS
    annotated = annotations.is_file() and (annotations.parent / "images").is_dir()
    usable = {
        name: test
        for name in splits["test"] + splits["val"]
        if (test := _test(layout.train, base.inside(name), which, lenient=annotated))
    }
    if annotations.is_file() and not annotated and "val" not in usable:
        raise source_error(
            annotations, "no folder images beside", "the images that it lists", "Unpack it again."
        )
    if annotated:
        tested, test = "val", None
    else:
        tested = _tested(base, splits, usable)
        test = usable.get(tested)
    said = f"test images those of {tested}/" if tested else "and test images are set apart of them"
    unused = [name for name in base.look().full if name not in (train, tested)]
    notes = [*layout.notes, *([f"Not used: {shown_list(unused)}."] if unused else [])]
    more = [name for name in test.classes if name not in layout.train.classes] if test else []
    notes += [f"Not used: {tested}/ has {shown_list(more)}, and {train}/ has not."] if more else []
    found = f"Training images are those of {train}/, {said}{' by its list' * annotated}."
    if base.above:
        found += f" They are in {base.path.name}/."
    return replace(layout, test=test, annotated=annotated, found=found, notes=tuple(notes))


def _tested(base: Place, splits: Mapping[Kind, list[str]], usable: Mapping[str, Split]) -> str:
    """The folder that the test images are of: of "test" if there is one, else of "val"; or ""."""
    kinds: tuple[Kind, ...] = ("test", "val")
    by_kind = ([name for name in splits[kind] if name in usable] for kind in kinds)
    names = next(filter(None, by_kind), [""])
    if len(names) > 1:
        raise source_error(
            base.path,
            f"test images in {shown_list(names)}",
            "one folder of them",
            "Move away those that are not to be used.",
        )
    return names[0]


def _test(train: Split, place: Place, which: ClassFolders | None, *, lenient: bool) -> Split | None:
    """The test images in a folder; None if it holds no folder of a class.

    Raises:
        SourceError: unless `lenient`, if it holds folders that seem to be classes, but no
            training folder is called so.
    """
    root = unwrapped(place, to_splits=False)
    if root is None:
        return None
    matched = _matched(train, find_classes(root, which, lenient=True))
    if matched:
        return Split(root, matched)
    names = [name for name in root.look().full if not is_part(name) and not is_split(name)]
    if names and not lenient:
        raise source_error(
            root.path,
            f"the folders {listed(names)}",
            f"classes of {train.place.path.name}/, such as {listed([*train.classes], 4)}",
            "Rename them as the training folders are, or move them away.",
        )
    return None


def _matched(train: Split, tests: Classes) -> Classes:
    """The test folders by the training folders' names: as they are, or in other cases of letters.

    Those that match none are kept under their own names, if any matches.
    """
    by_case: dict[str, list[str]] = {}
    for name in train.classes:
        by_case.setdefault(name.casefold(), []).append(name)
    matched: dict[str, tuple[str, ...]] = {}
    for name, folders in tests.items():
        alike = by_case.get(name.casefold(), [])
        own = name if name in train.classes or len(alike) != 1 else alike[0]
        matched[own] = (*matched.get(own, ()), *folders)
    return matched if any(name in train.classes for name in matched) else {}


def _without_classes(place: Place) -> SourceError:
    """Why there is no class."""
    found = place.look()
    if found.full or found.images:
        return source_error(
            place.path,
            f"images in {shown_list(found.full) or 'it,'} without a folder of their class",
            _EXPECTED,
            "Sort them into a folder for each class, or set `folder` to the one above.",
        )
    skipped = Skipped()
    for _ in images_below(str(place.path), place.above, skipped):
        pass
    others = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.files.items()))
    return source_error(
        place.path,
        f"no folder in it (files: {others})" if others else "no folder in it",
        _EXPECTED,
        "Set `folder` to where they are; unpack what is an archive.",
    )
