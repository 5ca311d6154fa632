import numpy as np
import torch

from gppdm_pipeline.algorithm.disk import shards
from gppdm_pipeline.algorithm.disk.checkpoint_files import CheckpointFolder
from gppdm_pipeline.algorithm.disk.checkpoints import NOWHERE
from gppdm_pipeline.algorithm.disk.shards import Shards

SHAPE = (10, 4, 4, 3)


def fill(drawn, generator, until=10):
    """Noise, two images at a time."""
    while drawn.done < until:
        shape = (min(2, until - drawn.done), *SHAPE[1:])
        noise = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        drawn.add(noise.numpy())
    return drawn.images


def begun(checkpoint=NOWHERE):
    generator = torch.Generator().manual_seed(7)
    return Shards(SHAPE, generator, checkpoint), generator


def test_what_was_drawn_is_there_again_and_the_random_numbers_go_on(tmp_path):
    expected = fill(*begun())
    folder = CheckpointFolder(tmp_path, "key", 0)
    for until in (4, 6, 10):
        drawn, generator = begun(folder("loop"))
        fill(drawn, generator, until)
    again, _ = begun(folder("loop"))
    assert again.done == 10
    np.testing.assert_array_equal(again.images, expected)


def test_a_shard_holds_what_no_other_does_and_is_not_written_again(tmp_path):
    fill(*begun(CheckpointFolder(tmp_path, "key", 0)("loop")), until=6)
    files = {file: file.stat() for file in (tmp_path / "loop").iterdir()}
    assert len({status.st_size for status in files.values()}) == 1
    fill(*begun(CheckpointFolder(tmp_path, "key", 0)("loop")))
    for file, status in files.items():
        assert file.stat().st_mtime_ns == status.st_mtime_ns
    assert len([*(tmp_path / "loop").iterdir()]) == 5


def test_a_large_shard_does_not_wait_for_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 5 * 4 * 4 * 3)
    fill(*begun(CheckpointFolder(tmp_path, "key", 1000)("loop")))
    steps = sorted(int(file.name.split(".")[0]) for file in (tmp_path / "loop").iterdir())
    assert steps == [6]
