"""Locks between processes, which some file systems do not have."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

logger = logging.getLogger(__name__)

_MISSING = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def file_lock(path: Path) -> FileLock:
    """The lock of a file, for all threads of this process; a kill leaves no mark behind."""
    return FileLock(path, thread_local=False, fallback_to_soft=False)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Inside, no other process is inside the same; without a lock, if the file system has none."""
    lock = file_lock(path)
    try:
        lock.acquire()
    except OSError as error:
        if not lacks_locks(error, path):
            raise
    try:
        yield
    finally:
        lock.release()


def lacks_locks(error: OSError, path: Path) -> bool:
    """Whether it is the file system that has no locks; then it is said."""
    if error.errno not in _MISSING:
        return False
    logger.warning(
        "%s: the file system has no locks (%s). The run goes on without: start no second run of "
        "the same settings beside it.",
        path,
        error.strerror,
    )
    return True
