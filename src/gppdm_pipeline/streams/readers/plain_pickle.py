"""Pickles of plain data, read without letting them name anything that could run.

Published data sets (CIFAR, CORe50) are pickles of dictionaries, lists, numbers, text and arrays. A
pickle makes anything else by naming a function to call. Here the few names that an array needs are
those of functions of this file, which take only numbers and bytes; other names are refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gppdm_pipeline.streams.errors import FETCH_AGAIN, SourceError, source_error


class _Array(np.ndarray):
    """An array that takes its contents from plain numbers only."""

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Numbers) or version != 1:
            raise ValueError("an array of something else than numbers")
        if len(data) != int(np.prod(shape, dtype=object)) * dtype.numpy.itemsize:
            raise ValueError(f"{len(data)} bytes for an array of {shape}")
        plain: Any = (1, tuple(map(int, shape)), dtype.numpy, bool(fortran), bytes(data))
        super().__setstate__(plain)


class _Numbers:
    """A dtype of whole numbers."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code
        if self.code not in {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}:
            raise ValueError(f"an array of {self.code}")
        self.numpy = np.dtype(self.code)

    def __setstate__(self, state: Any) -> None:
        if state[1] in (">", b">"):
            self.numpy = self.numpy.newbyteorder(">")


def _new_array(*_: object) -> _Array:
    return np.empty(0, np.uint8).view(_Array)


def _number(dtype: _Numbers, data: bytes) -> int:
    return int(np.frombuffer(bytes(data), dtype.numpy, count=1)[0])


def _latin(text: str, *_: object) -> bytes:
    """How Python 3 writes bytes for the old protocols."""
    return text.encode("latin-1")


def _nothing(*_: object) -> None:
    raise ValueError("an array that is not reconstructed")


_KNOWN: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _Numbers,
    "numpy.ndarray": _nothing,  # an argument of the next, never called
    "numpy.core.multiarray._reconstruct": _new_array,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray._reconstruct": _new_array,
    "numpy._core.multiarray.scalar": _number,
    "_codecs.encode": _latin,
}


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, stream: BinaryIO, file: Path | str) -> None:
        super().__init__(stream, encoding="bytes")
        self._file = file

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get(f"{module}.{name}")
        if known is None:
            raise source_error(
                self._file,
                f"a pickle that asks for {module}.{name}",
                "plain numbers, text and arrays",
                "It could run any program, and nothing of it was run. Do not use this file.",
            )
        return known


def load_plain(stream: BinaryIO, file: Path | str) -> Any:
    """The contents of a pickle of plain data; strings of Python 2 are bytes.

    Args:
        stream: of the pickle.
        file: its name, for messages.

    Raises:
        SourceError: if it is damaged, or names anything that is not in an array of whole numbers.
    """
    try:
        return _PlainUnpickler(stream, file).load()
    except SourceError:
        raise
    except Exception as error:  # damaged pickles fail in as many ways as there are bytes
        raise source_error(
            file, f"damaged data ({error})", "a whole pickle of plain data", FETCH_AGAIN
        ) from error
