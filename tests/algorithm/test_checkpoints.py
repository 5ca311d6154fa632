import errno
import itertools
import logging
import re

import pytest
import torch
from tests.reference.tiny import Stopped, gppdm, images_of, stopping

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.disk import checkpoint_files
from gppdm_pipeline.algorithm.disk.checkpoint_files import CheckpointError, CheckpointFolder, digest
from gppdm_pipeline.algorithm.disk.checkpoints import Snapshot
from gppdm_pipeline.algorithm.state import LearnerState


def snapshot(step):
    return Snapshot(step, {"weight": torch.full((3,), float(step))}, {"curves": {"a": [[1, 0.1]]}})


def keep(folder, *steps, key="key", every=0.0):
    place = CheckpointFolder(folder, key, every)("loop")
    for step in steps:
        place.offer(lambda step=step: snapshot(step))
    return sorted((folder / "loop").glob("*"))


def latest(folder, key="key"):
    return CheckpointFolder(folder, key, 0)("loop").latest()


def test_nothing_kept_is_nothing_found(tmp_path):
    assert latest(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_latest_comes_back_and_two_are_kept(tmp_path):
    files = keep(tmp_path, 1, 2, 30, 400)
    assert [file.name.split(".")[0] for file in files] == ["000000030", "000000400"]
    found = latest(tmp_path)
    assert (found.step, dict(found.record)) == (400, snapshot(400).record)
    assert torch.equal(found.tensors["weight"], snapshot(400).tensors["weight"])


def test_none_is_kept_before_its_time(tmp_path):
    assert keep(tmp_path, 1, 2, every=1000) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_one_is_not_used_but_the_one_before(tmp_path, caplog, damage):
    _, last = keep(tmp_path, 1, 2)
    content = bytearray(last.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    last.write_bytes(content if damage == "flip" else content[: {"cut": -1, "empty": 0}[damage]])
    assert latest(tmp_path).step == 1
    assert f"{last} is damaged and is not used" in caplog.text
    assert not last.exists()


def test_another_key_is_not_used_and_removed(tmp_path, caplog):
    keep(tmp_path, 1, 2)
    with caplog.at_level(logging.INFO, "gppdm_pipeline"):
        assert latest(tmp_path, key="another") is None
    assert "was made with other settings, data or code, and is not used" in caplog.text
    assert latest(tmp_path) is None


def test_a_full_disk_is_named_with_the_repair_and_the_older_ones_stay(tmp_path, monkeypatch):
    before = keep(tmp_path, 1, 2)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_files.os, "fsync", full)
    message = f"{tmp_path / 'loop'}: a checkpoint cannot be written (No space left on device). Put"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        keep(tmp_path, 3)
    assert sorted((tmp_path / "loop").iterdir()) == before


def log_of(**checkpoints):
    """Of 25 steps, which record points at 10 and 20."""
    method, train = gppdm(denoiser={"steps": 25}), images_of(1, 2)
    context = Context(0, 1, **checkpoints)
    return method.train_generator(LearnerState.empty(), train, train.of_classes([]), context)[1]


@pytest.fixture(scope="module")
def log():
    return log_of()


@pytest.mark.parametrize("after", [3, 10, 25])
def test_curves_and_learning_rates_go_on(tmp_path, log, after):
    """Stops are before, at and between points."""
    folder = CheckpointFolder(tmp_path, "key", 0)
    with pytest.raises(Stopped):
        log_of(checkpoints=stopping(folder, after)[0])
    assert log_of(checkpoints=folder) == log


def test_a_digest_tells_settings_states_and_images_apart():
    state = LearnerState.empty().begin(1, (0, 1), (8, 8, 1))
    given = [gppdm(), state, images_of(0), torch.zeros(2), torch.zeros(2, 1), 0, "0", None, (0, 1)]
    given += [gppdm(denoiser={"steps": 6}), images_of(1), torch.zeros(2, dtype=torch.float64)]
    assert len({digest(value) for value in given}) == len(given)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(images_of(0), gppdm()) == digest(images_of(0), gppdm())


def part(step, follows):
    return Snapshot(step, {"drawn": torch.arange(follows, step)}, follows=follows)


def keep_parts(folder, *steps, now=False, every=0.0):
    place = CheckpointFolder(folder, "key", every)("loop")
    for follows, step in itertools.pairwise(steps):
        place.offer(lambda step=step, follows=follows: part(step, follows), now)
    return sorted((folder / "loop").glob("*"))


def parts(folder, key="key"):
    return [found.step for found in CheckpointFolder(folder, key, 0)("loop").parts()]


def test_all_parts_are_kept_and_come_back_in_order(tmp_path):
    files = keep_parts(tmp_path, 0, 2, 3, 30, 400)
    sizes = [file.stat().st_size for file in files]
    assert sizes[2] - sizes[1] == 8 * 26  # each has what came since the one before
    found = [*CheckpointFolder(tmp_path, "key", 0)("loop").parts()]
    assert torch.equal(torch.cat([each.tensors["drawn"] for each in found]), torch.arange(400))
    assert sorted((tmp_path / "loop").glob("*")) == files
    assert parts(tmp_path, key="another") == []
    assert not any((tmp_path / "loop").iterdir())


@pytest.mark.parametrize("damaged", [True, False])
@pytest.mark.parametrize("lost", [0, 1, 3])
def test_parts_after_one_that_is_damaged_or_lost_are_removed(tmp_path, caplog, lost, damaged):
    files = keep_parts(tmp_path, 0, 2, 3, 30, 400)
    if damaged:
        files[lost].write_bytes(files[lost].read_bytes()[:-1])
    else:
        files[lost].unlink()
    assert parts(tmp_path) == [2, 3, 30, 400][:lost]
    assert sorted((tmp_path / "loop").glob("*")) == files[:lost]
    assert (f"{files[lost]} is damaged and is not used" in caplog.text) == damaged


def test_a_part_that_must_be_kept_now_does_not_wait_for_its_time(tmp_path):
    assert keep_parts(tmp_path, 0, 2, every=1000) == []
    assert len(keep_parts(tmp_path, 0, 2, every=1000, now=True)) == 1
