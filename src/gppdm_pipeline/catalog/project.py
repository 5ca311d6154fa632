"""The files of the project, to be looked through: read, never written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from kedro.io import AbstractDataset, DatasetError

_NOT_LOOKED_AT = {".git", ".venv", "__pycache__", "node_modules"}
_CACHES = "_cache"  # of tools
THEIRS = Path("data/01_raw")
"""The user's own source files, which are theirs to keep or delete."""


class ProjectFiles:
    """Every file below a folder, but for THEIRS and what tools have put there.

    Attributes:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def __iter__(self) -> Iterator[Path]:
        """Paths relative to the root, in order; folders behind links, too, each once."""
        seen = set()
        for folder, folders, files in os.walk(self.root, followlinks=True):
            status = os.stat(folder)
            if (place := (status.st_dev, status.st_ino)) in seen:
                folders.clear()
                continue
            seen.add(place)
            here = Path(folder).relative_to(self.root)
            folders[:] = sorted(
                each
                for each in folders
                if each not in _NOT_LOOKED_AT
                and not (each.startswith(".") and each.endswith(_CACHES))
                and here / each != THEIRS
            )
            yield from (here / each for each in sorted(files) if Path(folder, each).is_file())

    def content(self, file: Path) -> bytes | memoryview:
        """What is in one of them, mapped."""
        path = self.root / file
        return np.memmap(path, np.uint8, "r").data if path.stat().st_size else b""


class ProjectDataset(AbstractDataset[NoReturn, ProjectFiles]):
    """The project's files (see `ProjectFiles`)."""

    def __init__(self, *, filepath: str) -> None:
        self._files = ProjectFiles(Path(filepath))

    def load(self) -> ProjectFiles:
        """The files; nothing is read yet."""
        return self._files

    def save(self, data: NoReturn) -> None:
        """Refuse: they are only looked at."""
        raise DatasetError(f"{self._files.root} is looked through, not written")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._files.root)}
