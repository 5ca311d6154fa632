"""CIFAR's archives in their true layout, and pickles that want to run something."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tests.reference.python2_pickle import python2_pickle

from gppdm_pipeline.streams.readers.cifar import Cifar
from gppdm_pipeline.streams.readers.plain_pickle import load_plain
from gppdm_pipeline.streams.sources import SourceError

NAMES_10 = ["airplane", "automobile", "bird"]


def images(n, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), np.uint8)


def rows(pixels):
    """As CIFAR has them: all red, all green, all blue, row by row."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(len(pixels), -1)


def cifar_10(dump=python2_pickle):
    """The files of a small CIFAR-10, by name."""
    files = {"batches.meta": dump({"label_names": NAMES_10, "num_vis": 3072})}
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        batch = {
            "batch_label": name,
            "labels": [0, 1, 2, i % 3],
            "data": rows(images(4, i)),
            "filenames": [f"{name}_{k}.png" for k in range(4)],
        }
        files[name] = dump(batch)
    return {f"cifar-10-batches-py/{name}": data for name, data in files.items()}


def cifar_100():
    meta = {"fine_label_names": ["apple", "bear", "rose"], "coarse_label_names": ["life", "fruit"]}
    files = {"meta": python2_pickle(meta)}
    for i, name in enumerate(["train", "test"]):
        batch = {
            "data": rows(images(3, 10 + i)),
            "fine_labels": [2, 0, 1],
            "coarse_labels": [0, 1, 0],
        }
        files[name] = python2_pickle(batch)
    return {f"cifar-100-python/{name}": data for name, data in files.items()}


def write(folder, files, packed):
    if packed:
        path = folder / "cifar.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return path
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dump", [python2_pickle, lambda value: pickle.dumps(encoded(value), 2)])
def test_cifar_10(tmp_path, packed, dump):
    source = Cifar(path=write(tmp_path, cifar_10(dump), packed))
    assert source.class_names == tuple(NAMES_10)
    train, test = source.read("train"), source.read("test")
    np.testing.assert_array_equal(train.images, np.concatenate([images(4, i) for i in range(5)]))
    assert train.labels.tolist() == [label for i in range(5) for label in (0, 1, 2, i % 3)]
    np.testing.assert_array_equal(test.images, images(4, 5))


def encoded(value):
    """As people write them anew with Python 3: keys and names are bytes."""
    if isinstance(value, dict):
        return {key.encode(): encoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [encoded(item) for item in value]
    return value.encode() if isinstance(value, str) else value


def test_cifar_100_has_two_kinds_of_labels(tmp_path):
    path = write(tmp_path, cifar_100(), packed=True)
    fine, coarse = Cifar(path=path), Cifar(path=path, labels="coarse")
    assert fine.class_names == ("apple", "bear", "rose")
    assert coarse.class_names == ("life", "fruit")
    assert fine.read("train").labels.tolist() == [2, 0, 1]
    assert coarse.read("train").labels.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(fine.read("test").images, images(3, 11))
    unpacked = write(tmp_path, cifar_100(), packed=False)
    for folder in (unpacked, unpacked / "cifar-100-python"):
        np.testing.assert_array_equal(Cifar(path=folder).read("train").images, images(3, 10))


class Payload:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def test_a_pickle_with_a_payload_is_refused_and_nothing_runs(tmp_path):
    files, mark = cifar_10(), tmp_path / "it ran"
    name = "cifar-10-batches-py/data_batch_3"
    files[name] = pickle.dumps({b"data": Payload(mark), b"labels": []}, 2)
    path = write(tmp_path, files, packed=True)
    message = rf"{path}/{name}: found a pickle that asks for (posix|nt).system, expected plain"
    with pytest.raises(SourceError, match=message):
        Cifar(path=path).read("train")
    assert not mark.exists()
    assert len(Cifar(path=path).read("test")) == 4, "what is not damaged can be read"


@pytest.mark.parametrize(
    "name",
    ["builtins.eval", "numpy.fromfile", "numpy.core.multiarray.fromstring", "_codecs.decode"],
)
def test_no_other_name_is_looked_up(name):
    module, _, attribute = name.rpartition(".")
    data = f"c{module}\n{attribute}\n.".encode()
    with pytest.raises(SourceError, match=f"asks for {name}"):
        load_plain(io.BytesIO(data), "file")


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()], object),
        np.zeros(2, "f8"),
        np.array(["text"]),
        np.zeros(2, [("a", "u1")]),
    ],
)
def test_only_arrays_of_whole_numbers_are_made(value):
    value = value if value.dtype != object else np.array([None], object)
    with pytest.raises(SourceError, match="damaged data"):
        load_plain(io.BytesIO(python2_pickle(value)), "file")


def test_arrays_and_numbers_keep_their_values():
    for kind in ("u1", "i8", ">i4", "<u2"):
        array = np.arange(12).astype(kind).reshape(3, 4)
        for order in (array, np.asfortranarray(array)):
            loaded = load_plain(io.BytesIO(python2_pickle({"a": order})), "file")
            np.testing.assert_array_equal(loaded[b"a"], array)
    assert load_plain(io.BytesIO(python2_pickle([np.int64(7)])), "file") == [7]


@pytest.mark.parametrize("end", [0, 1, 10, 500, -1])
def test_truncated_pickles_are_named(tmp_path, end):
    files = cifar_10()
    files["cifar-10-batches-py/test_batch"] = files["cifar-10-batches-py/test_batch"][:end]
    path = write(tmp_path, files, packed=False)
    with pytest.raises(SourceError, match=r"test_batch: found damaged data .*Fetch the file again"):
        Cifar(path=path).read("test")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"labels": [0]}, "found no entry b'data', only b'labels'"),
        ({"data": rows(images(2, 0)), "labels": [0]}, "found 2 images, expected 1, one for each"),
        (
            {"data": rows(images(1, 0)), "labels": [3]},
            r"label 3 \(image 0\), expected labels 0 to 2",
        ),
        ({"data": [1, 2], "labels": [0]}, "no array of bytes"),
        ({"data": rows(images(1, 0))[:, 1:], "labels": [0]}, "rows of 3071"),
        ([1], "found a list, expected a dictionary"),
    ],
)
def test_what_a_batch_lacks_is_named(tmp_path, batch, message):
    files = cifar_10()
    files["cifar-10-batches-py/test_batch"] = python2_pickle(batch)
    with pytest.raises(SourceError, match=f"test_batch: .*{message}|test_batch: {message}"):
        Cifar(path=write(tmp_path, files, packed=True)).read("test")


def test_an_archive_that_climbs_out_of_its_folder_is_refused(tmp_path):
    for name in ("../../test_batch", "/etc/test_batch"):
        path = write(tmp_path, {**cifar_10(), name: b""}, packed=True)
        with pytest.raises(SourceError, match=f"climbs out of its folder, {name}"):
            Cifar(path=path)


def test_damaged_and_missing_archives_are_named(tmp_path):
    path = write(tmp_path, cifar_10(), packed=True)
    whole = path.read_bytes()
    for damaged in (whole[:-100], b"no archive", b"", whole[:2000] + b"\0" * 50 + whole[2050:]):
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match=r"cifar.tar.gz.*(damaged|found \[)"):
            Cifar(path=path, class_names=NAMES_10).read("test")
    with pytest.raises(SourceError, match=r"nowhere: found nothing there.*Set `path`"):
        Cifar(path=tmp_path / "nowhere")
    files = cifar_10()
    del files["cifar-10-batches-py/data_batch_4"]
    with pytest.raises(SourceError, match=r"data_batch_4|found \["):
        Cifar(path=write(tmp_path, files, packed=True)).read("train")
    with pytest.raises(SourceError, match=r"no such file, expected .*data_batch_4"):
        Cifar(path=write(tmp_path, files, packed=False)).read("train")


def test_a_path_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, cifar_100(), packed=True)
    source = Cifar(path="~/cifar.tar.gz")
    assert source.path == Path(tmp_path / "cifar.tar.gz")
