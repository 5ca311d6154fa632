"""Readers: what they read, what stays the same, and what each kind of damage says."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from sklearn.datasets import load_digits

from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.streams.sources import (
    Idx,
    SklearnDigits,
    Source,
    SourceError,
    choose_per_class,
    fingerprint,
)

FASHION = Path("/usr/share/datasets/fashion-mnist")
NAMES = ("cat", "dog", "bird")


def idx_bytes(array):
    header = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder, split="train", joint="-", packed=False, n=12):
    """Images whose pixels tell their place, labels 0, 1, 2, 0, ...; returns both."""
    labels = np.arange(n) % 3
    images = np.arange(n * 4 * 5).reshape(n, 4, 5) % 256
    prefix = {"train": "train", "test": "t10k"}[split]
    for kind, array in (("images", images), ("labels", labels)):
        data, name = idx_bytes(array), f"{prefix}-{kind}{joint}idx{array.ndim}-ubyte"
        if packed:
            data, name = gzip.compress(data, mtime=0), name + ".gz"
        (folder / name).write_bytes(data)
    return images, labels


def reader(folder, **options):
    return Idx(folder=folder, class_names=NAMES, **options)


def test_digits_are_scaled_and_split_without_overlap():
    train, test = SklearnDigits().read("train"), SklearnDigits().read("test")
    digits = load_digits()
    assert train.image_shape == test.image_shape == (8, 8, 1)
    assert len(train) + len(test) == len(digits.target) == 1797

    def rows(images, labels):
        return sorted((int(y), *map(int, x.ravel())) for x, y in zip(images, labels, strict=True))

    scaled = [[[round(v * 255 / 16) for v in row] for row in image] for image in digits.images]
    both = LabelledImages.concatenate([train, test])
    assert rows(both.images, both.labels) == rows(np.array(scaled), digits.target)
    for label in range(10):
        count = int((digits.target == label).sum())
        assert (test.labels == label).sum() == round(0.2 * count)


def test_the_digits_test_images_never_change():
    """Results of one version are compared with another's: on the same images."""
    assert fingerprint(SklearnDigits().read("test")) == (
        "ff5b639dd300efc1cdaa1d9d435f3f42fbcd17fb15b299de1bc0964471e0df63"
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("joint", ["-", "."])
def test_idx_reads_what_was_written(tmp_path, packed, joint):
    for split in ("train", "test"):
        images, labels = write_idx(
            tmp_path, split, joint, packed, n={"train": 12, "test": 6}[split]
        )
        data = reader(tmp_path).read(split)
        np.testing.assert_array_equal(data.images[..., 0], images)
        np.testing.assert_array_equal(data.labels, labels)
        assert isinstance(data.images, np.memmap) and not data.images.flags.writeable
        chosen = data.select(labels == 1)
        assert not isinstance(chosen.images, np.memmap) and chosen.images.flags.writeable


def test_gzip_is_told_by_content_not_by_name(tmp_path):
    images, _ = write_idx(tmp_path, packed=True)
    for file in tmp_path.iterdir():
        file.rename(file.with_suffix(""))
    np.testing.assert_array_equal(reader(tmp_path).read("train").images[..., 0], images)


def test_class_names_need_no_file(tmp_path):
    assert reader(tmp_path / "nowhere").class_names == NAMES
    assert SklearnDigits().class_names == tuple("0123456789")


def test_limits_choose_some_of_each_class_and_smaller_ones_a_subset(tmp_path):
    write_idx(tmp_path, "train", n=30)
    write_idx(tmp_path, "test", n=30)
    everything = reader(tmp_path).read("train")
    chosen = {}
    for limit in (2, 5, 99):
        data = reader(tmp_path, train_per_class=limit).read("train")
        assert np.bincount(data.labels).tolist() == [min(limit, 10)] * 3
        chosen[limit] = [image.tobytes() for image in data.images]
    assert set(chosen[2]) < set(chosen[5]) < set(chosen[99])
    assert chosen[99] == [image.tobytes() for image in everything.images]
    in_source = [image for image in chosen[99] if image in set(chosen[5])]
    assert chosen[5] == in_source, "the source's order is kept"
    assert chosen[5] != chosen[99][:15], "not simply the first ones"
    assert len(reader(tmp_path, train_per_class=2).read("test")) == 30
    assert len(reader(tmp_path, test_per_class=1).read("test")) == 3


def test_a_class_is_chosen_whatever_the_others_are():
    labels = np.array([0, 1, 1, 0, 1, 0, 0, 1])
    with_others = choose_per_class(labels, lambda n: n // 2, [7])
    alone = choose_per_class(labels[labels == 1], lambda n: n // 2, [7])
    np.testing.assert_array_equal(with_others[labels == 1], alone)
    assert (choose_per_class(np.zeros(50, int), lambda n: 25, [7]) != (np.arange(50) < 25)).any()
    assert (
        choose_per_class(np.zeros(50, int), lambda n: 25, [7])
        != choose_per_class(np.zeros(50, int), lambda n: 25, [8])
    ).any()


def test_fingerprint_tells_images_labels_and_shape():
    images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1)
    labels = np.array([0, 1])
    data = LabelledImages(images, labels)
    others = [
        LabelledImages(images + np.uint8(1), labels),
        LabelledImages(images, labels + 1),
        LabelledImages(images[::-1], labels),
        LabelledImages(images.reshape(2, 2, 8, 1), labels),
        LabelledImages.empty((4, 4, 1)),
    ]
    assert len({fingerprint(item) for item in [data, *others]}) == 6
    assert fingerprint(data) == fingerprint(LabelledImages(images.copy(), labels.copy()))
    assert len(fingerprint(data)) == 64


def damage(folder, kind, change):
    """Rewrite one file of the train split, given its bytes."""
    file = folder / f"train-{kind}-ubyte"
    file.write_bytes(change(file.read_bytes()))


def with_sizes(*sizes):
    return lambda data: (
        data[:4] + struct.pack(f">{len(sizes)}I", *sizes) + data[4 + 4 * len(sizes) :]
    )


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "images-idx3",
            lambda data: b"\0\0\x0d\x03" + data[4:],
            r"train-images-idx3-ubyte: found magic number 0x00000d03, expected 0x00000803 "
            r"\(unsigned bytes in 3 dimensions\).*not swapped",
        ),
        ("labels-idx1", lambda _: b"", r"found magic number 0x, expected 0x00000801"),
        ("images-idx3", lambda data: data[:9], "found 9 bytes, expected a whole header"),
        (
            "images-idx3",
            with_sizes(12, 0, 5),
            r"found dimensions \[12, 0, 5\], expected at least 1",
        ),
        (
            "images-idx3",
            lambda data: data[:-30],
            r"found a file of 226 bytes, expected the 240 bytes of data .* cut short.*Fetch",
        ),
        (
            "images-idx3",
            lambda data: data[:-5],
            r"found 235 bytes of data, expected 240, as its header promises \[12, 4, 5\]. Fetch",
        ),
        (
            "images-idx3",
            lambda data: gzip.compress(data[:-5]),
            "found 235 bytes of data, expected 240",
        ),
        ("images-idx3", lambda data: data + b"\0", "found more than 240 bytes, expected 240"),
        (
            "images-idx3",
            with_sizes(2**32 - 1, 2**32 - 1, 2**32 - 1),
            "found a file of 256 bytes, expected the 79228162458924105385300197375 bytes of data",
        ),
        (
            "labels-idx1",
            lambda data: idx_bytes(np.zeros(11)),
            "train-images-idx3-ubyte: found 12 images, expected 11, one for each label in "
            "train-labels-idx1-ubyte.*Fetch both",
        ),
        (
            "labels-idx1",
            lambda data: data[:-1] + b"\x03",
            r"train-labels-idx1-ubyte: found label 3 \(image 11\), expected labels 0 to 2, as "
            "class_names has 3 names.*Name every class",
        ),
        (
            "images-idx3",
            lambda data: gzip.compress(data)[:-12],
            "found damaged gzip data .*expected a whole gzip file",
        ),
        (
            "images-idx3",
            lambda data: gzip.compress(data)[:-8] + bytes(8),
            "found damaged gzip data .*CRC",
        ),
        (
            "images-idx3",
            lambda data: gzip.compress(data)[:10] + b"\xff" * 40,
            "found damaged gzip data",
        ),
    ],
)
def test_damaged_files_are_named_with_the_repair(tmp_path, kind, change, message):
    write_idx(tmp_path)
    reader(tmp_path).read("train")
    damage(tmp_path, kind, change)
    with pytest.raises(SourceError, match=message) as raised:
        reader(tmp_path).read("train")
    assert str(tmp_path) in str(raised.value)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    """What a gzip file holds beyond its header's promise stays packed."""
    write_idx(tmp_path)
    damage(tmp_path, "images-idx3", lambda data: gzip.compress(data + bytes(50_000_000)))
    read = []
    original = gzip.GzipFile.read

    def counted(self, size=-1):
        read.append(size)
        return original(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(SourceError, match="found more than 240 bytes, expected 240"):
        reader(tmp_path).read("train")
    assert read == [16, 16, 241], "the header twice, the data once"


def test_a_header_that_a_packed_file_cannot_keep_is_not_believed(tmp_path):
    write_idx(tmp_path)
    promise = with_sizes(4_000_000_000, 28, 28)
    damage(tmp_path, "images-idx3", lambda data: gzip.compress(promise(data)))
    with pytest.raises(SourceError, match="expected the 3136000000000 bytes of data"):
        reader(tmp_path).read("train")


def test_missing_files_say_where_and_what(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere: found no such folder.*Set `folder`"):
        reader(tmp_path / "nowhere").read("train")
    write_idx(tmp_path, "train")
    names = r"t10k-labels-idx1-ubyte, t10k-labels\.idx1-ubyte, t10k-labels-idx1-ubyte\.gz"
    with pytest.raises(
        SourceError, match=f"no file t10k-labels-idx1-ubyte, expected one of {names}"
    ):
        reader(tmp_path).read("test")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"reader": "mnist"}, "'mnist' .*does not match.*'sklearn_digits', 'idx'"),
        ({"reader": "sklearn_digits", "folder": "x"}, "folder\n.*not permitted"),
        ({"reader": "sklearn_digits", "train_per_class": 0}, "train_per_class\n.*greater than 0"),
        ({"reader": "sklearn_digits", "test_fraction": 0.6}, "test_fraction\n.*less than or equal"),
        ({"reader": "idx", "folder": "x", "class_names": []}, "class_names is not set.*list the"),
        ({"reader": "idx", "folder": "x", "class_names": ["a", "b", "a"]}, "repeated: a"),
    ],
)
def test_wrong_configurations_are_refused(config, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Source).validate_python(config)


def test_configurations_are_told_by_reader_and_frozen():
    config = {"reader": "idx", "folder": "x", "class_names": [0, 1]}
    source = TypeAdapter(Source).validate_python(config)
    assert source == Idx(folder=Path("x"), class_names=("0", "1"))
    with pytest.raises(ValidationError, match="frozen"):
        source.folder = Path("y")


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist():
    names = [f"class {label}" for label in range(10)]
    test = Idx(folder=FASHION, class_names=names, test_per_class=3).read("test")
    assert test.image_shape == (28, 28, 1)
    assert np.bincount(test.labels).tolist() == [3] * 10
    assert fingerprint(test) == ("312cd2fee36cb611d50ebaf448225fc32a126980ca449243f42c746f597efbab")
    whole = Idx(folder=FASHION, class_names=names)
    for split, each in (("train", 6000), ("test", 1000)):
        data = whole.read(split)
        assert data.image_shape == (28, 28, 1)
        assert np.bincount(data.labels).tolist() == [each] * 10
    assert hashlib.sha256(data.images[0].tobytes()).hexdigest() == (
        "ffc7351ed0f8bae542820866086177fa4e0b366b97bf9d998dffdb8dbe138787"
    )
