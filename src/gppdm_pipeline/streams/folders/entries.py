"""What lies in a folder, without what systems and programs leave there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gppdm_pipeline.streams.errors import SourceError, source_error, unreadable

_SUFFIXES = tuple(
    ".png .jpg .jpeg .jpe .jfif .bmp .dib .gif .webp .ppm .pgm .pbm .pnm .tif .tiff".split()
)
# Folders and files of NAS (Synology, QNAP, NetApp), macOS, Windows, Linux and tools, in small
# letters. Names that begin with "." or "__" need no mention.
_SYSTEM_FOLDERS = frozenset(
    "@eadir @recycle @recently-snapshot @tmp @sharebin @sharesnap #recycle #snapshot ~snapshot "
    "$recycle.bin recycler lost+found cvs thumbnail thumbnails thumbs _thumbnails _thumbs".split()
) | {"system volume information", "network trash folder", "temporary items"}
_SYSTEM_FILES = frozenset("thumbs.db ehthumbs.db ehthumbs_vista.db desktop.ini icon\r".split())
_DRAWN = frozenset("masks annotations ground_truth groundtruth segmentations".split())
"""Folders in a class that hold what was drawn on its images."""
_THUMBNAILS = ("synophoto_thumb", "synoindex_")


@dataclass
class Skipped:
    """What is passed over, counted by kind.

    Attributes:
        system: left by systems and programs, by name; files that begin with "." count as ".*".
        files: that are no images by their names, by suffix.
        links: that lead back to a folder above them or to one that is read anyway.
        drawn: folders in a class that hold masks and the like.
    """

    system: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    links: Counter[str] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)

    def told(self) -> list[str]:
        """A sentence for each kind."""
        sentences = {
            "Left out, as systems and programs make them: ": self.system,
            "Left out are files that are no images by their names: ": self.files,
            "Left out are links that lead in a circle or to a folder that is read anyway: ": (
                self.links
            ),
            "Left out are folders of what was drawn on the images, by their names: ": self.drawn,
        }
        return [
            f"{begin}{', '.join(f'{count} {kind}' for kind, count in sorted(found.items()))}."
            for begin, found in sentences.items()
            if found
        ]


def entries(folder: Path | str, skipped: Skipped) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, in no order; what systems and programs left there is counted only.

    Raises:
        SourceError: if the folder is not there, none, or cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            for entry in found:
                kind = _system_kind(entry)
                if kind:
                    skipped.system[kind] += 1
                else:
                    yield entry
    except FileNotFoundError as error:
        raise source_error(
            folder, "no such folder", "a folder of images", "Set `folder` to where the images are."
        ) from error
    except NotADirectoryError as error:
        raise source_error(
            folder,
            "a file",
            "a folder of images",
            "Unpack it if it is an archive, and set `folder` to what comes out.",
        ) from error
    except OSError as error:
        raise SourceError(
            f"{folder}: cannot be read ({error.strerror}). Allow reading, or correct the path."
        ) from error


def _system_kind(entry: os.DirEntry[str]) -> str:
    """The kind of what a system or program left, for counting; empty for all else."""
    name = entry.name.casefold()
    if is_folder(entry):
        left = name.startswith((".", "__")) or name in _SYSTEM_FOLDERS
        return f"{entry.name}/" if left else ""
    if name.startswith("."):
        return "._*" if name.startswith("._") else ".*"
    return entry.name.strip() if name in _SYSTEM_FILES or name.startswith(_THUMBNAILS) else ""


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_image(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file with the suffix of an image, or a link with one whose file is lost."""
    if not entry.name.lower().endswith(_SUFFIXES):
        return False
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True  # told when it is read


def identity(folder: Path | str) -> tuple[int, int]:
    """The same for two paths that lead to one folder.

    Raises:
        SourceError: if the system does not tell.
    """
    try:
        status = os.stat(folder)
    except OSError as error:
        raise unreadable(error) from error
    return status.st_dev, status.st_ino


def images_below(folder: str, known: frozenset[tuple[int, int]], skipped: Skipped) -> Iterator[str]:
    """Paths of all images in a folder and in those within, in no order.

    Args:
        folder: where to begin.
        known: identities of folders that are not entered: those above, and those of other classes.
        skipped: counts what is passed over.
    """
    seen, waiting = {*known, identity(folder)}, [folder]
    while waiting:
        for entry in entries(waiting.pop(), skipped):
            if is_folder(entry):
                if (place := identity(entry.path)) in seen:
                    skipped.links[entry.name] += 1
                elif entry.name.casefold() in _DRAWN:
                    skipped.drawn[f"{entry.name}/"] += 1
                else:
                    seen.add(place)
                    waiting.append(entry.path)
            elif is_image(entry):
                yield entry.path
            else:
                skipped.files[Path(entry.name).suffix or "without a suffix"] += 1


@dataclass(frozen=True)
class Glance:
    """What a folder holds, as far as it takes to tell what it is.

    Attributes:
        images: whether an image lies in it directly.
        full: names of the folders in it that hold an image, directly or deeper, in order.
        empty: names of those that hold none.
    """

    images: bool
    full: tuple[str, ...]
    empty: tuple[str, ...]

    @property
    def folders(self) -> list[str]:
        """All of them, in order."""
        return sorted(self.full + self.empty)


def glance(folder: Path | str, above: frozenset[tuple[int, int]]) -> Glance:
    """Look into a folder.

    Args:
        folder: where to look.
        above: identities of the folders above, which a link may lead back to.
    """
    images, full, empty = False, list[str](), list[str]()
    there = list(entries(folder, Skipped()))
    known = above | {identity(folder)}
    for entry in there:
        if is_folder(entry):
            if identity(entry.path) not in known:
                first = next(images_below(entry.path, known, Skipped()), None)
                (empty if first is None else full).append(entry.name)
        else:
            images = images or is_image(entry)
    return Glance(images, tuple(sorted(full)), tuple(sorted(empty)))
