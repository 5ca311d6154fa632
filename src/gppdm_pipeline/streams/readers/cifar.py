"""CIFAR-10 and CIFAR-100, as published for Python."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

import numpy as np

from gppdm_pipeline.streams.errors import FETCH_AGAIN, SourceError, source_error
from gppdm_pipeline.streams.preparing import Contents
from gppdm_pipeline.streams.readers.base import (
    ClassNames,
    FileReader,
    Split,
    UserPath,
    check_count,
    check_labels,
)
from gppdm_pipeline.streams.readers.plain_pickle import load_plain
from gppdm_pipeline.streams.readers.rows import numbered

_CIFAR_10 = {
    "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test": ("test_batch",),
    "names": ("batches.meta",),
}
_CIFAR_100 = {"train": ("train",), "test": ("test",), "names": ("meta",)}
_FOLDERS = ("", "cifar-10-batches-py", "cifar-100-python")
_HOW = (
    "Set `path` to cifar-10-python.tar.gz, cifar-100-python.tar.gz or the folder that one of them "
    "unpacks to."
)


class Cifar(FileReader):
    """CIFAR-10 or CIFAR-100 in the archive for Python, uint8 [n, 32, 32, 3], official split.

    Nothing is unpacked onto the disk, and no pickle is executed (see `plain_pickle.py`).

    Attributes:
        path: the .tar.gz, or the folder that it unpacks to.
        labels: which of CIFAR-100's: "fine" (100 classes) or "coarse" (20); CIFAR-10 has one kind.
        class_names: the archive's own unless they are given.
    """

    reader: Literal["cifar"] = "cifar"
    path: UserPath
    labels: Literal["fine", "coarse"] = "fine"

    def _names(self) -> ClassNames:
        ((file, content),) = self._read_files("names")
        key = b"label_names" if file.endswith(".meta") else f"{self.labels}_label_names".encode()
        return tuple(name.decode() for name in _entry(content, key, file))

    def _files(self, split: Split) -> Iterable[Path]:
        return [self.path] if self.path.is_file() else self._in_folder(split)

    def _contents(self, split: Split) -> Contents:
        images, labels = [], []
        for file, content in self._read_files(split):
            data = _entry(content, b"data", file)
            kind = b"labels" if "_batch" in file else f"{self.labels}_labels".encode()
            own = np.array(_entry(content, kind, file), np.int64)
            if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2:
                raise source_error(file, "no array of bytes", "uint8 [n, 3072]", FETCH_AGAIN)
            if data.shape[1] != 3072:
                raise source_error(file, f"rows of {data.shape[1]}", "rows of 3072", FETCH_AGAIN)
            check_count(len(data), len(own), Path(file), "the same file")
            check_labels(own, self.class_names, Path(file))
            images.append(np.asarray(data).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels.append(own)
        return Contents(np.concatenate(labels), numbered(np.concatenate(images)), self.path)

    def _read_files(self, part: str) -> Iterator[tuple[str, dict[bytes, Any]]]:
        """The files of a part, each with what it holds, in order."""
        if self.path.is_file():
            found = self._in_archive(part)
        else:
            found = {}
            for file in self._in_folder(part):
                with file.open("rb") as stream:
                    found[str(file)] = load_plain(stream, file)
        for name, content in sorted(found.items()):
            if not isinstance(content, dict):
                raise source_error(name, f"a {type(content).__name__}", "a dictionary", FETCH_AGAIN)
            yield name, content

    def _in_folder(self, part: str) -> list[Path]:
        for folder in _FOLDERS:
            for names in (_CIFAR_10[part], _CIFAR_100[part]):
                files = [self.path / folder / name for name in names]
                if files[0].is_file():
                    missing = next((file for file in files if not file.is_file()), None)
                    if missing:
                        raise source_error(self.path, "no such file", str(missing), FETCH_AGAIN)
                    return files
        found = "neither of CIFAR's data sets" if self.path.exists() else "nothing there"
        raise source_error(self.path, found, f"{_CIFAR_10[part][0]} or {_CIFAR_100[part][0]}", _HOW)

    def _in_archive(self, part: str) -> dict[str, Any]:
        found = {}
        wanted = {*_CIFAR_10[part], *_CIFAR_100[part]}
        try:
            with tarfile.open(self.path, "r:*") as archive:
                for member in archive:
                    place = PurePosixPath(member.name)
                    if place.is_absolute() or ".." in place.parts:
                        raise source_error(
                            self.path,
                            f"a member that climbs out of its folder, {member.name}",
                            "the published archive",
                            "Do not use this file.",
                        )
                    stream = archive.extractfile(member) if place.name in wanted else None
                    if stream is not None:
                        file = f"{self.path}/{member.name}"
                        found[file] = _loaded(stream, file)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise source_error(
                self.path, f"a damaged archive ({error})", "a whole .tar.gz", FETCH_AGAIN
            ) from error
        if {PurePosixPath(file).name for file in found} not in (
            {*_CIFAR_10[part]},
            {*_CIFAR_100[part]},
        ):
            names = ", ".join(sorted(wanted))
            raise source_error(self.path, f"{sorted(found)}", f"the files {names}", _HOW)
        return found


def _loaded(stream: Any, file: str) -> Any:
    binary: BinaryIO = stream
    return load_plain(binary, file)


def _entry(content: dict[bytes, Any], key: bytes, file: str) -> Any:
    if key not in content:
        keys = ", ".join(sorted(map(str, content)))
        raise SourceError(f"{file}: found no entry {key!r}, only {keys}. {_HOW}")
    return content[key]
