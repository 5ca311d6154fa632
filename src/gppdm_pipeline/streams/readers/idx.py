"""IDX files, the format of MNIST."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gppdm_pipeline.streams.errors import FETCH_AGAIN, source_error
from gppdm_pipeline.streams.preparing import Contents
from gppdm_pipeline.streams.readers.base import (
    ClassNames,
    FileReader,
    Split,
    UserPath,
    check_count,
    check_labels,
)
from gppdm_pipeline.streams.readers.rows import streamed

_MAX_DEFLATE_RATIO = 1032  # deflate cannot pack more bytes than this into one
_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK = 1 << 22  # bytes in memory at a time


class Idx(FileReader):
    """IDX files of the MNIST family, gzipped or not, uint8 [n, h, w, 1], official split.

    Attributes:
        folder: holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
            t10k-labels-idx1-ubyte; `train-images.idx3-ubyte` and an ending .gz will do as well.
        prefix_train: how the names of the training files begin (EMNIST: emnist-letters-train).
        prefix_test: of the test files (EMNIST: emnist-letters-test).
        first_label: the number of the first class (EMNIST letters: 1).
        transposed: whether rows and columns are exchanged (EMNIST: true).
    """

    reader: Literal["idx"] = "idx"
    folder: UserPath
    prefix_train: str = "train"
    prefix_test: str = "t10k"
    first_label: int = Field(0, ge=0)
    transposed: bool = False

    class_names: ClassNames = Field((), max_length=256)

    def _files(self, split: Split) -> Iterable[Path]:
        prefix = {"train": self.prefix_train, "test": self.prefix_test}[split]
        return self._find(f"{prefix}-labels", "idx1-ubyte"), self._find(
            f"{prefix}-images", "idx3-ubyte"
        )

    def _contents(self, split: Split) -> Contents:
        labels_file, images_file = self._files(split)
        with _opened(labels_file, 1) as labels_idx:
            labels = np.concatenate([*labels_idx.blocks()]).astype(np.int64) - self.first_label
        check_labels(labels, self.class_names, labels_file)
        with _opened(images_file, 3) as images_idx:
            check_count(images_idx.shape[0], len(labels), images_file, labels_file)

        def blocks() -> Iterator[NDArray[np.uint8]]:
            with _opened(images_file, 3) as idx:
                for block in idx.blocks():
                    yield (block.transpose(0, 2, 1) if self.transposed else block)[..., np.newaxis]

        return Contents(labels, streamed(blocks), self.folder)

    def _find(self, stem: str, ending: str) -> Path:
        names = [f"{stem}{joint}{ending}{suffix}" for suffix in ("", ".gz") for joint in "-."]
        for name in names:
            if (self.folder / name).is_file():
                return self.folder / name
        raise source_error(
            self.folder,
            "no such folder" if not self.folder.is_dir() else f"no file {names[0]}",
            f"one of {', '.join(names)}",
            "Set `folder` to where the files are; for Fashion-MNIST, `apt-get install "
            "dataset-fashion-mnist` puts them in /usr/share/datasets/fashion-mnist.",
        )


@dataclass(frozen=True)
class _OpenIdx:
    """An IDX file of unsigned bytes behind its header: magic number, one size per dimension.

    Never unpacks more than one byte beyond what the header promises.
    """

    file: Path
    stream: BinaryIO
    shape: tuple[int, ...]

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """The data in blocks along the first dimension; checks its length at the end."""
        size, row = math.prod(self.shape), math.prod(self.shape[1:])
        length, read = max(1, _BLOCK // row) * row, 0
        while read < size:
            wanted = min(length, size - read)
            last = read + wanted == size
            data = self.stream.read(wanted + last)
            read += len(data)
            if len(data) != wanted:
                found = f"{read} bytes of data" if read < size else f"more than {size} bytes"
                promise = f"{size}, as its header promises {list(self.shape)}"
                raise source_error(self.file, found, promise, FETCH_AGAIN)
            yield np.frombuffer(data, np.uint8).reshape(-1, *self.shape[1:])


@contextmanager
def _opened(file: Path, dimensions: int) -> Iterator[_OpenIdx]:
    """Believes no header that promises more than a file of this size can hold."""
    with file.open("rb") as raw:
        packed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw
        try:
            shape = _read_header(stream, file, dimensions)
            size, stored = math.prod(shape), file.stat().st_size
            if size > stored * (_MAX_DEFLATE_RATIO if packed else 1):
                raise source_error(
                    file,
                    f"a file of {stored} bytes",
                    f"the {size} bytes of data that its header promises",
                    f"It is cut short or damaged. {FETCH_AGAIN}",
                )
            yield _OpenIdx(file, stream, shape)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise source_error(
                file, f"damaged gzip data ({error})", "a whole gzip file", FETCH_AGAIN
            ) from error


def _read_header(stream: BinaryIO, file: Path, dimensions: int) -> tuple[int, ...]:
    header = stream.read(4 * (1 + dimensions))
    magic = (0x08 << 8) + dimensions  # 0x08: unsigned bytes
    if header[:4] != struct.pack(">I", magic):
        raise source_error(
            file,
            f"magic number 0x{header[:4].hex()}",
            f"0x{magic:08x} (unsigned bytes in {dimensions} dimensions)",
            "It is another kind of file: check that images and labels are not swapped.",
        )
    if len(header) < 4 * (1 + dimensions):
        raise source_error(file, f"{len(header)} bytes", "a whole header", FETCH_AGAIN)
    shape = struct.unpack(f">{dimensions}I", header[4:])
    if 0 in shape:
        raise source_error(file, f"dimensions {list(shape)}", "at least 1 each", FETCH_AGAIN)
    return shape
