"""Images are found again in files of every kind, and nowhere else."""

from __future__ import annotations

import base64
import gzip
import io
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from gppdm_pipeline.catalog.project import ProjectFiles
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.images.search import Needles

RNG = np.random.default_rng(0)


def images(channels=1, count=6):
    pixels = RNG.integers(0, 256, (count, 8, 8, channels)).astype(np.uint8)
    return LabelledImages(pixels, np.arange(count))


def saved(function, *args, **kwargs):
    file = io.BytesIO()
    function(file, *args, **kwargs)
    return file.getvalue()


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


GREY, COLOUR = images(), images(3)
FILLING = RNG.integers(0, 256, 5000).astype(np.uint8).tobytes()


def page(content):
    return b"<html><img src='data:image/png;base64," + base64.b64encode(content) + b"'></html>"


KINDS = {
    "raw": lambda x: FILLING[:13] + x.tobytes() + FILLING,
    "npz, packed": lambda x: saved(np.savez_compressed, images=x),
    "npz, stored": lambda x: saved(np.savez, images=x),
    "npy": lambda x: saved(np.save, x),
    "gz": lambda x: gzip.compress(FILLING + x.tobytes()),
    "channels first": lambda x: FILLING[:3] + np.ascontiguousarray(np.moveaxis(x, -1, 1)).tobytes(),
    "safetensors": lambda x: save({"a": np.zeros(3, np.float32), "b": x}),
    "in [-1, 1]": lambda x: save({"start": np.moveaxis(x / 127.5 - 1, -1, 1).astype(np.float32)}),
    "in [0, 1]": lambda x: saved(np.save, x / 255),
    "in [0, 1], stored": lambda x: saved(np.savez, images=x.astype(np.float32) / 255),
    "half of the bits": lambda x: save({"a": (x / 127.5 - 1).astype(np.float16)}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", [GREY, COLOUR], ids=["grey", "colour"])
def test_found(kind, data):
    content = KINDS[kind](data.images[[1, 4]])
    assert Needles(data).found_in(content) == {1, 4}


def test_found_in_pictures_and_pages_and_a_database():
    needles, one = Needles(GREY), GREY.images[3, :, :, 0]
    assert needles.found_in(png(one)) == {3}
    assert needles.found_in(page(png(one))) == {3}
    assert Needles(COLOUR).found_in(page(png(COLOUR.images[2]))) == {2}
    with closing(sqlite3.connect(":memory:")) as base:
        base.execute("create table t (b blob)")
        base.execute("insert into t values (?)", [one.tobytes()])
        base.commit()
        assert needles.found_in(base.serialize()) == {3}


def test_nothing_else_is_found():
    others = images(count=40)
    needles = Needles(GREY)
    for kind in KINDS.values():
        assert needles.found_in(kind(others.images)) == set()
    cut = GREY.images[0].tobytes()[:-1]
    assert needles.found_in(cut + b"x" * 20) == set()
    assert needles.found_in(b"") == set()
    assert needles.found_in(b"PK\x03\x04 damaged") == set()
    assert needles.found_in(b"\x89PNG damaged") == set()
    assert needles.found_in((5).to_bytes(8, "little") + b"{damaged") == set()


def test_an_image_of_one_colour_is_not_looked_for():
    blank = LabelledImages(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int64))
    blank.images[1, 3, 3:5] = 9
    needles = Needles(blank)
    assert needles.found_in(bytes(10_000)) == set()
    assert needles.found_in(bytes(50) + blank.images[1].tobytes() + bytes(50)) == {1}


def test_where_a_large_file_is_cut_nothing_is_lost(monkeypatch):
    from gppdm_pipeline.images import search  # noqa: PLC0415

    monkeypatch.setattr(search, "_PIECE", 104)
    for offset in range(60, 130):
        content = FILLING[:offset] + GREY.images[5].tobytes() + FILLING
        assert Needles(GREY).found_in(content) == {5}


@pytest.mark.parametrize("side", [(8, 8), (2, 4), (3, 5), (1, 9)])
def test_an_image_is_found_wherever_it_begins_and_wherever_its_one_bright_pixel_is(side):
    height, width = side
    size = height * width
    pixels = np.zeros((size, height, width, 1), np.uint8)
    pixels.reshape(size, size)[np.arange(size), np.arange(size)] = np.arange(1, size + 1)
    needles = Needles(LabelledImages(pixels, np.arange(size)))
    for offset in range(8):
        for number in range(size):
            around = bytes(range(100, 100 + offset)), bytes(range(200, 216))
            assert number in needles.found_in(pixels[number].tobytes().join(around))


def test_images_whose_words_are_chosen_in_parts_are_all_found(monkeypatch):
    from gppdm_pipeline.images import search  # noqa: PLC0415

    monkeypatch.setattr(search, "_AT_ONCE", 3 * 64)
    many = images(count=20)
    assert Needles(many).found_in(FILLING + many.images.tobytes()) == {*range(20)}


def test_folders_behind_links_are_looked_through_once_and_those_of_tools_are_not(tmp_path):
    project, disk = tmp_path / "project", tmp_path / "disk"
    theirs = ("disk/01_raw/a.npz", "project/.mypy_cache/a.npz", "project/.venv/a.npz")
    for name in ("disk/03_primary/a.npz", "project/image_cache/a.npy", *theirs):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"a")
    (project / "data").symlink_to(disk)
    (disk / "round").symlink_to(project)
    found = [file.as_posix() for file in ProjectFiles(project)]
    assert found == ["data/03_primary/a.npz", "image_cache/a.npy"]
