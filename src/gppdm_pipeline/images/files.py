"""Labelled images as .npz: uint8 or float16 `images` [n, h, w, c], int64 `labels` [n].

Of what an encoder has made there is int64 `picture_shape`, [height, width, channels], too.

Few images are compressed. Many are stored as they are, so that reading them is mapping the file:
memory then holds what is looked at, and gives it back when something else needs room. What an
encoder has made of images is stored as it is, too: it hardly becomes smaller.
"""

from __future__ import annotations

import struct
import zipfile
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gppdm_pipeline.images.labelled import IN_MEMORY, LabelledImages

_CHUNK = 1 << 22
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # of a member in a zip file


def write_images(data: LabelledImages, file: BinaryIO) -> None:
    """Write .npz, the same to the byte for the same images."""
    arrays: dict[str, Any] = {"images": data.images, "labels": data.labels}
    packs = data.images.dtype == np.uint8 and data.images.nbytes <= IN_MEMORY
    save = np.savez_compressed if packs else np.savez
    if data.picture_shape is not None:
        arrays["picture_shape"] = np.array(data.picture_shape, np.int64)
    save(file, **arrays)


def read_images(file: BinaryIO) -> LabelledImages:
    """Read .npz; what is stored uncompressed is mapped (a change to it stays in memory).

    Raises:
        ValueError, KeyError, EOFError, zipfile.BadZipFile: if the file is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        member = archive.getinfo("images.npy")
        maps = member.compress_type == zipfile.ZIP_STORED and member.file_size > IN_MEMORY
        images = _mapped(archive, member, file) if maps else _array(archive, "images")
        there = "picture_shape.npy" in archive.namelist()
        shape = tuple(_array(archive, "picture_shape").tolist()) if there else None
        return LabelledImages(images, _array(archive, "labels"), shape)


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        _to_the_end(stream)
    return array


def _mapped(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: BinaryIO) -> NDArray[Any]:
    with archive.open(member) as stream:
        np.lib.format.read_magic(stream)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype not in (np.uint8, np.float16) or fortran:
            raise ValueError(f"images of {dtype}, not of uint8 or float16 row by row")
        start = stream.tell()
        _to_the_end(stream)
    file.seek(member.header_offset)
    header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    offset = member.header_offset + _LOCAL_HEADER.size + header[-2] + header[-1] + start
    return np.asarray(np.memmap(file, dtype, "c", offset, shape))


def _to_the_end(stream: IO[bytes]) -> None:
    """Read what is left: the member's checksum is compared at its end."""
    while stream.read(_CHUNK):
        pass
