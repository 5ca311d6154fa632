"""Parquet files in the layout of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray

from gppdm_pipeline.streams.errors import FETCH_AGAIN, SourceError, source_error
from gppdm_pipeline.streams.folders.entries import Skipped, entries, is_folder
from gppdm_pipeline.streams.preparing import Contents
from gppdm_pipeline.streams.readers.base import (
    ClassNames,
    FileReader,
    Split,
    UserPath,
)
from gppdm_pipeline.streams.readers.labels import as_labels, names_in, texts

TOGETHER = 256  # rows in memory at a time


class Parquet(FileReader):
    """Parquet files as the Hugging Face hub stores image data sets.

    An image is a struct of `bytes` (an image file) and `path`, or one of the two alone: a path is
    of a file on this machine, from the Parquet file's folder or from `folder`. Its label is a whole
    number or text. Names of classes are in the schema's metadata where the label is a ClassLabel,
    or the text labels in alphabetical order.

    Attributes:
        folder: the files are in it or below.
        train: pattern of the names of the training files.
        test: of the test files; where there are none, "validation*.parquet" may do.
        image: the column of images ("img" in CIFAR's).
        label: the column of labels ("fine_label" in CIFAR-100's).
        damaged: "refuse" files with an image that cannot be decoded, or "skip" such images.
        class_names: the files' unless they are given.
    """

    reader: Literal["parquet"] = "parquet"
    folder: UserPath
    train: str = "train*.parquet"
    test: str = "test*.parquet"
    image: str = "image"
    label: str = "label"
    damaged: Literal["refuse", "skip"] = "refuse"

    def _names(self) -> ClassNames:
        files = self._parquets("train")
        with opened(files[0]) as parquet:
            metadata = parquet.schema_arrow.metadata or {}
        try:
            features = json.loads(metadata[b"huggingface"])["info"]["features"]
            return tuple(map(str, features[self.label]["names"]))
        except (KeyError, TypeError, ValueError):
            names = {
                name for file in files for name in names_in(self._column(file), file, self.label)
            }
            return tuple(sorted(names)) or super()._names()

    def _files(self, split: Split) -> list[Path]:
        files = self._parquets(split)
        return [*files, *(path for file in files for path in self._paths(file).values())]

    def _parquets(self, split: Split) -> list[Path]:
        pattern = {"train": self.train, "test": self.test}[split]
        _check_readable(self.folder)
        files = sorted(self.folder.rglob(pattern))
        if not files:
            found = "no such file" if self.folder.is_dir() else "no such folder"
            raise source_error(
                self.folder,
                found,
                f"{pattern} in it or below",
                f"Set `folder` to where they are, and `{split}` to the pattern of their names.",
            )
        return files

    def _contents(self, split: Split) -> Contents:
        files = self._parquets(split)
        labels = [self._labels(file) for file in files]
        starts = np.cumsum([0, *map(len, labels)])

        def images(positions: NDArray[np.int64]) -> Iterator[tuple[str, bytes | Path]]:
            for i, file in enumerate(files):
                a, b = np.searchsorted(positions, starts[i : i + 2])
                yield from self._images(file, positions[a:b] - starts[i])

        return Contents(np.concatenate(labels), images, self.folder)

    def _labels(self, file: Path) -> NDArray[np.int64]:
        return as_labels(self._column(file), self.class_names, file, self.label)

    def _column(self, file: Path) -> NDArray[Any]:
        """The labels as they are: numbers or text."""
        with opened(file) as parquet:
            kind = self._kinds(file, parquet)[1]
            column = parquet.read([self.label])[self.label].combine_chunks()
        if column.null_count:
            row = column.is_null().index(True).as_py()
            raise source_error(file, f"no label (row {row})", "a label in each row", FETCH_AGAIN)
        if pa.types.is_dictionary(kind):
            column = column.dictionary_decode()
        if _is_text(column.type):  # which need not be UTF-8, though Parquet says so
            column = column.cast(pa.large_binary())
        values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
        if values.dtype != object:
            return values
        return np.array(texts(values, file, self.label), str)

    def _images(self, file: Path, rows: NDArray[np.int64]) -> Iterator[tuple[str, bytes | Path]]:
        first, paths = 0, self._paths(file)
        with opened(file) as parquet:
            kind = self._kinds(file, parquet)[0]
            for batch in parquet.iter_batches(TOGETHER, columns=[self.image]):
                column = batch.column(0)
                if pa.types.is_struct(kind):
                    inside = kind.get_field_index("bytes") >= 0
                    column = column.field("bytes") if inside else column.field("path")
                a, b = np.searchsorted(rows, [first, first + len(column)])
                for row in rows[a:b].tolist():
                    data = paths[row] if row in paths else column[row - first].as_py() or b""
                    yield f"{file} (row {row})", data
                first += len(column)

    def _paths(self, file: Path) -> dict[int, Path]:
        """By row, the files of images that are not in the Parquet file themselves."""
        paths: dict[int, Path] = {}
        with opened(file) as parquet:
            kind = self._kinds(file, parquet)[0]
            if _is_binary(kind) or _all_held(parquet, f"{self.image}.bytes"):
                return {}
            first = 0
            for batch in parquet.iter_batches(TOGETHER, columns=[self.image]):
                column = batch.column(0)
                for row, path in enumerate(_paths_alone(column), start=first):
                    if path is not None:
                        paths[row] = self._located(file, row, path)
                first += len(column)
        return paths

    def _located(self, file: Path, row: int, path: str) -> Path:
        where = [folder / path for folder in (file.parent, self.folder)]
        found = next((each for each in where if _is_file(each)), None)
        if found is None:
            raise source_error(
                file,
                f"the path {path[:80]!r} (row {row}), which is no file",
                f"the image's bytes, or a path from {file.parent} or from {self.folder}",
                "Put the images there: nothing is fetched.",
            )
        return found

    def _kinds(self, file: Path, parquet: Any) -> tuple[Any, Any]:
        """The types of the columns of images and labels, if they are such."""
        kinds = {field.name: field.type for field in parquet.schema_arrow}
        there = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        image, label = kinds.get(self.image), kinds.get(self.label)
        if not image or not (_is_binary(image) or _is_text(image) or _is_struct(image)):
            raise source_error(
                file,
                f"columns {there}",
                f"{self.image} with the image files' bytes or paths",
                "Set `image` to the column of the images.",
            )
        plain = label.value_type if label and pa.types.is_dictionary(label) else label
        if not plain or not (_is_text(plain) or _is_binary(plain) or pa.types.is_primitive(plain)):
            raise source_error(
                file,
                f"columns {there}",
                f"{self.label} with whole numbers or names",
                "Set `label` to the column of the labels.",
            )
        return image, label


def _check_readable(folder: Path) -> None:
    """A folder or one below that cannot be read, which a search passes over, is a SourceError."""
    waiting = [str(folder)] if folder.is_dir() else []
    while waiting:
        inside = entries(waiting.pop(), Skipped())
        waiting += [e.path for e in inside if is_folder(e) and not e.is_symlink()]


def _all_held(parquet: Any, column: str) -> bool:
    """Whether the file's statistics say that each row has a value in a column."""
    groups = (parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups))
    parts = [group.column(j) for group in groups for j in range(group.num_columns)]
    found = [part.statistics for part in parts if part.path_in_schema == column]
    return bool(found) and all(each is not None and each.null_count == 0 for each in found)


def _paths_alone(column: Any) -> list[str | None]:
    """The path of each image that has no bytes beside it."""
    if not pa.types.is_struct(column.type):
        return list(column.to_pylist())
    if column.type.get_field_index("path") < 0:
        return [None] * len(column)
    paths = column.field("path")
    if column.type.get_field_index("bytes") >= 0:
        paths = pc.if_else(column.field("bytes").is_null(), paths, None)
    return list(paths.to_pylist())


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_struct(kind: Any) -> bool:
    """Whether it is one of the hub's images: bytes, a path, or both."""
    if not pa.types.is_struct(kind):
        return False
    parts = {name: kind.get_field_index(name) for name in ("bytes", "path")}
    there = {name: kind.field(place).type for name, place in parts.items() if place >= 0}
    kept = [name for name, part in there.items() if not pa.types.is_null(part)]
    return bool(kept) and all(
        _is_binary(there[name]) if name == "bytes" else _is_text(there[name]) for name in kept
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long for a name
        return False


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """The file; what is wrong with it, or found to be within, is a SourceError."""
    try:
        with pq.ParquetFile(file, buffer_size=1 << 20) as parquet:
            yield parquet
    except (pa.ArrowException, EOFError, UnicodeDecodeError) as error:
        raise source_error(
            file, f"a damaged file ({error})", "a whole Parquet file", FETCH_AGAIN
        ) from error
    except OSError as error:  # Arrow has errors of its own making without a file's name
        if error.filename is None:
            raise SourceError(f"{file}: cannot be read ({error}). {FETCH_AGAIN}") from error
        raise
