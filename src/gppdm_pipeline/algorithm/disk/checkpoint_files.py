"""Checkpoints on disk: one file each, written once and atomically, with its checksum in its name.

    <folder>/<loop>/<step>.<sha256 of the file>.safetensors

The file's metadata holds the snapshot's record, and the key of what the stage was given: settings,
input state, images, code. A checkpoint with another key, or a damaged one, is never used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel
from safetensors.torch import load, save
from torch import Tensor

from gppdm_pipeline.algorithm.disk.checkpoints import Snapshot

logger = logging.getLogger(__name__)

KEPT = 2


class CheckpointError(OSError):
    """A checkpoint cannot be written; the message says where, and what to do."""


@dataclass(frozen=True)
class CheckpointFolder:
    """Where the loops of one stage keep their checkpoints.

    Attributes:
        folder: of the stage.
        key: of what the stage was given (`digest`).
        every: seconds between checkpoints of a loop.
    """

    folder: Path
    key: str
    every: float

    def __call__(self, loop: str) -> CheckpointFiles:
        """The files of a loop."""
        return CheckpointFiles(self.folder / loop, self.key, self.every)


class CheckpointFiles:
    """The checkpoints of one loop: two, or all parts; the clock starts when this is made."""

    def __init__(self, folder: Path, key: str, every: float) -> None:
        """Read and write nothing yet."""
        self._folder, self._key, self._every = folder, key, every
        self._last = time.monotonic()

    def latest(self) -> Snapshot | None:
        """The latest snapshot that is whole and has the right key; all others are removed."""
        for file in reversed(self._files()):
            snapshot = self._read(file)
            if snapshot is not None:
                logger.info("%s goes on after %d", self._folder.name, snapshot.step)
                return snapshot
            file.unlink()
        return None

    def parts(self) -> Iterator[Snapshot]:
        """Parts that are whole, have the right key and follow each other, one in memory at a time.

        All others are removed: those after a damaged one are made anew.
        """
        done, files = 0, self._files()
        while files:
            snapshot = self._read(files[0])
            if snapshot is None or snapshot.follows != done:
                break
            done = snapshot.step
            yield snapshot
            files.pop(0)
        for file in files:
            file.unlink()
        if done:
            logger.info("%s goes on after %d", self._folder.name, done)

    def offer(self, take: Callable[[], Snapshot], now: bool = False) -> None:
        """Write a snapshot, if the last one was written long enough ago or it has to be now.

        Raises:
            CheckpointError: if it cannot be written.
        """
        if not now and time.monotonic() - self._last < self._every:
            return
        try:
            self._write(take())
        except OSError as error:
            raise CheckpointError(
                f"{self._folder}: a checkpoint cannot be written ({error.strerror or error}). Put "
                "that right (free space, allow writing); the same command then goes on from the "
                "checkpoint before."
            ) from error
        self._last = time.monotonic()

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.safetensors"))

    def _read(self, file: Path) -> Snapshot | None:
        content = file.read_bytes()
        step, checksum, _ = file.name.split(".")
        if hashlib.sha256(content).hexdigest() != checksum:
            logger.warning("%s is damaged and is not used", file)
            return None
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        if header["key"] != self._key:
            logger.info("%s was made with other settings, data or code, and is not used", file.name)
            return None
        record, follows = (json.loads(header[name]) for name in ("record", "follows"))
        return Snapshot(int(step), load(content), record, follows)

    def _write(self, snapshot: Snapshot) -> None:
        tensors = {name: value.cpu().contiguous() for name, value in snapshot.tensors.items()}
        metadata = {"key": self._key, "record": json.dumps(dict(snapshot.record))}
        metadata["follows"] = json.dumps(snapshot.follows)
        content = save(tensors, metadata)
        checksum = hashlib.sha256(content).hexdigest()
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / ".new"
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._folder / f"{snapshot.step:09d}.{checksum}.safetensors")
        finally:
            temporary.unlink(missing_ok=True)
        if snapshot.follows is None:
            for old in self._files()[:-KEPT]:
                old.unlink()


def digest(*values: object) -> str:
    """SHA-256 of values, however they nest; the order of a mapping's items does not matter.

    Args:
        values: Pydantic models, dataclasses, mappings, sequences, arrays, tensors, plain values.
    """
    found = hashlib.sha256()
    for piece in _pieces(values):
        found.update(piece)
    return found.hexdigest()


def _pieces(value: object) -> Iterator[bytes | memoryview]:
    if isinstance(value, Tensor):
        yield repr((value.dtype, value.shape)).encode()
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    elif isinstance(value, np.ndarray):
        yield repr((value.dtype, value.shape)).encode()
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    elif isinstance(value, BaseModel):
        yield repr((type(value), value.model_dump_json())).encode()
    elif is_dataclass(value):
        yield from _pieces({field.name: getattr(value, field.name) for field in fields(value)})
    elif isinstance(value, Mapping):
        yield from _pieces(sorted(value.items(), key=lambda item: repr(item[0])))
    elif isinstance(value, list | tuple):
        yield f"[{len(value)}".encode()
        for item in value:
            yield from _pieces(item)
    else:
        yield repr(value).encode()
