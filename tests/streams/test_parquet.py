"""Parquet as the Hugging Face hub stores images."""

import errno
import json
import logging
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from gppdm_pipeline.streams.readers import parquet
from gppdm_pipeline.streams.readers.parquet import Parquet
from gppdm_pipeline.streams.sources import SourceError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(value, size=(6, 4)):
    stream = BytesIO()
    Image.new("L", size, value).save(stream, "PNG")
    return stream.getvalue()


def write(file, labels, first=0, names=("ant", "bee"), image="image", label="label", data=None):
    """Images of one value each, counting from `first`; as datasets.Dataset.to_parquet writes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    images = data or [png(first + i) for i in range(len(labels))]
    features = {
        image: {"_type": "Image"},
        label: {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64"},
    }
    schema = pa.schema(
        [(image, IMAGE), (label, pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows = [{"bytes": each, "path": None} for each in images]
    table = pa.table({image: pa.array(rows, IMAGE), label: pa.array(labels, pa.int64())}, schema)
    pq.write_table(table, file, row_group_size=3)
    return file


def write_both(folder):
    write(folder / "data/train-00000-of-00002.parquet", [0, 1, 0, 1, 1])
    write(folder / "data/train-00001-of-00002.parquet", [1, 0], first=5)
    write(folder / "data/test-00000-of-00001.parquet", [1, 0], first=50)
    return folder


def values(data):
    return [*zip(data.labels.tolist(), data.images[:, 0, 0, 0].tolist(), strict=True)]


@pytest.mark.parametrize("together", [1, 2, 256])
def test_shards_are_read_one_after_the_other(tmp_path, monkeypatch, together):
    monkeypatch.setattr(parquet, "TOGETHER", together)
    source = Parquet(folder=write_both(tmp_path))
    assert source.class_names == ("ant", "bee")
    train = source.read("train")
    assert values(train) == [(0, 0), (1, 1), (0, 2), (1, 3), (1, 4), (1, 5), (0, 6)]
    assert values(source.read("test")) == [(1, 50), (0, 51)]
    some = Parquet(folder=tmp_path, train_per_class=2).read("train")
    assert np.bincount(some.labels).tolist() == [2, 2]
    assert set(values(some)) < set(values(train))


def test_other_columns_and_files_can_be_named(tmp_path):
    write(tmp_path / "train.parquet", [0, 1], names=None, image="img", label="fine_label")
    write(tmp_path / "validation.parquet", [1, 0], names=None, image="img", label="fine_label")
    columns = {"image": "img", "label": "fine_label", "test": "validation*.parquet"}
    source = Parquet(folder=tmp_path, class_names=["a", "b"], **columns)
    assert source.read("test").labels.tolist() == [1, 0]
    with pytest.raises(ValidationError, match="class_names is not set, and these files name no"):
        Parquet(folder=tmp_path, **columns)
    with pytest.raises(SourceError, match=r"columns img: struct.*, expected image with the image"):
        Parquet(folder=tmp_path, class_names=["a", "b"]).read("train")
    with pytest.raises(SourceError, match=r"columns img: .*, expected label with whole numbers or"):
        Parquet(folder=tmp_path, class_names=["a", "b"], image="img").read("train")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], r"label 2 \(label, row 2\), expected labels 0 to 1"),
        ([0, -1, 1], r"label -1 \(label, row 1\)"),
        ([0, None, 1], r"no label \(row 1\)"),
        ([0, 0, 0], "no training image of class 'bee'"),
    ],
)
def test_labels_are_checked_before_images(tmp_path, labels, message, monkeypatch):
    write(tmp_path / "train.parquet", labels)
    monkeypatch.setattr(Parquet, "decode", None)
    with pytest.raises(SourceError, match=f"{tmp_path}.*{message}"):
        Parquet(folder=tmp_path).read("train")


def test_a_damaged_image_is_named_by_its_row(tmp_path, caplog):
    images = [png(0), b"no image", png(2), None, png(4)]
    file = write(tmp_path / "train.parquet", [0, 1, 0, 1, 1], data=images)
    with pytest.raises(
        SourceError, match=rf"(?s){file} \(row 1\): no image\n.*\(row 3\): no image"
    ):
        Parquet(folder=tmp_path).read("train")
    with caplog.at_level(logging.WARNING):
        data = Parquet(folder=tmp_path, damaged="skip").read("train")
    assert values(data) == [(0, 0), (0, 2), (1, 4)]
    assert "2 damaged images are left out" in caplog.text


def test_damaged_and_missing_files_are_named(tmp_path):
    source = Parquet(folder=tmp_path, class_names=["a", "b"])
    with pytest.raises(SourceError, match=r"no such file, expected train\*.parquet in it or below"):
        source.read("train")
    file = write(tmp_path / "train.parquet", [0, 1])
    whole = file.read_bytes()
    for damaged in (whole[:-9], b"", b"PAR1 no PAR1", whole[:40] + b"\xff" * 60 + whole[100:]):
        file.write_bytes(damaged)
        with pytest.raises(SourceError, match=f"{file}|{tmp_path}"):
            source.read("train")


def write_columns(file, image, label, kind=None):
    table = pa.table({"image": pa.array(image, kind), "label": pa.array(label)})
    pq.write_table(table, file)


@pytest.mark.parametrize("kind", [pa.struct([("path", pa.string())]), IMAGE, pa.string()])
def test_paths_in_place_of_bytes(tmp_path, kind):
    (tmp_path / "pictures").mkdir()
    names = [f"pictures/{i}.png" for i in range(4)]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(png(10 + i))
    images = names if kind == pa.string() else [{"path": name} for name in names]
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        write_columns(tmp_path / f"data/{split}.parquet", images, [0, 1, 0, 1], kind)
    source = Parquet(folder=tmp_path, class_names=["a", "b"])
    assert values(source.read("train")) == [(0, 10), (1, 11), (0, 12), (1, 13)]
    (tmp_path / names[1]).write_bytes(png(99))  # not what was prepared
    assert values(source.read("train"))[1] == (1, 99)
    (tmp_path / names[2]).unlink()
    with pytest.raises(SourceError, match=r"path 'pictures/2.png' \(row 2\), .*nothing is fetched"):
        source.read("test")


@pytest.mark.parametrize("other", ["path", "bytes"])
def test_parts_of_an_image_that_no_row_has_are_left_alone(tmp_path, other):
    (tmp_path / "1.png").write_bytes(png(1))
    image = {"bytes": png(1), "path": "1.png", other: None}
    for part in ("train", "test"):
        write_columns(tmp_path / f"{part}.parquet", [image, image], [0, 1])
    source = Parquet(folder=tmp_path, class_names=["a", "b"])
    assert values(source.read("train")) == [(0, 1), (1, 1)]


def test_text_that_is_no_path_is_told_in_short(tmp_path):
    write_columns(tmp_path / "train.parquet", ["a" * 5000, "b"], [0, 1])
    with pytest.raises(SourceError, match=r"path 'a{80}' \(row 0\), which is no file"):
        Parquet(folder=tmp_path, class_names=["a", "b"]).read("train")


def test_bytes_alone_and_labels_as_text(tmp_path):
    images = [png(i) for i in range(4)]
    for split in ("train", "test"):
        names = pa.array(["dog", "cat", "dog", "cat"])
        table = {"image": images, "label": names if split == "test" else names.dictionary_encode()}
        pq.write_table(pa.table(table), tmp_path / f"{split}.parquet")
    source = Parquet(folder=tmp_path)
    assert source.class_names == ("cat", "dog")
    for split in ("train", "test"):
        assert values(source.read(split)) == [(1, 0), (0, 1), (1, 2), (0, 3)]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_labels_of_bytes_are_utf_8_or_refused(tmp_path, kind):
    for names in (["été", "猫"], ["été", b"\xe9t\xe9"]):
        labels = pa.array([n if isinstance(n, bytes) else n.encode() for n in names], pa.binary())
        labels = labels.view(kind) if kind != pa.large_string() else labels.cast(
            pa.large_binary()
        ).view(kind)  # fmt: skip
        write_columns(tmp_path / "train.parquet", [png(1), png(2)], labels)
        if names[1] == "猫":
            assert Parquet(folder=tmp_path).class_names == ("été", "猫")
            assert Parquet(folder=tmp_path).read("train").labels.tolist() == [0, 1]
        else:
            with pytest.raises(
                SourceError, match=r"label b'\\xe9t\\xe9' \(row 1\), which is no UTF-8"
            ):
                Parquet(folder=tmp_path)


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    write_both(tmp_path)
    scandir = os.scandir

    def refusing(place):
        if Path(place).name == "data":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(SourceError, match=r"data: cannot be read \(Permission denied\)"):
        Parquet(folder=tmp_path)


def test_labels_that_are_none_are_refused(tmp_path):
    write_columns(tmp_path / "train.parquet", [png(1), png(2)], [0.0, 0.5])
    with pytest.raises(SourceError, match=r"label 0.5 \(row 1\), expected one whole number"):
        Parquet(folder=tmp_path, class_names=["a", "b"]).read("train")
    write_columns(tmp_path / "train.parquet", [png(1), png(2)], [[0], [1]])
    with pytest.raises(SourceError, match=r"label: list.*expected label with whole numbers"):
        Parquet(folder=tmp_path, class_names=["a", "b"]).read("train")
    write_columns(tmp_path / "train.parquet", [[1, 2], [3, 4]], [0, 1])
    with pytest.raises(SourceError, match=r"image: list.*expected image with the image files"):
        Parquet(folder=tmp_path, class_names=["a", "b"]).read("train")
