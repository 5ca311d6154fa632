"""Where MLflow's database and files are, of a project that may be moved or copied.

MLflow keeps the place of a run's files as an absolute path. Of a project that stands elsewhere now,
the paths in its own database are corrected.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit
from urllib.request import url2pathname

from gppdm_pipeline.algorithm.disk.writing import sync
from gppdm_pipeline.faults import of_mlflow
from gppdm_pipeline.locks import locked

logger = logging.getLogger(__name__)

SQLITE = "sqlite:///"
SERVERS = ("http", "https")
_OF_URLS = "?#%"  # mean something else in a URL, and SQLAlchemy has no way to write them


class TrackingError(RuntimeError):
    """MLflow cannot be used; nothing has been trained yet."""


def database_uri(settings: Mapping[str, str], project: Path) -> str:
    """Where MLflow is; a relative SQLite path would be wherever the command happens to run.

    A path that no URL can hold is told from the working directory, which in a run is the project's.
    """
    uri = settings["tracking_uri"]
    if not uri.startswith(SQLITE):
        return uri
    file = str(_home(project) / uri.removeprefix(SQLITE))
    return SQLITE + (os.path.relpath(file) if {*file} & {*_OF_URLS} else file)


def artifact_location(settings: Mapping[str, str], project: Path) -> str | None:
    """Where the files of new experiments are kept, as a URI.

    None with a server, which keeps them itself: a folder here would be another one for each machine
    that writes to it.
    """
    location = settings["artifact_location"]
    if "://" in location:
        return location
    if urlsplit(settings["tracking_uri"]).scheme in SERVERS:
        return None
    return (_home(project) / location).as_uri()


def alone(uri: str) -> AbstractContextManager[object]:
    """Of runs that start at once, one makes MLflow's tables and the experiment."""
    if not uri.startswith(SQLITE):
        return nullcontext()
    return locked(Path(f"{uri.removeprefix(SQLITE)}.lock"))


def make_database(uri: str) -> None:
    """Make MLflow's database in a file, if it is not there: beside its place, and put there whole.

    MLflow makes it by three hundred statements, after each of which SQLite waits for the disk. Here
    the disk is waited for once, at the end; a command that is stopped leaves no part of it there.

    Args:
        uri: of one writer at a time (see `alone`); others than those of SQLite's files are left to
            MLflow, as are those that have more in them than a path.

    Raises:
        MlflowException, SQLAlchemyError, sqlite3.Error, OSError: if it cannot be made.
    """
    file = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or {*uri} & {*_OF_URLS} or file.exists():
        return
    from mlflow import MlflowClient  # noqa: PLC0415 (slow)
    from sqlalchemy import Engine, event  # noqa: PLC0415 (slow)

    connections: list[sqlite3.Connection] = []

    def connected(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")
        connections.append(connection)

    with TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
        begun = Path(folder) / file.name
        event.listen(Engine, "connect", connected)
        try:
            MlflowClient(f"{SQLITE}{begun}")
        finally:
            event.remove(Engine, "connect", connected)
            for connection in connections:
                connection.close()
        sync(begun)
        begun.replace(file)


def follow_move(settings: Mapping[str, str], project: Path) -> None:
    """Let the project's own database name the places of files where the project stands now.

    It leaves alone what is not of the project: a server, a database or files elsewhere.

    Raises:
        sqlite3.Error: if the database cannot be read or written.
    """
    home, uri = _home(project), settings["tracking_uri"]
    file = home / uri.removeprefix(SQLITE)
    names = (Path(uri.removeprefix(SQLITE)), Path(settings["artifact_location"]))
    if not uri.startswith(SQLITE) or any(name.is_absolute() for name in names):
        return
    if "://" in settings["artifact_location"] or not file.exists():
        return
    with alone(f"{SQLITE}{file}"), closing(sqlite3.connect(file)) as database, database:
        if not database.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'experiments'"
        ).fetchone():
            return
        for old in {*_moved(database, names[1], home)}:
            runs = _correct(database, old, (home / names[1]).as_uri())
            logger.info(
                "The project stood in %s when MLflow's database was made: it names the files of %d "
                "runs in %s now.",
                Path(_path(old)).parents[len(names[1].parts) - 1],
                runs,
                home,
            )


def follow_move_or_tell(settings: Mapping[str, str], project: Path) -> None:
    """As `follow_move`.

    Raises:
        TrackingError: if the database cannot be read or written.
    """
    try:
        follow_move(settings, project)
    except (sqlite3.Error, OSError) as error:
        raise TrackingError(
            f"MLflow at {settings['tracking_uri']} (conf: mlflow.yml) refuses: {of_mlflow(error)}"
        ) from error


def _moved(database: sqlite3.Connection, location: Path, home: Path) -> Iterator[str]:
    """Places of experiments that are the project's, by their name within it, but not here."""
    for (place,) in database.execute("SELECT artifact_location FROM experiments"):
        there = Path(_path(place or ""))
        parts = location.parts
        if there.parts[-len(parts) :] == parts and there != home / location:
            yield place


def _correct(database: sqlite3.Connection, old: str, new: str) -> int:
    """Write the new place for the old; of runs and models whose files are not at the old alone.

    Returns:
        Of how many runs.
    """
    database.execute(
        "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (new, old)
    )
    for column in ("source", "storage_location"):
        _correct_column(database, "model_versions", column, old, new)
    return _correct_column(database, "runs", "artifact_uri", old, new)


def _correct_column(
    database: sqlite3.Connection, table: str, column: str, old: str, new: str
) -> int:
    """As `_correct`, of one column. Returns of how many rows."""
    if column not in {row[1] for row in database.execute(f"PRAGMA table_info({table})")}:
        return 0
    found = database.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
    places = [
        (place, new + place.removeprefix(old), row)
        for row, place in found
        if place and place.startswith(f"{old}/")
    ]
    moved = [(after, row) for before, after, row in places if not _stayed(before, after)]
    database.executemany(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", moved)
    return len(moved)


def _stayed(before: str, after: str) -> bool:
    """Whether files are at the old place alone; a run that was stopped early has none anywhere."""
    return os.path.exists(_path(before)) and not os.path.exists(_path(after))


def _path(uri: str) -> str:
    """Of a local file; empty for other URIs."""
    parts = urlsplit(uri)
    return url2pathname(parts.path) if parts.scheme == "file" else ""


def _home(project: Path) -> Path:
    """The project's folder; for a queued experiment of DVC, that of the project it is a copy of."""
    parts = project.parts
    for end in range(len(parts) - 2):
        if parts[end : end + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:end])
    return project
