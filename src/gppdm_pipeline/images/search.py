"""Which of given images are in a file: by their bytes, wherever and however deep they lie in it.

Bytes are looked for as they are, in what is packed (.npz, .gz, data URIs in pages), in PNG files,
and in arrays of numbers in [-1, 1] or [0, 1]. Pictures that show images enlarged are not.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gppdm_pipeline.images.labelled import LabelledImages

_WORD = 8  # bytes that are looked up at every place
_BITS = 20  # of the table in which they are
_ODD = np.uint64(0x9E3779B97F4A7C15)
_PIECE = 1 << 24
_DATA_URI = re.compile(rb"data:image/[a-z+.-]+;base64,\s*([A-Za-z0-9+/=\s]+)")
_SAFETENSORS = {"F32": "<f4", "F64": "<f8"}


class Needles:
    """Images that are looked for.

    An image of one colour is not: its bytes are in too many places.

    Args:
        images: n of them, whose labels do not matter.
    """

    def __init__(self, images: LabelledImages) -> None:
        self._shape = images.image_shape
        self._at: dict[int, list[tuple[int, int, bytes]]] = defaultdict(list)
        self._table = np.zeros(1 << _BITS, np.bool_)
        for number, image in enumerate(images.images):
            for form in {image.tobytes(), np.moveaxis(image, -1, 0).tobytes()}:
                place = _telling(np.frombuffer(form, np.uint8))
                if place is not None:
                    word = form[place : place + _WORD]
                    self._at[int.from_bytes(word, "little")].append((number, place, form))
        if self._at:
            self._table[_slots(np.array([*self._at], "<u8"))] = True

    def found_in(self, content: bytes | memoryview) -> set[int]:
        """Which of the images a file with this content holds."""
        found = self._in_bytes(content)
        for part in _unpacked(content):
            found |= self.found_in(part)
        for numbers in _numbers(content):
            for scaled in ((numbers + 1) * 127.5, numbers * 255.0):
                found |= self._in_bytes(np.rint(np.clip(scaled, 0, 255)).astype(np.uint8).data)
        return found

    def _in_bytes(self, content: bytes | memoryview) -> set[int]:
        data, found = np.frombuffer(content, np.uint8), set[int]()
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE + _WORD - 1]
            for shift in range(_WORD):
                words = piece[shift : shift + (len(piece) - shift) // _WORD * _WORD].view("<u8")
                for hit in np.flatnonzero(self._table[_slots(words)]).tolist():
                    at = start + shift + hit * _WORD
                    found |= self._whole(data, at, int(words[hit]), found)
        return found

    def _whole(self, data: NDArray[np.uint8], at: int, word: int, known: set[int]) -> set[int]:
        """The images of this word that are there from end to end."""
        return {
            number
            for number, place, form in self._at.get(word, ())
            if number not in known
            and at >= place
            and data[at - place : at - place + len(form)].tobytes() == form
        }


def _telling(image: NDArray[np.uint8]) -> int | None:
    """Where the eight bytes begin that few other files will have; None if all are one."""
    words = np.lib.stride_tricks.sliding_window_view(image, min(_WORD, len(image)))
    different = (np.diff(np.sort(words, 1), axis=1) > 0).sum(1)
    place = int(different.argmax())
    return place if different[place] and words.shape[1] == _WORD else None


def _slots(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    slots: NDArray[np.uint64] = (words * _ODD) >> np.uint64(64 - _BITS)
    return slots


def _unpacked(content: bytes | memoryview) -> Iterator[bytes]:
    """What is packed in a file, if it can be unpacked: one layer."""
    head = bytes(content[:8])
    try:
        if head.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                members = [m for m in archive.infolist() if m.compress_type != zipfile.ZIP_STORED]
                for member in members:
                    yield archive.read(member)
        elif head.startswith(b"\x1f\x8b"):
            yield gzip.decompress(content)
        elif head.startswith(b"\x89PNG"):
            with Image.open(io.BytesIO(content)) as picture:
                yield np.asarray(picture).tobytes()
                if picture.mode != "L":
                    yield np.asarray(picture.convert("RGB")).tobytes()
                    yield np.asarray(picture.convert("L")).tobytes()
        elif head.lstrip().startswith(b"<"):
            for uri in _DATA_URI.finditer(content):
                yield base64.b64decode(uri[1])
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile):
        return  # damaged, and so read by nobody


def _numbers(content: bytes | memoryview) -> Iterator[NDArray[np.floating]]:
    """Arrays of floating point numbers: of .safetensors and .npy."""
    try:
        if content[:6] == b"\x93NUMPY":
            array = np.load(io.BytesIO(content), allow_pickle=False)
            if array.dtype.kind == "f":
                yield array
        elif content[8:9] == b"{":
            size = int.from_bytes(content[:8], "little")
            header = json.loads(bytes(content[8 : 8 + size]))
            for tensor in header.values():
                if tensor.get("dtype") in _SAFETENSORS:
                    start, end = (8 + size + offset for offset in tensor["data_offsets"])
                    yield np.frombuffer(content[start:end], _SAFETENSORS[tensor["dtype"]])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
        return  # something else that begins so
