"""Locks, on file systems with and without them."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from gppdm_pipeline.locks import locked
from gppdm_pipeline.run.command import Lock


def failing(number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_work_goes_on_and_it_is_said(number, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with locked(tmp_path / "lock"):
        pass
    assert f"the file system has no locks ({os.strerror(number)})" in caplog.text
    assert "start no second run of the same settings" in caplog.text


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_run_begins_without_a_lock(number, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    lock = Lock()
    with lock.acquired(tmp_path / "lock", "digits/finetune/seed_0"):
        assert lock.held
    lock.release()
    assert "the file system has no locks" in caplog.text


@pytest.mark.parametrize("lock", [locked, lambda path: Lock().acquired(path, "run")])
def test_other_faults_are_told(lock, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"), lock(tmp_path / "lock"):
        pass


def test_a_lock_is_a_lock(tmp_path):
    with locked(tmp_path / "lock"), Path(tmp_path / "lock").open("a") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
