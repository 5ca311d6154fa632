"""Real images that were removed on purpose, and the record of it.

An image set that was released counts as made, so that nothing makes it again; whoever needs it is
told when it went. The record is written before the file goes: a kill between the two leaves a file
that is released when the run goes on, and never a run that has lost what it needs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from kedro.io import DatasetError

from gppdm_pipeline.catalog.datasets import ImagesDataset, JsonDataset
from gppdm_pipeline.images.labelled import LabelledImages

_CHUNK = 1 << 22


class Retention:
    """What a run has released: its retention.json, of which no entry is ever removed.

    Attributes:
        path: of the file; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = JsonDataset(filepath=str(path))

    @property
    def entries(self) -> list[dict[str, Any]]:
        """All that was released, the first entry first."""
        return list(self._file.load()["released"]) if self.path.exists() else []

    def stands(self, what: Path) -> bool:
        """Whether `what` was released, and has not been read from its source again since."""
        name = self._name(what)
        return any(each["what"] == name and not each["read_again"] for each in self.entries)

    def sign_off(self, what: Path, about: dict[str, Any]) -> None:
        """Write down that a file or folder goes: its size, its hash, and `about`."""
        files = sorted(file for file in [what, *what.rglob("*")] if file.is_file())
        entry = {
            "what": self._name(what),
            "when": _now(),
            "bytes": sum(file.stat().st_size for file in files),
            "sha256": _sha256(files),
            **about,
            "read_again": None,
        }
        self._write([*self.entries, entry])

    def read_again(self, files: Iterable[Path]) -> None:
        """Write down that these are made anew, so that what was released of them is needed."""
        if not self.path.exists():
            return
        names, now, entries = {self._name(file) for file in files}, _now(), self.entries
        again = [each for each in entries if each["what"] in names and not each["read_again"]]
        for entry in again:
            entry["read_again"] = now
        if again:
            self._write(entries)

    def _write(self, entries: list[dict[str, Any]]) -> None:
        self._file.save({"released": entries})

    def _name(self, what: Path) -> str:
        """Relative to the project, if it is within: the record is read on other machines too."""
        what = what.absolute()
        data = next((each for each in self.path.absolute().parents if each.name == "data"), None)
        inside = data is not None and what.is_relative_to(data.parent)
        return (what.relative_to(data.parent) if data and inside else what).as_posix()


class ReleasableImages(ImagesDataset):
    """Real images that a run with `retention: release` removes once nothing needs them.

    Attributes:
        retention: the run's record.
    """

    def __init__(
        self,
        *,
        filepath: str,
        retention: dict[str, str],
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self.retention = Retention(Path(retention["filepath"]))

    @property
    def released(self) -> bool:
        """Whether they were removed on purpose."""
        return not self.path.exists() and self.retention.stands(self.path)

    def load(self) -> LabelledImages:
        """The images.

        Raises:
            DatasetError: if they were released, or are missing or damaged.
        """
        if self.released:
            raise DatasetError(self.gone)
        return super().load()

    @property
    def gone(self) -> str:
        """What to tell who needs released images."""
        return (
            f"{self.path} was released ({self.retention.path} says when), and what was asked for "
            "needs its images. Read them from their source again by making the run anew: "
            "--params=overwrite=true."
        )

    def dispose(self) -> None:
        """Sign them off, then remove them, with what a kill may have left half-written."""
        labels, counts = np.unique(super().load().labels, return_counts=True)
        images = {str(label): int(count) for label, count in zip(labels, counts, strict=True)}
        self.retention.sign_off(self.path, {"images": int(counts.sum()), "by_label": images})
        self._unfinished.unlink(missing_ok=True)
        self.path.unlink()

    def _exists(self) -> bool:
        return self.path.exists() or self.released


class ImagesIfThere(ImagesDataset):
    """The images, or none at all if they are not there any more."""

    def load(self) -> LabelledImages:
        """The images, or no image."""
        return super().load() if self.path.exists() else LabelledImages.empty((0, 0, 0))

    def _exists(self) -> bool:
        return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _sha256(files: Iterable[Path]) -> str:
    """Of the files' content, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
