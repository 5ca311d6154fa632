"""CORe50's files in their published layout, with few and small images."""

import pickle

import numpy as np
import pytest
from tests.reference.python2_pickle import python2_pickle

from gppdm_pipeline.streams.readers import core50
from gppdm_pipeline.streams.readers.core50 import Core50
from gppdm_pipeline.streams.sources import SourceError

OBJECTS = [1, 1, 7, 7, 7, 50, 50, 50, 1, 7, 50]  # of each image; the last three are for testing
BATCHES = [[4, 0], [6, 5, 1], [3, 2, 7]]
TEST = [8, 9, 10]
LABEL = {1: 2, 7: 0, 50: 1}  # the published labels follow the run's own order


@pytest.fixture(autouse=True)
def no_lists_of_another_test():
    core50._read_lists.cache_clear()


def write(folder, **changes):
    images = np.random.default_rng(0).integers(0, 256, (len(OBJECTS), 8, 8, 3), np.uint8)
    batches = [*BATCHES, TEST]
    labels = [[LABEL[OBJECTS[i]] for i in batch] for batch in batches]
    other = [[0]] * 10
    files = {
        "paths": [f"s{i % 3 + 1}/o{o}/C_01_{o:02}_{i:03}.png" for i, o in enumerate(OBJECTS)],
        "LUP": {"ni": other, "nicv2_79": [other, batches]},
        "labels": {"ni": other, "nicv2_79": [other, labels]},
        **changes,
    }
    for name, value in files.items():
        data = value if isinstance(value, bytes) else python2_pickle(value)
        (folder / f"{name}.pkl").write_bytes(data)
    np.savez_compressed(folder / "core50_imgs.npz", x=images)
    return images


def reader(folder, **options):
    return Core50(folder=folder, run=1, **options)


def allow_absent_classes(monkeypatch):
    """Three of the fifty objects are there, and the others are not refused."""
    monkeypatch.setattr(core50.FileReader, "_checked", lambda self, split: self._contents(split))


def test_images_labels_and_batches_are_the_published_ones(tmp_path, monkeypatch):
    allow_absent_classes(monkeypatch)
    images = write(tmp_path)
    source = reader(tmp_path)
    assert len(source.class_names) == 50
    assert source.class_names[0] == "plug_adapter1" and source.class_names[49] == "remote_control5"
    train, test = source.read("train"), source.read("test")
    np.testing.assert_array_equal(train.images, images[:8])
    assert train.labels.tolist() == [0, 0, 6, 6, 6, 49, 49, 49]
    np.testing.assert_array_equal(test.images, images[8:])
    batches = source.batches()
    assert [batch.tolist() for batch in batches] == BATCHES
    assert all(batch.dtype == np.int64 for batch in batches)
    np.testing.assert_array_equal(train.images[batches[1]], images[BATCHES[1]])


def test_categories_are_of_five_objects(tmp_path, monkeypatch):
    allow_absent_classes(monkeypatch)
    write(tmp_path)
    source = reader(tmp_path, classes="categories")
    assert source.class_names[1] == "mobile_phone" and len(source.class_names) == 10
    assert source.read("test").labels.tolist() == [0, 1, 9]


def test_limits_leave_images_out_of_the_batches(tmp_path, monkeypatch):
    allow_absent_classes(monkeypatch)
    write(tmp_path)
    source = reader(tmp_path, train_per_class=1, resize=4)
    train, everything = source.read("train"), reader(tmp_path, resize=4).read("train")
    assert train.labels.tolist() == [0, 6, 49]
    batches = source.batches()
    assert sorted(np.concatenate(batches).tolist()) == [0, 1, 2]
    for batch, published in zip(batches, BATCHES, strict=True):
        chosen = {image.tobytes() for image in train.images[batch]}
        assert chosen <= {image.tobytes() for image in everything.images[published]}


def test_a_class_without_images_is_named(tmp_path):
    write(tmp_path)
    with pytest.raises(SourceError, match="no training image of class 'plug_adapter2'"):
        reader(tmp_path).read("train")


def test_lists_are_read_once_and_again_when_they_change(tmp_path, monkeypatch):
    write(tmp_path)
    read, original = [], core50.load_plain
    monkeypatch.setattr(core50, "load_plain", lambda *a: read.append(1) or original(*a))
    source = reader(tmp_path)
    assert source.batches()[0].tolist() == source.batches()[0].tolist() == BATCHES[0]
    assert len(read) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paths": ["s1/o51/x.png"]}, r"paths.pkl: found path b's1/o51/x.png' \(row 0\)"),
        ({"paths": ["s1/o1/x.png"]}, "LUP.pkl: found image 10, expected 0 to 0"),
        ({"LUP": {"ni": []}}, "LUP.pkl: found no batches of nicv2_79, run 1"),
        ({"labels": {"nicv2_79": [[], [[0], [0]]]}}, "labels.pkl: found 2 batches of 2 labels"),
        (
            {"labels": {"nicv2_79": [[], [[0, 1], [1, 2, 0], [0, 0, 0], [0, 0, 0]]]}},
            "labels that do not follow the objects",
        ),
        ({"LUP": b"garbage"}, "LUP.pkl: found damaged data"),
        (
            {"LUP": pickle.dumps(print, 2)},
            "LUP.pkl: found a pickle that asks for __builtin__.print",
        ),
    ],
)
def test_damaged_lists_are_named(tmp_path, changes, message):
    write(tmp_path, **changes)
    with pytest.raises(SourceError, match=message):
        reader(tmp_path).read("train")


def test_missing_files_are_named(tmp_path):
    write(tmp_path)
    (tmp_path / "labels.pkl").unlink()
    with pytest.raises(
        SourceError, match=r"found no file labels.pkl, expected core50_imgs.npz, pat"
    ):
        reader(tmp_path).read("test")
