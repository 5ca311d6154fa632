"""Errors of the system name a file, and files are whole or as they were."""

import errno
import os

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from gppdm_pipeline.algorithm.disk.writing import let_others_read, naming, replace_file


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_error_without_a_name_gets_one_and_others_keep_theirs(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*/state'"), naming(
        tmp_path / "state"
    ):  # fmt: skip
        full()
    with pytest.raises(FileNotFoundError) as kept, naming(tmp_path / "state"):
        (tmp_path / "other").read_bytes()
    assert kept.value.filename == str(tmp_path / "other")
    with pytest.raises(PermissionError) as told, naming(tmp_path / "state"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "by its last name")
    assert told.value.filename == str(tmp_path / "state")


def test_what_safetensors_is_refused_by_the_system_is_an_error_of_the_system(tmp_path):
    there = tmp_path / "not" / "there.safetensors"
    with pytest.raises(FileNotFoundError) as told, naming(there):
        save_file({"x": torch.zeros(2)}, there)
    assert told.value.filename == str(there)
    with pytest.raises(SafetensorError, match="header"), naming(there):
        raise SafetensorError("header too large")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "mark"
    replace_file(file, b"before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/mark'"):
        replace_file(file, b"after")
    assert file.read_bytes() == b"before"
    assert [*tmp_path.iterdir()] == [file]


def test_others_read_what_safetensors_writes_for_its_writer_alone(tmp_path):
    usual, tensors = tmp_path / "config.json", tmp_path / "x.safetensors"
    usual.touch()
    save_file({"x": torch.zeros(2)}, tensors)
    tensors.chmod(0o600)
    let_others_read(tmp_path)
    assert tensors.stat().st_mode == usual.stat().st_mode
    assert {*tmp_path.iterdir()} == {usual, tensors}
