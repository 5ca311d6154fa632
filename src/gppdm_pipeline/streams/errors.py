"""What is wrong with a data file, told so that it can be put right."""

from __future__ import annotations

import os
import re
from pathlib import Path

_STEERING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
FETCH_AGAIN = "Fetch the file again."


class SourceError(Exception):
    """A data file is missing, damaged, or not what its configuration says.

    Not a ValueError: Pydantic would take it for a fault of the setting that asked for the file.
    """

    def __init__(self, message: str) -> None:
        """It can be printed whatever names it holds: see `printable`."""
        super().__init__(printable(message))


def printable(text: str) -> str:
    """The text with escapes for bytes of another encoding, and for what steers a terminal."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def source_error(file: Path | str, found: str, expected: str, repair: str) -> SourceError:
    """The one wording of what is wrong with a data file."""
    return SourceError(f"{file}: found {found}, expected {expected}. {repair}")


def unreadable(error: OSError) -> SourceError:
    """A file that the system does not give out; `error` knows its name."""
    if os.path.islink(error.filename) and not os.path.exists(error.filename):
        return source_error(
            error.filename,
            "a link to a file that is not there",
            "a file",
            "Fetch what it leads to, or remove it.",
        )
    return SourceError(
        f"{error.filename}: cannot be read ({error.strerror}). Allow reading, or correct the path."
    )
