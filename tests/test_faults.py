"""What a command says that cannot do its work."""

from __future__ import annotations

import errno
import importlib
import os
import re
import sqlite3
import tempfile
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from mlflow.exceptions import MlflowException
from omegaconf import OmegaConf

from gppdm_pipeline import faults
from gppdm_pipeline.faults import PlainCommand


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ended(work):
    """What a command prints that does this work, and its exit code."""
    done = CliRunner().invoke(PlainCommand("work", callback=work))
    assert isinstance(done.exception, SystemExit | None)
    assert "Traceback" not in done.output
    return done.output, done.exit_code


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("number", "repair"),
    [
        (errno.EROFS, "Copy the project to where you may write"),
        (errno.ENOSPC, "Free space on that disk"),
        (errno.EACCES, "Allow this user to read and write there"),
        (errno.ENOENT, "Put it back, or correct the path"),
        (errno.EXDEV, "Put that right"),
    ],
)
def test_what_the_system_refuses_is_told_with_path_and_repair(number, repair):
    text, code = ended(raising(OSError(number, os.strerror(number), "/data/a file")))
    assert text == (
        f"Error: /data/a file: {os.strerror(number)}. {repair}"
        f"{', or mount it so' if number == errno.EROFS else ''}, and give the command again.\n"
    )
    assert code == 1


def test_a_server_that_is_not_there_is_told():
    text, code = ended(raising(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")))
    assert "The network: Connection refused. Check that the server is there" in text
    assert code == 1


def test_a_package_that_is_missing_is_told():
    text, code = ended(lambda: importlib.import_module("no_such_package"))
    assert "A package is missing, or not whole: No module named 'no_such_package'" in text
    assert "pip install -r requirements.txt" in text
    assert code == 1
    text, _ = ended(lambda: importlib.import_module("gppdm_pipeline.no_such_module"))
    assert "This is a fault of gppdm-pipeline" in text


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            MlflowException("(sqlite3.OperationalError) database or disk is full\n[SQL: INSERT]"),
            "database or disk is full. Free space on the disk of the database, and give",
        ),
        (
            sqlite3.OperationalError("attempt to write a readonly database"),
            "attempt to write a readonly database. Allow this user to write the database and its",
        ),
        (
            MlflowException("Failures of x:\n##### File a #####\n[Errno 28] No space left: 'a'\n"),
            "No space left: 'a'. Free space on that disk, and give the command again.",
        ),
        (MlflowException("Run 'x' not found"), "Run 'x' not found. Put that right, and give the"),
        (
            OSError(errno.ENOSPC, "No space left on device", "mlruns/x"),
            "mlruns/x: No space left on device. Free space on that disk, and give the command",
        ),
    ],
)
def test_what_mlflow_refuses_is_told_in_a_line_with_the_repair(error, told):
    assert faults.of_mlflow(error).startswith(told)
    assert faults.of_mlflow_on_the_way(error).count("\n") == 0
    assert "the command" not in faults.of_mlflow_on_the_way(error)


def test_too_little_memory_is_told():
    text, code = ended(raising(MemoryError("Unable to allocate 9 TiB")))
    assert "Memory does not suffice: Unable to allocate 9 TiB. Make batch_size" in text
    assert code == 1


def refused_by_yaml():
    yaml.safe_load("a: [1")


def refused_by_omegaconf():
    OmegaConf.to_container(OmegaConf.create({"a": "${b}"}), resolve=True)


@pytest.mark.parametrize("work", [refused_by_yaml, refused_by_omegaconf])
def test_what_a_library_refuses_is_told_in_its_words(work):
    text, code = ended(work)
    assert text.startswith("Error: Kedro refuses the command or a file in conf/: ")
    assert code == 1
    assert not faults.LOGS.exists()


def test_a_fault_of_the_code_leaves_its_traceback_in_a_file(project, monkeypatch):
    (project / "pyproject.toml").write_text("[tool.kedro]\n")
    (project / "notebooks").mkdir()
    monkeypatch.chdir(project / "notebooks")
    text, code = ended(lambda: {}["lost"])
    assert code == 1
    (file,) = (project / faults.LOGS).iterdir()
    assert f"KeyError: 'lost'\nPlease report it, with the file {file}" in text
    log = file.read_text()
    assert "Traceback (most recent call last)" in log
    assert re.search(r"gppdm_pipeline \d", log)


def test_a_library_called_wrongly_by_the_code_is_a_fault_of_the_code():
    text, _ = ended(raising(MlflowException("made here")))
    assert "This is a fault of gppdm-pipeline: MlflowException: made here" in text


def test_where_the_project_cannot_be_written_the_traceback_goes_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "data").write_text("no folder")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    text, _ = ended(lambda: 1 // 0)
    (file,) = tmp_path.glob("gppdm-*.log")
    assert str(file) in text
    assert "ZeroDivisionError" in file.read_text()


def test_what_click_says_itself_stays():
    with pytest.raises(click.exceptions.Exit), faults.told():
        raise click.exceptions.Exit(3)
    with pytest.raises(click.ClickException, match=r"^so$"), faults.told():
        raise click.ClickException("so")


def test_paths_of_bytes_are_told():
    error = OSError(errno.ENOENT, "gone", os.fsencode(Path("ä")))
    assert faults.of_system(error).startswith("ä: gone.")
