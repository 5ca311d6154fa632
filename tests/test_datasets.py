from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
from kedro.io import DatasetError
from matplotlib.figure import Figure

from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.catalog.datasets import (
    ImagesDataset,
    JsonDataset,
    LogDataset,
    PictureDataset,
    StateDataset,
)
from gppdm_pipeline.catalog.handed import EmptyStateDataset
from gppdm_pipeline.evaluation.pictures import Picture
from gppdm_pipeline.images.labelled import LabelledImages, Room


@pytest.fixture
def images():
    pixels = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2, 1)
    return LabelledImages(pixels, np.array([4, 1, 4]))


def test_images_come_back(tmp_path, images):
    dataset = ImagesDataset(filepath=str(tmp_path / "task_01" / "train.npz"))
    assert not dataset.exists()
    dataset.save(images)
    assert dataset.exists()
    loaded = dataset.load()
    np.testing.assert_array_equal(loaded.images, images.images)
    np.testing.assert_array_equal(loaded.labels, images.labels)
    assert [file.name for file in dataset.path.parent.iterdir()] == ["train.npz"]


def test_no_images_come_back(tmp_path):
    dataset = ImagesDataset(filepath=str(tmp_path / "replay.npz"))
    dataset.save(LabelledImages.empty((8, 8, 1)))
    assert dataset.load().image_shape == (8, 8, 1)


@pytest.fixture
def nothing_fits(monkeypatch):
    """Three images are many."""
    monkeypatch.setattr("gppdm_pipeline.images.labelled.IN_MEMORY", 3)
    monkeypatch.setattr("gppdm_pipeline.images.files.IN_MEMORY", 3)


def is_mapped(array):
    while isinstance(array, np.ndarray):
        array = array.base
    return array is not None  # a file's memory


def test_many_images_come_back_mapped(tmp_path, images, nothing_fits):
    dataset = ImagesDataset(filepath=str(tmp_path / "replay.npz"))
    dataset.save(images)
    loaded = dataset.load()
    assert is_mapped(loaded.images)
    np.testing.assert_array_equal(loaded.images, images.images)
    np.testing.assert_array_equal(loaded.labels, images.labels)
    written = dataset.path.read_bytes()
    loaded.images[:] = 0  # a change stays in memory
    dataset.save(images)
    assert dataset.path.read_bytes() == written
    np.testing.assert_array_equal(np.load(dataset.path)["images"], images.images)
    damaged = bytearray(written)
    damaged[damaged.index(images.images.tobytes()) + 4] ^= 1
    dataset.path.write_bytes(damaged)
    with pytest.raises(DatasetError, match=r"is damaged .*CRC"):
        dataset.load()
    np.savez(dataset.path, images=np.array([object()] * 3), labels=np.arange(3))
    with pytest.raises(DatasetError, match=r"is damaged .images of object"):
        dataset.load()


def test_many_images_are_put_together_in_a_file(images, nothing_fits):
    both = LabelledImages.concatenate([images, images])
    assert is_mapped(both.images) and not is_mapped(images.images)
    np.testing.assert_array_equal(both.images[3:], images.images)
    np.testing.assert_array_equal(both.images[:3], images.images)
    some = both.select(np.array([5, 0, -2]))
    assert is_mapped(some.images)
    np.testing.assert_array_equal(some.images, images.images[[2, 0, 1]])
    np.testing.assert_array_equal(both.of_classes([images.labels[1]]).images[0], images.images[1])
    room = Room((5, 2, 2, 1))
    room.put(0, np.full((3, 2, 2, 1), 7, np.uint8))
    room.put(3, np.full((2, 2, 2, 1), 8, np.uint8))
    assert room.images.flags.writeable
    assert room.images[:, 0, 0, 0].tolist() == [7, 7, 7, 8, 8]


def test_pickled_arrays_are_not_read(tmp_path):
    file = tmp_path / "train.npz"
    np.savez(file, images=np.array([object()], dtype=object), labels=np.array([0]))
    with pytest.raises(DatasetError, match=r"train\.npz is damaged \(Object arrays cannot be"):
        ImagesDataset(filepath=str(file)).load()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b'{"seconds": '])
@pytest.mark.parametrize("kind", [ImagesDataset, JsonDataset])
def test_damaged_files_are_named_with_the_repair(tmp_path, kind, content):
    file = tmp_path / "file"
    file.write_bytes(content)
    message = f"{re.escape(str(file))} is damaged .*Remove it .*--only-missing-outputs"
    with pytest.raises(DatasetError, match=message):
        kind(filepath=str(file)).load()
    with pytest.raises(DatasetError, match=message):
        kind(filepath=str(file)).verify()


@pytest.mark.parametrize("kind", [ImagesDataset, JsonDataset])
def test_missing_files_are_named_with_the_repair(tmp_path, kind):
    with pytest.raises(DatasetError, match=r"file is missing.*--only-missing-outputs"):
        kind(filepath=str(tmp_path / "file")).load()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    dataset = JsonDataset(filepath=str(tmp_path / "metrics.json"))
    dataset.save({"a": 1})
    with pytest.raises(DatasetError, match="Out of range float values"):
        dataset.save({"a": float("nan")})
    assert dataset.load() == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_json_preview(tmp_path):
    dataset = JsonDataset(filepath=str(tmp_path / "metrics.json"))
    dataset.save({"a": [1, None]})
    assert json.loads(dataset.preview()) == {"a": [1, None]}


def test_figures_are_pictures(tmp_path):
    dataset = PictureDataset(filepath=str(tmp_path / "figure.png"))
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    dataset.save(Picture(figure, [{"x": 1, "y": None}, {"x": 2, "y": 0.5}]))
    content = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert content["figure.png"].startswith(b"\x89PNG")
    assert content["figure.csv"] == b"x,y\n1,\n2,0.5\n"
    assert b"<svg" in content["figure.svg"]
    assert dataset.preview()
    kind, _, encoded = dataset.load().partition(";base64,")
    assert kind == "data:image/svg+xml"
    assert base64.b64decode(encoded) == content["figure.svg"]
    dataset.save(Picture(figure, [{"x": 1, "y": None}, {"x": 2, "y": 0.5}]))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == content


def test_a_large_drawing_is_shown_as_pixels(tmp_path):
    dataset = PictureDataset(filepath=str(tmp_path / "figure.png"))
    figure = Figure()
    rng = np.random.default_rng(0)
    figure.add_subplot().plot(*rng.normal(size=(2, 20_000)), ",")
    dataset.save(Picture(figure, [{"points": 20_000}]))
    assert (tmp_path / "figure.svg").stat().st_size > 300_000
    assert dataset.load().startswith("data:image/png;base64,")


def test_a_damaged_state_is_named(tmp_path):
    dataset = StateDataset(filepath=str(tmp_path / "state"))
    dataset.save(LearnerState.empty().begin(1, (0, 1), (8, 8, 1)))
    assert dataset.load().classes == (0, 1)
    dataset.verify()
    (tmp_path / "state" / "state.json").write_text("{")
    for reading in (dataset.load, dataset.verify):
        with pytest.raises(DatasetError, match=r"state\.json"):
            reading()


def test_before_the_first_task_there_is_a_state():
    dataset = EmptyStateDataset()
    assert dataset.exists()
    assert dataset.load() == LearnerState.empty()
    with pytest.raises(DatasetError, match="EmptyStateDataset is handed to nodes"):
        dataset.save(LearnerState.empty())


def test_of_a_log_that_a_kill_cut_short_nothing_is_left(tmp_path):
    part = tmp_path / ".train.json.new"
    part.write_bytes(b'{"seconds": ')
    log = LogDataset(filepath=str(tmp_path / "train.json"))
    assert log.exists()
    assert log.load() == {}
    assert not part.exists()
