"""npz files with MedMNIST's keys, and the whole of CIFAR-100 where it is at hand."""

import hashlib
import os
import pickle
import zipfile

import numpy as np
import pytest

from gppdm_pipeline.streams.readers.npz import Npz
from gppdm_pipeline.streams.sources import SourceError, fingerprint

CIFAR100 = os.environ.get("GPPDM_CIFAR100", "")
SHAPES = [(6, 5), (6, 5, 1), (6, 5, 3)]


def arrays(shape=(6, 5), column=True):
    rng = np.random.default_rng(0)
    found = {}
    for part, n in (("train", 9), ("val", 4), ("test", 6)):
        found[f"{part}_images"] = rng.integers(0, 256, (n, *shape), np.uint8)
        labels = (np.arange(n) % 3).astype(np.uint8)
        found[f"{part}_labels"] = labels[:, None] if column else labels
    return found


def write(folder, packed=True, **changes):
    file = folder / "set.npz"
    (np.savez_compressed if packed else np.savez)(file, **{**arrays(), **changes})
    return file


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_medmnist(tmp_path, shape, packed):
    written = arrays(shape, column=packed)
    source = Npz(file=write(tmp_path, packed, **written), class_names=[*"abc"])
    for split in ("train", "test"):
        data = source.read(split)
        np.testing.assert_array_equal(data.images.reshape(-1), written[f"{split}_images"].ravel())
        np.testing.assert_array_equal(data.labels, written[f"{split}_labels"].ravel())
        assert data.image_shape == (6, 5, shape[2] if len(shape) == 3 else 1)


def test_validation_images_are_added_only_if_told(tmp_path):
    file, written = write(tmp_path), arrays()
    both = Npz(file=file, class_names=[*"abc"], validation="train").read("train")
    expected = np.concatenate([written["train_images"], written["val_images"]])
    np.testing.assert_array_equal(both.images[..., 0], expected)
    assert len(Npz(file=file, class_names=[*"abc"]).read("train")) == 9
    assert len(Npz(file=file, class_names=[*"abc"], validation="train").read("test")) == 6


def test_names_are_the_files_unless_they_are_given(tmp_path):
    names = np.array(["ant", "bee", "wasp, so to say"])
    source = Npz(file=write(tmp_path, class_names=names))
    assert source.class_names == ("ant", "bee", "wasp, so to say")
    assert Npz(file=source.file, class_names=["x", "y", "z"]).class_names == ("x", "y", "z")


def test_limits_choose_from_a_stream_of_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("gppdm_pipeline.streams.readers.npy._BLOCK", 70)  # two images
    file = write(tmp_path)
    everything = Npz(file=file, class_names=[*"abc"]).read("train")
    some = Npz(file=file, class_names=[*"abc"], train_per_class=2).read("train")
    assert np.bincount(some.labels).tolist() == [2, 2, 2]
    assert {image.tobytes() for image in some.images} < {i.tobytes() for i in everything.images}


def test_images_are_resized_and_coloured_by_the_same_rules(tmp_path):
    data = Npz(file=write(tmp_path), class_names=[*"abc"], resize=[3, 5], colour="rgb").read("test")
    assert data.image_shape == (3, 5, 3)


class Payload:
    def __reduce__(self):
        return print, ("it ran",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": np.arange(6)}, r"label 5 \(test_labels, row 5\), expected labels 0 to 2"),
        ({"test_labels": np.array([0, 1, -1] * 2)}, r"label -1 \(test_labels, row 2\)"),
        (
            {"test_labels": np.zeros((6, 14), int)},
            "test_labels of int64 .*one whole number for each",
        ),
        ({"test_labels": np.full(6, 0.5)}, r"test_labels 0.5 \(row 0\)"),
        (
            {"test_labels": np.zeros(5, int)},
            "found 6 images, expected 5, one for each label in test",
        ),
        ({"test_labels": np.array([0, 1] * 3)}, "no test image of class 'c'"),
        (
            {"test_labels": np.array([Payload()] * 6)},
            r"test_labels of Python's objects, .*test_labels.astype\(int\) or",
        ),
        (
            {"test_images": np.zeros((6, 6, 5))},
            "whole numbers and floats in train_images, val_images, test_images",
        ),
        ({"test_images": np.zeros((6, 6, 5, 4), np.uint8)}, r"of uint8 \[6, 6, 5, 4\]"),
        ({"test_images": np.zeros((6, 9, 9, 9), np.uint8)}, r"of uint8 \[6, 9, 9, 9\]"),
        ({"test_images": np.array([Payload()] * 6)}, "test_images of object"),
    ],
)
def test_what_is_wrong_with_an_array_is_named(tmp_path, changes, message, capsys):
    file = write(tmp_path, **changes)
    with pytest.raises(SourceError, match=f"{file}: .*{message}"):
        Npz(file=file, class_names=[*"abc"]).read("test")
    assert "it ran" not in capsys.readouterr().out


def test_damaged_files_are_named(tmp_path):
    file = write(tmp_path)
    whole = file.read_bytes()
    middle = len(whole) // 8
    for damaged in (
        whole[:-10],
        b"",
        pickle.dumps({}),
        whole[:middle] + b"~~" + whole[middle + 2 :],
    ):
        file.write_bytes(damaged)
        with pytest.raises(SourceError, match=f"{file}: found a damaged file"):
            Npz(file=file, class_names=[*"abc"]).read("train")
    with pytest.raises(SourceError, match=r"cannot be read \(No such file"):
        Npz(file=tmp_path / "nothing.npz", class_names=[*"abc"]).read("train")


def test_missing_arrays_and_data_are_named(tmp_path):
    file = tmp_path / "set.npz"
    np.savez(file, x=np.zeros(3))
    with pytest.raises(SourceError, match="found the arrays x, expected train_images, train_"):
        Npz(file=file, class_names=[*"abc"]).read("train")
    short = write(tmp_path, packed=False)
    with zipfile.ZipFile(short) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    for change, message in (
        (lambda d: d[:-10], "cut short at image 0"),
        (lambda d: d + b"0", "more"),
    ):
        with zipfile.ZipFile(short, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, change(data) if name == "test_images.npy" else data)
        with pytest.raises(SourceError, match=f"{short}: .*{message}"):
            Npz(file=short, class_names=[*"abc"]).read("test")


def split(shape=(6, 5), names=("x_train", "y_train", "x_test", "y_test"), change=None):
    """Nine images to learn from and six to be tested on, with labels 0 to 2."""
    rng = np.random.default_rng(0)
    change = change or (lambda pixels: pixels)
    train, test = (rng.integers(0, 256, (n, *shape), np.uint8) for n in (9, 6))
    values = (change(train), np.arange(9) % 3, change(test), np.arange(6) % 3)
    return dict(zip(names, values, strict=True)), train, test


def saved(folder, content):
    np.savez(folder / "set.npz", **content)
    return folder / "set.npz"


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "Y_train", "X_valid", "Y_valid"),
        ("trainX", "trainY", "testX", "testY"),
        ("train_data", "train_labels", "test_data", "test_labels"),
        ("images_train", "targets_train", "images_test", "targets_test"),
    ],
)
def test_other_names_of_the_four_arrays(tmp_path, names):
    content, train, test = split(names=names)
    source = Npz(file=saved(tmp_path, content), class_names=[*"abc"])
    np.testing.assert_array_equal(source.read("train").images[..., 0], train)
    np.testing.assert_array_equal(source.read("test").images[..., 0], test)
    assert f"{names[0]} with {names[1]}" in source.notes()[0]


@pytest.mark.parametrize("names", [("images", "labels"), ("data", "labels"), ("X", "y")])
def test_one_set_is_split_by_class(tmp_path, names):
    pixels = np.arange(20, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    content = dict(zip(names, (pixels, np.arange(20) % 2), strict=True))
    source = Npz(file=saved(tmp_path, content), class_names=[*"ab"], test_fraction=0.3)
    train, test = source.read("train"), source.read("test")
    assert np.bincount(test.labels).tolist() == [3, 3]
    everything = [*train.images[:, 0, 0, 0].tolist(), *test.images[:, 0, 0, 0].tolist()]
    assert sorted(everything) == list(range(20))
    assert all(
        data.labels[i] == data.images[i, 0, 0, 0] % 2 for data in (train, test) for i in (0, 1)
    )
    assert "a share of each class is set apart" in " ".join(source.notes())


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda pixels: (pixels / 255).astype(np.float32), "from 0 to 1"),
        (lambda pixels: pixels / 127.5 - 1, "from -1 to 1"),
        (lambda pixels: pixels.astype(np.float64), ""),
        (lambda pixels: pixels.astype(np.int64), ""),
        (lambda pixels: np.moveaxis(pixels, 3, 1), ""),
    ],
)
def test_pixels_of_other_kinds(tmp_path, change, note):
    content, train, test = split(shape=(6, 5, 3), change=change)
    source = Npz(file=saved(tmp_path, content), class_names=[*"abc"])
    np.testing.assert_array_equal(source.read("train").images, train)
    np.testing.assert_array_equal(source.read("test").images, test)
    assert (note in " ".join(source.notes())) if note else len(source.notes()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pixels: (pixels - 128.0) / 60, "values from -2.* to 2.*in x_train, x_test"),
        (lambda pixels: pixels.astype(np.uint16) * 256, "values from .* to 6.*e.04.*with 8 bits"),
        (lambda pixels: np.array([*pixels, 0], object), "Python's objects are pickled"),
        (lambda pixels: pixels.astype(complex), "Save the pixels as numbers"),
        (lambda _: np.array(3), "Save all images in one array"),
        (lambda pixels: pixels * np.nan, "values that are not finite"),
        (lambda pixels: pixels.reshape(len(pixels), -1), r"reshape\(len\(x_\w+\), height, width"),
        (lambda pixels: pixels.astype(str), "Save the pixels as numbers"),
        (np.asfortranarray, "ascontiguousarray"),
    ],
)
def test_pixels_that_are_none_are_refused_with_what_would_do(tmp_path, change, message):
    content, _, _ = split(change=change)
    with pytest.raises(SourceError, match=message):
        Npz(file=saved(tmp_path, content), class_names=[*"abc"]).read("train")


@pytest.mark.parametrize(
    "change",
    [
        lambda labels: labels.astype(float),
        lambda labels: np.eye(3)[labels],
        lambda labels: np.array(["ant", "bee", "cat"])[labels],
        lambda labels: np.array([b"ant", b"bee", b"cat"])[labels],
    ],
)
def test_labels_of_other_kinds(tmp_path, change):
    content, _, _ = split()
    content |= {key: change(content[key]) for key in ("y_train", "y_test")}
    file = saved(tmp_path, content)
    names = ("ant", "bee", "cat")
    if content["y_train"].dtype.kind in "SU":
        assert Npz(file=file).class_names == names
        with pytest.raises(SourceError, match=r"y_train 'cat' \(row 2\), expected one of"):
            Npz(file=file, class_names=["ant", "bee", "dog"]).read("train")
    assert Npz(file=file, class_names=names).read("train").labels.tolist() == [0, 1, 2] * 3


@pytest.mark.parametrize("key", ["y_train", "class_names"])
def test_names_of_bytes_are_utf_8_or_refused(tmp_path, key):
    content, _, _ = split()
    names = np.array([text.encode() for text in ("ant", "été", "猫")])
    labels = {each: content[each] for each in ("y_train", "y_test")}
    given = (
        {"class_names": names} if key == "class_names" else {k: names[labels[k]] for k in labels}
    )
    assert Npz(file=saved(tmp_path, content | given)).class_names == ("ant", "été", "猫")
    given[key] = np.where(given[key] == names[1], np.array("été".encode("latin-1")), given[key])
    with pytest.raises(SourceError, match=rf"{key} b'\\xe9t\\xe9' \(row 1\), which is no UTF-8"):
        Npz(file=saved(tmp_path, content | given))


def test_zeros_and_ones_of_any_kind_are_black_and_white(tmp_path):
    content, train, _ = split(shape=(6, 5, 3), change=lambda pixels: (pixels > 99).astype(np.int64))
    source = Npz(file=saved(tmp_path, content), class_names=[*"abc"])
    np.testing.assert_array_equal(source.read("train").images, (train > 99) * np.uint8(255))
    assert "taken times 255" in " ".join(source.notes())


@pytest.mark.parametrize("name", ["", " ", "a\nb"])
def test_text_labels_that_are_no_names_are_refused(tmp_path, name):
    content, _, _ = split()
    labels = {key: np.array(["ant", "bee", name])[content[key]] for key in ("y_train", "y_test")}
    with pytest.raises(ValueError, match="is no name"):
        Npz(file=saved(tmp_path, content | labels))


def test_one_label_alone_is_refused(tmp_path):
    content, _, _ = split()
    content["y_train"] = np.array(1)
    with pytest.raises(SourceError, match="y_train"):
        Npz(file=saved(tmp_path, content), class_names=[*"abc"]).read("train")


def test_files_that_are_none_are_named(tmp_path):
    for file in (tmp_path, tmp_path / "none.npz"):
        with pytest.raises(SourceError, match="cannot be read"):
            Npz(file=file)


def test_two_arrays_that_could_be_meant_are_named(tmp_path):
    content, _, _ = split()
    content["X_train"] = content["x_train"]
    with pytest.raises(SourceError, match="the arrays x_train, X_train, expected one of them"):
        Npz(file=saved(tmp_path, content), class_names=[*"abc"]).read("train")


@pytest.mark.skipif(not CIFAR100, reason="GPPDM_CIFAR100 does not name the file")
def test_cifar100():
    source = Npz(file=CIFAR100, test_per_class=5)
    assert len(source.class_names) == 100
    assert source.class_names[:2] == ("apple", "aquarium_fish")
    data = source.read("test")
    assert data.image_shape == (32, 32, 3)
    assert np.bincount(data.labels).tolist() == [5] * 100
    assert fingerprint(data) == ("24f37a7ae2485848ac9eb4e36efc9ec6de34ad67764799c3425a16f112fa7518")
    whole = Npz(file=CIFAR100)
    for split, each in (("train", 500), ("test", 100)):
        data = whole.read(split)
        assert data.image_shape == (32, 32, 3)
        assert np.bincount(data.labels).tolist() == [each] * 100
    assert source.class_names[data.labels[0]] == "apple"
    assert hashlib.sha256(data.images[0].tobytes()).hexdigest() == (
        "831ea94215d0d49e8513c7fdf4d1066ed8a21536241c3232d2f343a474bc65a6"
    )
