"""Names of ImageNet's classes: wnids.txt lists their folders, words.txt says what they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gppdm_pipeline.streams.errors import source_error
from gppdm_pipeline.wording import listed


def shown_names(base: Path, train: Path, folders: Sequence[str]) -> dict[str, str]:
    """The classes by the names to show, each with its folder's name, in the data's own order.

    Args:
        base: may hold wnids.txt and words.txt; the folders' names are shown where it does not.
        train: holds the folders, for messages.
        folders: the names of the classes' folders.

    Raises:
        SourceError: if wnids.txt lists a folder that is not there.
    """
    ids = base / "wnids.txt"
    if ids.is_file():
        order = _text(ids).split()
        missing = [name for name in order if name not in folders]
        if missing:
            raise source_error(
                train, f"no folder {listed(missing)}", f"all of {ids}", "Unpack it again."
            )
        folders = order
    words = _words(base / "words.txt")
    names = [words.get(name, name) for name in folders]
    shared = {name for name, count in Counter(names).items() if count > 1}
    return {
        f"{name} ({folder})" if name in shared else name: folder
        for name, folder in zip(names, folders, strict=True)
    }


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise source_error(
            file, f"bytes that are no UTF-8 (at {error.start})", "text", "Unpack it again."
        ) from error


def _words(file: Path) -> dict[str, str]:
    """The first name of each class in ImageNet's words.txt."""
    if not file.is_file():
        return {}
    lines = (line.partition("\t") for line in _text(file).splitlines())
    return {folder: words.split(",")[0].strip() for folder, _, words in lines if words.strip()}
