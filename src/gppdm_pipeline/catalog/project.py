"""The files of the project, to be looked through: read, never written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

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
