"""Parquet files in the layout of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray

from gppdm_pipeline.streams.errors import FETCH_AGAIN, SourceError, source_error
from gppdm_pipeline.streams.preparing import Contents
from gppdm_pipeline.streams.readers.base import (
    ClassNames,
    FileReader,
    Split,
    UserPath,
    check_labels,
)

TOGETHER = 256  # rows in memory at a time


class Parquet(FileReader):
    """Parquet files as the Hugging Face hub stores image data sets.

    An image is a struct of `bytes` (an image file) and `path`, its label a whole number. Names of
    classes are in the schema's metadata where the label is a ClassLabel.

    Attributes:
        folder: the files are in it or below.
        train: pattern of the names of the training files.
        test: of the test files; where there are none, "validation*.parquet" may do.
        image: the column of images ("img" in CIFAR's).
        label: the column of labels ("fine_label" in CIFAR-100's).
        damaged: "refuse" files with an image that cannot be decoded, or "skip" such images.
        class_names: the metadata's unless they are given.
    """

    reader: Literal["parquet"] = "parquet"
    folder: UserPath
    train: str = "train*.parquet"
    test: str = "test*.parquet"
    image: str = "image"
    label: str = "label"
    damaged: Literal["refuse", "skip"] = "refuse"

    def _names(self) -> ClassNames:
        file = self._files("train")[0]
        with opened(file) as parquet:
            metadata = parquet.schema_arrow.metadata or {}
        try:
            features = json.loads(metadata[b"huggingface"])["info"]["features"]
            return tuple(map(str, features[self.label]["names"]))
        except (KeyError, TypeError, ValueError):
            return super()._names()

    def _files(self, split: Split) -> list[Path]:
        pattern = {"train": self.train, "test": self.test}[split]
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
        files = self._files(split)
        labels = [self._labels(file) for file in files]
        starts = np.cumsum([0, *map(len, labels)])

        def images(positions: NDArray[np.int64]) -> Iterator[tuple[str, bytes]]:
            for i, file in enumerate(files):
                a, b = np.searchsorted(positions, starts[i : i + 2])
                yield from self._images(file, positions[a:b] - starts[i])

        return Contents(np.concatenate(labels), images, self.folder)

    def _labels(self, file: Path) -> NDArray[np.int64]:
        with opened(file) as parquet:
            self._check_columns(file, parquet.schema_arrow)
            column = parquet.read([self.label])[self.label].combine_chunks()
        if column.null_count:
            row = column.is_null().index(True).as_py()
            raise source_error(file, f"no label (row {row})", "a label in each row", FETCH_AGAIN)
        labels: NDArray[np.int64] = column.to_numpy(zero_copy_only=False).astype(np.int64)
        check_labels(labels, self.class_names, file, "row")
        return labels

    def _images(self, file: Path, rows: NDArray[np.int64]) -> Iterator[tuple[str, bytes]]:
        first = 0
        with opened(file) as parquet:
            for batch in parquet.iter_batches(TOGETHER, columns=[self.image]):
                column = batch.column(0).field("bytes")
                a, b = np.searchsorted(rows, [first, first + len(column)])
                for row in rows[a:b].tolist():
                    data = column[row - first].as_py()
                    yield f"{file} (row {row})", data or b""
                first += len(column)

    def _check_columns(self, file: Path, schema: Any) -> None:
        kinds = {field.name: field.type for field in schema}
        there = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        image, label = kinds.get(self.image), kinds.get(self.label)
        if not (image and pa.types.is_struct(image) and image.get_field_index("bytes") >= 0) or (
            not pa.types.is_binary(image.field("bytes").type)
            and not pa.types.is_large_binary(image.field("bytes").type)
        ):
            raise source_error(
                file,
                f"columns {there}",
                f"{self.image} with the image files' bytes",
                "Set `image` to the column of the images.",
            )
        if not (label and pa.types.is_integer(label)):
            raise source_error(
                file,
                f"columns {there}",
                f"{self.label} with whole numbers",
                "Set `label` to the column of the labels.",
            )


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """The file; what is wrong with it, or found to be within, is a SourceError."""
    try:
        with pq.ParquetFile(file, buffer_size=1 << 20) as parquet:
            yield parquet
    except (pa.ArrowException, EOFError) as error:
        raise source_error(
            file, f"a damaged file ({error})", "a whole Parquet file", FETCH_AGAIN
        ) from error
    except OSError as error:  # Arrow has errors of its own making without a file's name
        if error.filename is None:
            raise SourceError(f"{file}: cannot be read ({error}). {FETCH_AGAIN}") from error
        raise
