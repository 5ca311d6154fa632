"""Arrays inside .npz files, read in blocks and without executing a pickle."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.streams.errors import FETCH_AGAIN, source_error, unreadable

Header = tuple[tuple[int, ...], bool, np.dtype[Any]]
"""Shape, whether it is stored column by column, and type."""

_BLOCK = 1 << 22  # bytes in memory at a time


@contextmanager
def opened(file: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; what is wrong with it, or found to be within, is a SourceError."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except OSError as error:
        error.filename = error.filename or str(file)
        raise unreadable(error) from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        ValueError,
        RuntimeError,
        MemoryError,
    ) as error:
        raise source_error(
            file, f"a damaged file ({error})", "a whole .npz file", FETCH_AGAIN
        ) from error


def keys(file: Path) -> list[str]:
    """The arrays' names."""
    with opened(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def array(file: Path, key: str) -> NDArray[np.generic]:
    """A small array as a whole.

    Raises:
        SourceError: if it holds Python's objects, which are pickled, or is damaged.
    """
    with opened(file) as archive, _member(archive, file, key) as stream:
        _, _, dtype = _header(stream)
    if dtype.hasobject:
        raise source_error(
            file,
            f"{key} of Python's objects, which only a pickle holds and which are not read",
            "numbers or text",
            f"Save it anew with {key}.astype(int) or .astype(str).",
        )
    with opened(file) as archive, _member(archive, file, key) as stream:
        whole: NDArray[np.generic] = np.lib.format.read_array(stream, allow_pickle=False)
        return whole


def header(file: Path, key: str) -> Header:
    """What kind of array it is."""
    with opened(file) as archive, _member(archive, file, key) as stream:
        return _header(stream)


def image_shape(file: Path, key: str) -> tuple[int, int, int, int]:
    """Of an array of 8-bit images, [n, h, w, c]; c is 1 where the array has three dimensions."""
    shape, fortran, dtype = header(file, key)
    full = (*shape, 1) if len(shape) == 3 else shape
    if dtype != np.uint8 or fortran or len(full) != 4 or full[3] not in (1, 3) or 0 in full:
        raise source_error(
            file,
            f"{key} of {dtype} {list(shape)}",
            "uint8 [n, h, w], [n, h, w, 1] or [n, h, w, 3], row by row",
            "Images are 8-bit pictures, grey or RGB.",
        )
    n, h, w, c = full
    return n, h, w, c


def blocks(file: Path, key: str) -> Callable[[], Iterator[NDArray[Any]]]:
    """The rows of an array in blocks [k, ...], in its own type."""

    def read() -> Iterator[NDArray[Any]]:
        with opened(file) as archive, _member(archive, file, key) as stream:
            (n, *shape), _, dtype = _header(stream)
            row = int(np.prod(shape)) * dtype.itemsize
            together = max(1, _BLOCK // row)
            for first in range(0, n, together):
                count = min(together, n - first)
                data = stream.read(count * row)
                if len(data) != count * row:
                    raise source_error(
                        file, f"{key} cut short at image {first}", f"{n} images", FETCH_AGAIN
                    )
                yield np.frombuffer(data, dtype).reshape(count, *shape)
            if stream.read(1):
                raise source_error(file, f"more of {key}", f"{n} images", FETCH_AGAIN)

    return read


def _member(archive: zipfile.ZipFile, file: Path, key: str) -> IO[bytes]:
    if f"{key}.npy" not in archive.namelist():
        there = ", ".join(name.removesuffix(".npy") for name in archive.namelist())
        raise source_error(file, f"the arrays {there}", f"one called {key}", "Correct the path.")
    return archive.open(f"{key}.npy")


def _header(stream: IO[bytes]) -> Header:
    if np.lib.format.read_magic(stream) == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)
