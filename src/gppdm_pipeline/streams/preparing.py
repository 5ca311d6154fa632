"""Images of files as one array on disk: decoded in threads, in constant memory."""

from __future__ import annotations

import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gppdm_pipeline.streams.conversion import Conversion, UndecodableError
from gppdm_pipeline.streams.errors import SourceError, source_error

_TOGETHER = 256  # images in memory at a time

Image = bytes | Path | NDArray[np.uint8]
"""An image file's bytes, its path, or pixels [h, w, c]."""


@dataclass(frozen=True)
class Contents:
    """What a split holds.

    Attributes:
        labels: int64 [n].
        images: given ascending positions, each one's name for messages and the image.
        where: the file or folder, for messages.
    """

    labels: NDArray[np.int64]
    images: Callable[[NDArray[np.int64]], Iterable[tuple[str, Image]]]
    where: Path


@dataclass(frozen=True)
class Job:
    """All that decides what is prepared.

    Attributes:
        name: of its folder, before the hash of the settings.
        settings: plain JSON values.
        files: all that is read; their names, sizes and times tell whether they are the same.
        contents: reads labels and names; images only when it is iterated over.
        limit: which of them are wanted, given their labels.
        conversion: size and colours.
        skip_damaged: leave damaged images out, with a warning, instead of refusing them.
    """

    name: str
    settings: Mapping[str, Any]
    files: Iterable[Path | str]
    contents: Callable[[], Contents]
    limit: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
    conversion: Conversion
    skip_damaged: bool = False


@dataclass(frozen=True)
class Written:
    """What became of the images that were wanted.

    Attributes:
        shape: (n, height, width, channels).
        kept: bool, which of the wanted are among the n.
        damaged: what is wrong with the others.
        checksum: CRC-32 of the pixels.
    """

    shape: tuple[int, ...]
    kept: NDArray[np.bool_]
    damaged: list[str]
    checksum: int


def write_images(
    job: Job, contents: Contents, chosen: NDArray[np.int64], file: BinaryIO
) -> Written:
    """Write images as .npy.

    Memory holds `_TOGETHER` images at a time, and threads change no bit: what they make is put down
    in the images' order.

    Args:
        job: the rules, and its name for the progress bar.
        contents: where the images come from.
        chosen: int64, ascending positions of those that are wanted.
        file: empty, in a folder of its own.

    Raises:
        SourceError: if an image is damaged or of another shape than the first, or all of them do
            not fit on the disk.
    """
    writing = _Writing(file, np.ones(len(chosen), np.bool_))
    title, quiet = f"preparing {job.name}", not sys.stderr.isatty()
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(chosen), desc=title, disable=quiet, dynamic_ncols=True) as bar,
    ):
        for batch in _batches(contents.images(chosen), _TOGETHER):
            results = list(pool.map(partial(_convert, job.conversion), batch))
            whole = writing.whole([name for name, _ in batch], results)
            if writing.damaged and not job.skip_damaged:
                raise _refused(writing.damaged, writing.done, contents.where)
            writing.write(whole)
            bar.update(len(batch))
    assert writing.done == len(chosen)
    if not writing.shape:
        raise _nothing(writing.damaged, contents.where)
    return writing.ended()


@dataclass
class _Writing:
    """The file as far as it is written.

    Attributes:
        file: of the images.
        kept: bool, which of the wanted images are in it, as far as is known.
        damaged: what is wrong with the others.
        shape: (height, width, channels) of the first image; empty before it.
        done: how many images were tried.
        checksum: CRC-32 of the pixels.
    """

    file: BinaryIO
    kept: NDArray[np.bool_]
    damaged: list[str] = field(default_factory=list)
    shape: tuple[int, ...] = ()
    done: int = 0
    checksum: int = 0

    def whole(
        self, names: Sequence[str], results: Sequence[NDArray[np.uint8] | str]
    ) -> list[NDArray[np.uint8]]:
        """Those of the next results that are images; it is noted what is wrong with others."""
        found = []
        for name, result in zip(names, results, strict=True):
            if isinstance(result, str):
                self.damaged.append(f"{name}: {result}")
                self.kept[self.done] = False
            else:
                if not self.shape:
                    self.shape = result.shape
                    _start(self.file, (len(self.kept), *self.shape))
                _check_shape(name, result.shape, self.shape)
                found.append(result)
            self.done += 1
        return found

    def write(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """Write images of the file's shape, of which there may be none."""
        if images:
            pixels = np.ascontiguousarray(np.stack(images)).data
            self.checksum = zlib.crc32(pixels, self.checksum)
            self.file.write(pixels)

    def ended(self) -> Written:
        """Say in the file's head how many images it has."""
        shape = (int(self.kept.sum()), *self.shape)
        self.file.seek(0)
        _header(self.file, shape)
        return Written(shape, self.kept, self.damaged, self.checksum)


def _convert(conversion: Conversion, item: tuple[str, Image]) -> NDArray[np.uint8] | str:
    """The pixels, or what is wrong."""
    image = item[1]
    if isinstance(image, np.ndarray):
        return conversion.convert(image)
    try:
        return conversion.decode(image.read_bytes() if isinstance(image, Path) else image)
    except UndecodableError as error:
        return str(error)


def _start(file: BinaryIO, shape: tuple[int, ...]) -> None:
    size, free = int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(file.name).free
    if size > free:
        raise SourceError(
            f"{Path(file.name).parent.parent}: {size / 1e9:.1f} GB of prepared images do not fit "
            f"on this disk, which has {free / 1e9:.1f} GB free. Free space, set a smaller `resize` "
            "or train_per_class, or set the environment variable GPPDM_CACHE to a folder elsewhere."
        )
    _header(file, shape)


def _header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """NumPy's; it leaves room for the first dimension to change, so that its length does not."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _check_shape(name: str, found: tuple[int, ...], first: tuple[int, ...]) -> None:
    if found != first:
        raise source_error(
            name,
            f"an image of {found} (height, width, channels)",
            f"{first} like the first",
            "Images have to be of one size and colour: set `resize` (and `fit`) for the size, "
            "`colour` to grey or rgb for the channels.",
        )


def _refused(damaged: Sequence[str], tried: int, where: Path) -> SourceError:
    more = f"\n  and {len(damaged) - 10} more" if len(damaged) > 10 else ""
    return SourceError(
        f"{where}: {len(damaged)} of the first {tried} images cannot be decoded:\n  "
        + "\n  ".join(damaged[:10])
        + more
        + "\nPut them right or remove them, or set `damaged: skip` to leave such images out."
    )


def _nothing(damaged: Sequence[str], where: Path) -> SourceError:
    found = f"no image that can be decoded ({damaged[0] if damaged else 'none at all'})"
    return source_error(where, found, "some", "Correct the path.")


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
