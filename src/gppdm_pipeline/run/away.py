"""Files behind a URL, by whatever fsspec reads it with."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec

from gppdm_pipeline.configuration.layers import ConfigurationError

logger = logging.getLogger(__name__)

Files = dict[str, str]
"""The SHA-256 of each file, by its path below data/."""


class StorageError(RuntimeError):
    """Runs here and behind the URL cannot be brought in step; the message is the whole story."""


class UnreachableError(StorageError):
    """What is behind the URL cannot be read or written now."""


class Away:
    """A folder behind a URL. Credentials are those of the environment.

    Each method raises UnreachableError for whatever the package that reads the URL raises.

    Attributes:
        url: of the folder.
    """

    def __init__(self, url: str) -> None:
        """Connect to nothing yet.

        Raises:
            ConfigurationError: if nothing reads such a URL.
        """
        self.url = url
        self._folders: set[str] = set()
        try:
            self._files, self._root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigurationError(
                f"url = {url} (storage.yml): {error}. Install what reads it (for s3://, pip "
                "install '.[s3]'), or name a URL of another kind."
            ) from error

    def read(self, file: str) -> bytes | None:
        """What a file holds; None if it is not there."""
        with self._reached():
            try:
                return bytes(self._files.cat_file(self._place(file)))
            except FileNotFoundError:
                return None

    def put(self, path: Path, file: str) -> None:
        """Write a file of this machine there."""
        place = self._place(file)
        folder = place.rpartition("/")[0]
        with self._reached():
            if folder not in self._folders:
                self._files.makedirs(folder, exist_ok=True)
                self._folders.add(folder)
            self._files.put_file(str(path), place)

    def replace(self, path: Path, file: str) -> None:
        """As `put`, but under another name first: the file is whole, or the one before."""
        new = f"{file}.new"
        self.put(path, new)
        with self._reached():
            self._files.mv(self._place(new), self._place(file))

    def get(self, file: str, digest: str, path: Path) -> bool:
        """Write a file that is there to `path`, if it is there and its SHA-256 is `digest`."""
        new = path.with_name(f".{path.name}.new")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._reached(), suppress(FileNotFoundError):
                self._files.get_file(self._place(file), str(new))
                if hashlib.sha256(new.read_bytes()).hexdigest() == digest:
                    new.replace(path)
                    return True
        finally:
            new.unlink(missing_ok=True)
        logger.warning("%s/%s is gone or is not as it was sent: it is made anew.", self.url, file)
        return False

    def remove(self, file: str) -> None:
        """Remove a file, if it is there."""
        with self._reached(), suppress(FileNotFoundError):
            self._files.rm_file(self._place(file))

    def _place(self, file: str) -> str:
        return f"{self._root}/{file}"

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise UnreachableError(
                f"{self.url} (storage.yml): {str(error) or type(error).__name__}. Check that it is "
                "there and may be read and written; the same command then goes on."
            ) from error
