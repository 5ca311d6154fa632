"""Files that are whole or not there, and errors of the system that say which file it was."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def naming(place: Path) -> Iterator[None]:
    """Inside, an error of the system names `place` if it does not say where it was.

    On a full disk it names nothing; what removes a folder names what is within by the last name.

    Raises:
        OSError: what the system refuses; safetensors makes an error of its own of it.
    """
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(place)) from error
    except OSError as error:
        name = error.filename
        if error.errno is not None and not (
            isinstance(name, str | bytes) and os.path.dirname(name)
        ):
            error.filename = str(place)
        raise


def let_others_read(folder: Path) -> None:
    """Give the files of safetensors, which lets their writer alone read them, the usual rights."""
    usual = folder / ".usual"
    usual.touch()
    for file in folder.rglob("*.safetensors"):
        file.chmod(usual.stat().st_mode)
    usual.unlink()


def replace_file(file: Path, content: bytes) -> None:
    """Write a file; if that fails, or is stopped, what was there before stays.

    Args:
        file: in a folder that is there.
        content: all of it.

    Raises:
        OSError: naming the file.
    """
    temporary = file.with_name(f".{file.name}.new")
    with naming(file):
        try:
            with temporary.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or what a folder names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(temporary: Path, folder: Path) -> None:
    """Put a new folder in the place of one that may be there, which stays if that fails.

    A folder cannot be renamed over one that has files.
    """
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old.{os.getpid()}")
        folder.rename(old)
        try:
            temporary.rename(folder)
        except BaseException:
            old.rename(folder)
            raise
        shutil.rmtree(old)
    else:
        temporary.rename(folder)
    sync(folder.parent)
