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
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gppdm_pipeline.images.labelled import LabelledImages

_WORD = 8  # bytes that are looked up together
_BITS = 22  # of the table that says which words are none of any image
_ODD = np.uint64(0x9E3779B97F4A7C15)
_PIECE = 1 << 22  # bytes of a file that are looked at together: a multiple of _WORD
_AT_ONCE = 1 << 20  # bytes of images whose words are chosen together
_NUMPY = b"\x93NUMPY"
_HEAD = 128  # bytes of an array, in which its type is told
_DATA_URI = re.compile(rb"data:image/[a-z+.-]+;base64,\s*([A-Za-z0-9+/=\s]+)")
_SAFETENSORS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


class Needles:
    """Images that are looked for.

    Only every eighth place of a file is looked at: wherever an image begins in it, one of eight
    words of the image, of which each begins at another place modulo eight, is at such a place.
    Images that have no word there that tells them are looked for at every place, by one word; those
    of one colour are not looked for: their bytes are in too many places.

    Args:
        images: n of them, whose labels do not matter.
    """

    def __init__(self, images: LabelledImages) -> None:
        orders = [images.images, np.moveaxis(images.images, -1, 1)]
        different = orders[: 1 if images.image_shape[-1] == 1 else 2]
        self._forms = [np.ascontiguousarray(x).reshape(len(x), -1) for x in different]
        chosen = [_chosen(forms) for forms in self._forms]
        self._known = [
            (_Words(self._forms, [words[every] for words in chosen]), shifts)
            for every, shifts in enumerate((1, _WORD))
        ]

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
        for words, shifts in self._known:
            for start in range(0, len(data) if words else 0, _PIECE):
                piece = data[start : start + _PIECE + _WORD - 1]
                for shift in range(shifts):
                    part = piece[shift : shift + (len(piece) - shift) // _WORD * _WORD]
                    for hit, order, number, place in words.hits(part.view("<u8")):
                        at = start + shift + hit * _WORD - place
                        form = self._forms[order][number]
                        if number not in found and at >= 0:
                            if np.array_equal(data[at : at + len(form)], form):
                                found.add(number)
        return found


class _Words:
    """Words of images, to be found among many others.

    Args:
        forms: by order of channels, uint8 [n, bytes].
        chosen: by order, image and place in it of each word, int64 [m, 2].
    """

    def __init__(self, forms: list[NDArray[np.uint8]], chosen: list[NDArray[np.int64]]) -> None:
        parts = [
            np.lib.stride_tricks.sliding_window_view(x, _WORD, axis=1)[*of.T]
            for x, of in zip(forms, chosen, strict=True)
            if len(of)
        ]
        words = np.concatenate([np.empty((0, _WORD), np.uint8), *parts]).view("<u8")[:, 0]
        orders = np.repeat(np.arange(len(chosen)), [len(of) for of in chosen])
        order = words.argsort(kind="stable")
        self._words = words[order]
        self._entries = np.column_stack([orders, np.concatenate(chosen)])[order]
        self._table = np.zeros(1 << _BITS, np.bool_)
        self._table[_slots(words)] = True

    def __bool__(self) -> bool:
        return len(self._words) > 0

    def hits(self, words: NDArray[np.uint64]) -> Iterator[tuple[int, int, int, int]]:
        """Which of `words` are known: of each its place, and its order, image and place there."""
        maybe = np.flatnonzero(self._table[_slots(words)])
        first, end = (self._words.searchsorted(words[maybe], side) for side in ("left", "right"))
        for there in np.flatnonzero(first < end).tolist():
            for order, number, place in self._entries[first[there] : end[there]].tolist():
                yield int(maybe[there]), order, number, place


def _chosen(forms: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The words by which images [n, bytes] are known.

    Returns:
        Image and place of each, int64 [m, 2]: of those that have eight, and of the others.
    """
    eight, one = [np.empty((0, 2), np.int64)], [np.empty((0, 2), np.int64)]
    places = forms.shape[1] - _WORD + 1
    rows = max(1, _AT_ONCE // max(1, forms.shape[1]))
    for first in range(0, len(forms) if places > 0 else 0, rows):
        changes = np.diff(forms[first : first + rows], axis=1) != 0
        so_far = np.pad(changes.cumsum(1), ((0, 0), (1, 0)))
        telling = so_far[:, _WORD - 1 :] - so_far[:, : 1 - _WORD]  # changes within each word
        shifts = range(min(_WORD, places))
        best = np.stack([shift + _WORD * telling[:, shift::_WORD].argmax(1) for shift in shifts], 1)
        whole = (np.take_along_axis(telling, best, 1) > 0).all(1) & (len(shifts) == _WORD)
        of_whole, rest = np.flatnonzero(whole), np.flatnonzero(~whole & changes.any(1))
        images = np.repeat(first + of_whole, _WORD)
        eight.append(np.column_stack([images, best[of_whole].reshape(-1)]))
        one.append(np.column_stack([first + rest, telling[rest].argmax(1)]))
    return np.concatenate(eight), np.concatenate(one)


def _slots(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    slots: NDArray[np.uint64] = (words * _ODD) >> np.uint64(64 - _BITS)
    return slots


def _unpacked(content: bytes | memoryview) -> Iterator[bytes]:
    """What is packed in a file, if it can be unpacked: one layer."""
    head = bytes(content[:8])
    try:
        if head.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for member in archive.infolist():
                    if member.compress_type != zipfile.ZIP_STORED or _is_of_floats(archive, member):
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


def _is_of_floats(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    """Whether it is an array of floating point numbers, in which no image is as it is."""
    with archive.open(member) as stream:
        head = stream.read(_HEAD)
    return head.startswith(_NUMPY) and b"'descr': '<f" in head


def _numbers(content: bytes | memoryview) -> Iterator[NDArray[np.floating]]:
    """Arrays of floating point numbers: of .safetensors and .npy."""
    try:
        if content[:6] == _NUMPY:
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
