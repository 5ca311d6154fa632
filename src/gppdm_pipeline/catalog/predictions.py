"""Predictions on disk: written as they come, in two formats, and whole or not there."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from kedro.io import DatasetError

from gppdm_pipeline.catalog.datasets import OnDisk
from gppdm_pipeline.serving.classify import Columns, Rows
from gppdm_pipeline.serving.predictor import SHOWN

_NEXT = [
    field
    for place in range(2, SHOWN + 1)
    for field in ((f"label_{place}", pa.string()), (f"probability_{place}", pa.float64()))
]
SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("label", pa.string()),
        ("probability", pa.float64()),
        ("known", pa.bool_()),
        *_NEXT,
        ("problem", pa.string()),
    ]
)


class PredictionsDataset(OnDisk[Rows, "PredictionsFile"]):
    """<name>.csv and <name>.parquet side by side; memory holds a batch at a time."""

    def save(self, data: Rows) -> None:
        """Write both files; the CSV, which is what is asked for, last."""
        parquet = self.path.with_suffix(".parquet")
        unfinished = [path.with_name(f".{path.name}.new") for path in (parquet, self.path)]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _write(data, *unfinished)
            for temporary, path in zip(unfinished, (parquet, self.path), strict=True):
                temporary.replace(path)
        except OSError as error:
            raise DatasetError(
                f"{self.path} cannot be written ({error.strerror or error}). Put that right (free "
                "space, allow writing) and give the command again."
            ) from error
        finally:
            for temporary in unfinished:
                temporary.unlink(missing_ok=True)

    def load(self) -> PredictionsFile:
        """What reads the rows again."""
        return PredictionsFile(self.path.with_suffix(".parquet"))


class PredictionsFile:
    """The rows of a Parquet file of predictions.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each row by name of column."""
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(4096):
                yield from batch.to_pylist()


def _write(data: Iterable[Columns], parquet: Path, table: Path) -> None:
    with (
        pq.ParquetWriter(parquet, SCHEMA) as writer,
        table.open("w", newline="", encoding="utf-8") as file,
    ):
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(SCHEMA.names)
        for columns in data:
            writer.write_table(pa.table(columns, SCHEMA))
            lines.writerows(zip(*(columns[name] for name in SCHEMA.names), strict=True))
        file.flush()
        os.fsync(file.fileno())
    with parquet.open("rb") as written:
        os.fsync(written.fileno())
