"""Images of files, decoded once and memory-mapped from then on.

What is prepared lies in a folder of its own below `cache_folder()`: images.npy, labels.npy and
prepared.json. It can be removed at any time. It is made under another name and renamed when it is
whole, by one process at a time, and made anew when the files or the settings are not those that it
was made from, or when it is damaged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.locks import locked
from gppdm_pipeline.streams.errors import SourceError, unreadable
from gppdm_pipeline.streams.preparing import Job, write_images
from gppdm_pipeline.wording import listed

logger = logging.getLogger(__name__)

_FORMAT = 1  # of what is prepared; another one is made anew
_CHUNK = 1 << 22

_sound: set[tuple[str, int, int]] = set()  # folders whose bytes this process has checked


def cache_folder() -> Path:
    """Where prepared images are: $GPPDM_CACHE, or data/02_intermediate of the project.

    A command works in the project's folder; other callers in their own.
    """
    return Path(os.environ.get("GPPDM_CACHE", "data/02_intermediate"))


def prepared(job: Job) -> LabelledImages:
    """The images, read-only and mapped from the cache; they are prepared if they are not there.

    Raises:
        SourceError: if a file cannot be read, an image is damaged or of another size than the
            others, or the cache cannot be written.
    """
    folder = folder_of(job.name, job.settings)
    files = _stamp(job.files)
    found = _open(folder, files)
    if found is not None:
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(_lock(folder)):
            found = _open(folder, files)  # another process may have prepared it meanwhile
            if found is None:
                _prepare(job, folder, files)
                found = _open(folder, files)
    except OSError as error:
        if error.filename and not _is_of_cache(os.fsdecode(error.filename), folder.parent):
            raise unreadable(error) from error
        raise SourceError(
            f"{folder}: prepared images cannot be written ({error.strerror or error}). Free space, "
            "allow writing, or set the environment variable GPPDM_CACHE to a folder elsewhere."
        ) from error
    if found is None:
        raise SourceError(f"{folder}: is damaged as soon as it is written. Check the disk.")
    return found


def _is_of_cache(name: str, cache: Path) -> bool:
    """Whether it is the cache's folder, in it, or above it, where it could not be made."""
    file, cache = Path(name).absolute(), cache.absolute()
    return file.is_relative_to(cache) or cache.is_relative_to(file)


def folder_of(name: str, settings: Mapping[str, Any]) -> Path:
    """Where the images of a job (see `Job`) are prepared; it need not exist."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"{name}-{digest[:16]}"


def folders_with(name: str, settings: Mapping[str, Any]) -> list[Path]:
    """Where images of such jobs (see `Job`) are prepared, whatever their other settings."""
    found = []
    for record in cache_folder().glob(f"{name}-*/prepared.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # damaged: made anew by its name
            there = json.loads(record.read_bytes())["settings"]
            if all(there[key] == value for key, value in settings.items()):
                found.append(record.parent)
    return found


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from preparing `folder`; what a kill has left of it half-written goes.

    Processes that have it mapped keep what they have mapped.
    """
    if not folder.parent.exists():
        yield
        return
    with locked(_lock(folder)):
        shutil.rmtree(_unfinished(folder), ignore_errors=True)
        yield


def _lock(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _unfinished(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.new")


def _stamp(files: Iterable[Path | str]) -> str:
    """A hash of names, sizes and times."""
    lines = []
    for file in files:
        try:
            status = os.stat(file)
        except OSError as error:
            raise unreadable(error) from error
        lines.append(f"{file}\0{status.st_size}\0{status.st_mtime_ns}")
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def _open(folder: Path, files: str) -> LabelledImages | None:
    """What is there, if it is whole and of these files."""
    record = folder / "prepared.json"
    try:
        status = record.stat()
        about = json.loads(record.read_bytes())
        if about["format"] != _FORMAT or about["files"] != files:
            return None
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        data = LabelledImages(images, labels)
        key = (str(folder.resolve()), status.st_mtime_ns, status.st_ino)
        if key not in _sound:
            assert isinstance(images, np.memmap)
            checksums = [_checksum(folder / "images.npy", images.offset), zlib.crc32(labels)]
            if checksums != about["checksums"]:
                raise ValueError("checksums differ")
            _sound.add(key)
            _tell_skipped(about["skipped"], record)
        return data
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        logger.warning("%s is damaged (%s) and is made anew.", folder, error)
        return None


def _prepare(job: Job, folder: Path, files: str) -> None:
    contents = job.contents()
    chosen = np.flatnonzero(job.limit(contents.labels))
    temporary = _unfinished(folder)
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir()
    try:
        with (temporary / "images.npy").open("wb") as file:
            written = write_images(job, contents, chosen, file)
            _write_through(file)
        with (temporary / "labels.npy").open("wb") as file:
            labels = contents.labels[chosen[written.kept]]
            np.save(file, labels)
            _write_through(file)
        about = {
            "format": _FORMAT,
            "settings": job.settings,
            "files": files,
            "checksums": [written.checksum, zlib.crc32(labels.data)],
            "skipped": written.damaged,
        }
        with (temporary / "prepared.json").open("w") as file:
            json.dump(about, file, indent=2)
            _write_through(file)
        shutil.rmtree(folder, ignore_errors=True)  # damaged, or of other files
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    logger.info(
        "Prepared %d images of %d x %d x %d in %s (made anew when it is removed and needed).",
        *written.shape,
        folder,
    )


def _tell_skipped(skipped: Sequence[str], record: Path) -> None:
    if skipped:
        names = listed([entry.split(": ")[0] for entry in skipped])
        logger.warning(
            "%d damaged images are left out: %s (all in %s)", len(skipped), names, record
        )


def _write_through(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _checksum(file: Path, start: int) -> int:
    """Of the bytes from `start` on, read as a stream: of a memory map they would stay resident."""
    checksum = 0
    with file.open("rb") as stream:
        stream.seek(start)
        while chunk := stream.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
