"""What is wrong with a data file, told so that it can be put right."""

from __future__ import annotations

from pathlib import Path

FETCH_AGAIN = "Fetch the file again."


class SourceError(Exception):
    """A data file is missing, damaged, or not what its configuration says.

    Not a ValueError: Pydantic would take it for a fault of the setting that asked for the file.
    """


def source_error(file: Path | str, found: str, expected: str, repair: str) -> SourceError:
    """The one wording of what is wrong with a data file."""
    return SourceError(f"{file}: found {found}, expected {expected}. {repair}")


def unreadable(error: OSError) -> SourceError:
    """A file that the system does not give out; `error` knows its name."""
    return SourceError(
        f"{error.filename}: cannot be read ({error.strerror}). Allow reading, or correct the path."
    )
