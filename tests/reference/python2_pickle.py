"""Pickles as Python 2 wrote them, which published data sets are: text and bytes are one type."""

from __future__ import annotations

import io
import pickle
import struct


class _Python2Pickler(pickle._Pickler):  # type: ignore[misc]
    dispatch = pickle._Pickler.dispatch.copy()

    def save_str(self, text):
        data = text.encode("latin-1") if isinstance(text, str) else text
        if len(data) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)

    dispatch[str] = dispatch[bytes] = save_str


def python2_pickle(value):
    """Protocol 2."""
    file = io.BytesIO()
    _Python2Pickler(file, 2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")
