"""How a command ends that cannot do its work: with a sentence, and no traceback.

What the system, Kedro or MLflow refuse is told with its repair. A fault of the code's own leaves
its traceback in a file, and the sentence says which.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from kedro.utils import find_kedro_project

import gppdm_pipeline

LOGS = Path("data/.faults")
"""Where tracebacks go, in the project."""

_REPAIRS = {
    errno.EROFS: "Copy the project to where you may write, or mount it so.",
    errno.ENOSPC: "Free space on that disk.",
    errno.EDQUOT: "Free some of what your quota allows.",
    errno.EACCES: "Allow this user to read and write there.",
    errno.EPERM: "Allow this user to read and write there.",
    errno.ENOENT: "Put it back, or correct the path.",
    errno.ENOTDIR: "Something else has the name of a folder: rename it, or correct the path.",
    errno.EISDIR: "A folder has the name of a file: rename it, or correct the path.",
    errno.EEXIST: "Something else has this name: rename it.",
    errno.ENAMETOOLONG: "Use shorter names.",
    errno.EMFILE: "Allow more open files (ulimit -n).",
    errno.ENOLCK: "Put it on a file system that has locks.",
    errno.EIO: "Check the disk.",
    errno.ESTALE: "Check the network disk.",
}
_OF_SQLITE = {
    "disk is full": "Free space on the disk of the database",
    "readonly database": "Allow this user to write the database and its folder",
    "unable to open database": "Allow this user to read and write the database and its folder",
    "database is locked": "Wait until the program that holds the database has ended",
    "disk I/O error": "Check the disk of the database",
    "not a database": "Put the database back from a copy, or move it away to have a new one",
    "malformed": "Put the database back from a copy, or move it away to have a new one",
}
"""By words of SQLite, whose errors have no number."""
_REFUSING = {
    "kedro": "Kedro refuses the command or a file in conf/",
    "omegaconf": "Kedro refuses the command or a file in conf/",
    "yaml": "Kedro refuses the command or a file in conf/",
    "mlflow": "MLflow (conf: mlflow.yml) refuses",
    "sqlalchemy": "MLflow's database (conf: mlflow.yml) refuses",
}
"""Libraries that say themselves what a user gave them and they cannot take."""
_TRACKING = ("mlflow", "sqlalchemy")

_OURS = __package__


class PlainCommand(click.Command):
    """A command that no traceback comes out of."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:  # noqa: D102
        with told():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: D102
        with told():
            return super().invoke(ctx)


@contextmanager
def told() -> Iterator[None]:
    """Click prints an exception of its own without a traceback: the message says it all."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise
    except Exception as error:
        raise click.ClickException(explained(error) or _own(error)) from error


def explained(error: Exception) -> str | None:
    """What is wrong and how to put it right; None for a fault of the code's own."""
    if isinstance(error, OSError):
        return of_system(error)
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] != _OURS:
        return (
            f"A package is missing, or not whole: {error}. Install the requirements again (pip "
            "install -r requirements.txt), and give the command again."
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        what = (str(error).splitlines() or ["none is left"])[0]
        return (
            f"Memory does not suffice: {what}. Make batch_size or the images smaller, or "
            "use a larger machine; the same command then goes on."
        )
    raiser = _raiser(error)
    refusing = _REFUSING.get(raiser)
    if refusing is None:
        return None
    if raiser in _TRACKING:
        return f"{refusing}: {of_mlflow(error)}"
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return f"{refusing}: {text or type(error).__name__}"


def of_system(error: OSError) -> str:
    """What the system refuses, with the path and the repair."""
    return _again(*_of_system(error))


def of_mlflow(error: Exception) -> str:
    """What MLflow, its database or the system refuses, with the repair."""
    return _again(*_of_mlflow(error))


def of_mlflow_on_the_way(error: Exception) -> str:
    """As `of_mlflow`, while a run goes on without it."""
    what, repair = _of_mlflow(error)
    return f"{what}. {repair}."


def _again(what: str, repair: str) -> str:
    return f"{what}. {repair}, and give the command again."


def _of_system(error: OSError) -> tuple[str, str]:
    what = error.strerror or str(error) or type(error).__name__
    repair = _REPAIRS.get(error.errno or 0, "Put that right")
    names = [
        os.fsdecode(n) for n in (error.filename, error.filename2) if isinstance(n, str | bytes)
    ]
    if not names and isinstance(error, ConnectionError | TimeoutError):
        return f"The network: {what}", "Check that the server is there"
    return f"{' -> '.join(names) or 'The system'}: {what}", repair.rstrip(".")


def _of_mlflow(error: Exception) -> tuple[str, str]:
    if isinstance(error, OSError):
        return _of_system(error)
    of_file = re.search(r"^\[Errno (\d+)\] (.+)", str(error), re.MULTILINE)  # as MLflow lists them
    if of_file:
        return of_file[2], _REPAIRS.get(int(of_file[1]), "Put that right").rstrip(".")
    of_database = re.search(r"^\(\w+\.\w+\) (.+)", str(error), re.MULTILINE)  # as SQLAlchemy says
    first = (str(error).splitlines() or [type(error).__name__])[0]
    what = (of_database[1] if of_database else first).rstrip(". ")
    found = (repair for words, repair in _OF_SQLITE.items() if words in what)
    return what, next(found, "Put that right")


def _raiser(error: BaseException) -> str:
    """The package, of ours and those that refuse, whose code is the last that raised the error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames]
    known = [package for package in packages if package in {_OURS, *_REFUSING}]
    return known[-1] if known else ""


def _own(error: Exception) -> str:
    """What to say of a fault of the code; its traceback is kept in a file."""
    now = datetime.now(UTC)
    text = (
        f"{now.isoformat(timespec='seconds')}\n{' '.join(sys.argv)}\n"
        f"gppdm_pipeline {gppdm_pipeline.__version__}, Python {sys.version}, {sys.platform}\n\n"
        + "".join(traceback.format_exception(error))
    )
    project = find_kedro_project(Path.cwd()) or Path.cwd()
    for folder in (project / LOGS, Path(tempfile.gettempdir())):
        file = folder / f"gppdm-{now:%Y%m%d-%H%M%S}-{os.getpid()}.log"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        first = (str(error).splitlines() or [""])[0]
        return (
            f"This is a fault of gppdm-pipeline: {type(error).__name__}: {first}\n"
            f"Please report it, with the file {file}: it holds the command and where it failed. "
            "What was finished is kept."
        )
    return text  # nothing can be written anywhere
