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


def names_in(found: NDArray[Any]) -> ClassNames:
    """The classes that text labels name, in alphabetical order; none if they are no text."""
    if found.dtype.kind not in "SU":
        return ()
    return tuple(sorted(set(_texts(found))))


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
        return _looked_up(_texts(flat), class_names, file, key)
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


def _texts(found: NDArray[Any]) -> list[str]:
    values = found.reshape(-1).tolist()
    return [
        composed(value.decode("utf-8", "replace") if isinstance(value, bytes) else value)
        for value in values
    ]


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
