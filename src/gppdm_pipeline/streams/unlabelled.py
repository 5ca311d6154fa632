"""Images without labels, one after the other: of a folder, a file, an .npz or a Parquet file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from numpy.typing import NDArray

from gppdm_pipeline.streams.errors import source_error
from gppdm_pipeline.streams.folders.entries import Skipped, images_below
from gppdm_pipeline.streams.preparing import Image
from gppdm_pipeline.streams.readers import npy
from gppdm_pipeline.streams.readers.array_images import images, read_axes, read_range
from gppdm_pipeline.streams.readers.parquet import TOGETHER, opened

_ARRAYS = ("images", "test_images")


def unlabelled(path: Path, setting: str = "predict.images") -> Iterator[tuple[str, Image]]:
    """Each image's name and what it is read from; nothing is decoded, memory holds few of them.

    Args:
        path: a folder (its image files and those below, named by their path within it), an image
            file, an .npz with `images` [n, h, w] or [n, h, w, c], bytes or floats (or one array of
            any name), or a .parquet with a column `image` of image files' bytes; rows are named by
            number.
        setting: where the path comes from, for the message.

    Raises:
        SourceError: if there is no such file, or it holds no images.
    """
    if path.is_dir():
        yield from _of_folder(path, setting)
    elif not path.is_file():
        raise source_error(
            path, "no such file or folder", "images", f"Set {setting} to where they are."
        )
    elif path.suffix == ".npz":
        for start, block in _blocks(path):
            yield from ((str(start + i), pixels) for i, pixels in enumerate(block))
    elif path.suffix == ".parquet":
        yield from _of_parquet(path)
    else:
        yield path.name, path


def _of_folder(folder: Path, setting: str) -> Iterator[tuple[str, Image]]:
    files = sorted(images_below(str(folder), frozenset(), Skipped()))
    if not files:
        raise source_error(
            folder, "no image file", "PNG, JPEG or the like", f"Set {setting} to another one."
        )
    for file in map(Path, files):
        name = os.fsencode(file.relative_to(folder).as_posix())
        yield name.decode(errors="replace"), file  # tables hold UTF-8


def _blocks(file: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    there = npy.keys(file)
    key = next((name for name in _ARRAYS if name in there), there[0] if len(there) == 1 else "")
    key, start = key or _ARRAYS[0], 0
    for block in images(file, key, read_axes(file, key), read_range(file, [key]))():
        yield start, block
        start += len(block)


def _of_parquet(file: Path) -> Iterator[tuple[str, Image]]:
    row = 0
    with opened(file) as parquet:
        kinds: dict[str, Any] = {field.name: field.type for field in parquet.schema_arrow}
        kind = kinds.get("image", pa.null())
        within = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        kind = kind.field("bytes").type if within else kind
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise source_error(
                file,
                f"columns {', '.join(parquet.schema_arrow.names)}",
                "one called image, with the bytes of image files",
                "Name the column so.",
            )
        for batch in parquet.iter_batches(TOGETHER, columns=["image"]):
            column = batch.column(0).field("bytes") if within else batch.column(0)
            for data in column:
                yield str(row), data.as_py() or b""
                row += 1
