"""Labels as people save them: whole numbers, numbers of floats, one of several ones, or text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.streams.errors import source_error
from gppdm_pipeline.streams.folders.names import composed
from gppdm_pipeline.streams.readers.base import ClassNames, check_labels
from gppdm_pipeline.wording import listed


def names_in(found: NDArray[Any], file: Path, key: str) -> ClassNames:
    """The classes that text labels name, in alphabetical order; none if they are no text.

    Raises:
        SourceError: as `texts`.
    """
    if found.dtype.kind not in "SU":
        return ()
    return tuple(sorted(set(texts(found, file, key))))


def as_labels(
    found: NDArray[Any], class_names: ClassNames, file: Path, key: str
) -> NDArray[np.int64]:
    """A class's number for each image, int64 [n].

    Args:
        found: [n], [n, 1], or [n, classes] with a single one in each row.
        class_names: of 0, 1, ...; text labels are looked up there.
        file: where the labels are from, for messages.
        key: their name there.

    Raises:
        SourceError: if they say no class, or one without a name.
    """
    flat = found.reshape(-1) if found.ndim and found.size == len(found) else _hot(found)
    if flat is None or flat.dtype.kind not in "iubfSU":
        raise source_error(
            file,
            f"{key} of {found.dtype} {list(found.shape)}",
            "one whole number for each image, or one name",
            "Images of several labels are not for this pipeline."
            if found.ndim > 1
            else "Save the numbers or names of classes.",
        )
    if flat.dtype.kind in "SU":
        return _looked_up(texts(flat, file, key), class_names, file, key)
    whole = np.isfinite(flat) & (flat == np.round(flat))
    if not whole.all():
        row = int(np.argmin(whole))
        raise source_error(
            file,
            f"{key} {flat[row]} (row {row})",
            "one whole number for each image",
            "Labels with fractions are of no class: save whole numbers or names.",
        )
    labels = flat.astype(np.int64)
    check_labels(labels, class_names, file, f"{key}, row")
    return labels


def _hot(found: NDArray[Any]) -> NDArray[np.int64] | None:
    """The place of the only one in each row, if there is one only and zeros besides."""
    if found.ndim != 2 or found.dtype.kind not in "iubf":
        return None
    ones = found == 1
    if not ((ones.sum(axis=1) == 1) & (found == ones).all(axis=1)).all():
        return None
    places: NDArray[np.int64] = ones.argmax(axis=1)
    return places


def texts(found: NDArray[Any], file: Path, key: str) -> list[str]:
    """Text, or bytes that are text in UTF-8, one for each element.

    Args:
        found: of any shape.
        file: where it is from, for messages.
        key: its name there.

    Raises:
        SourceError: of bytes in another encoding, of which one name could be read as another.
    """
    return [_text(each, row, file, key) for row, each in enumerate(found.reshape(-1).tolist())]


def _text(value: str | bytes, row: int, file: Path, key: str) -> str:
    try:
        return composed(value.decode() if isinstance(value, bytes) else value)
    except UnicodeDecodeError as error:
        raise source_error(
            file,
            f"{key} {value!r} (row {row}), which is no UTF-8",
            "names as text, or as bytes in UTF-8",
            f"Save them as text: numpy.char.decode({key}, 'latin-1'), or whatever encoding it is.",
        ) from error


def _looked_up(
    texts: list[str], class_names: ClassNames, file: Path, key: str
) -> NDArray[np.int64]:
    number = {name: label for label, name in enumerate(class_names)}
    for row, text in enumerate(texts):
        if text not in number:
            raise source_error(
                file,
                f"{key} {text!r} (row {row})",
                f"one of class_names: {listed(class_names)}",
                "Correct class_names, or leave it out to take the names from the labels.",
            )
    return np.array([number[text] for text in texts], np.int64)
