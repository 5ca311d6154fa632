from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gppdm_pipeline.streams.errors import SourceError
from gppdm_pipeline.streams.unlabelled import unlabelled


def test_files_of_a_folder_by_their_paths_in_it(tmp_path):
    for name in ("b.png", "a/c.JPG", "a/notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list(unlabelled(tmp_path)) == [
        ("a/c.JPG", tmp_path / "a/c.JPG"),
        ("b.png", tmp_path / "b.png"),
    ]
    assert list(unlabelled(tmp_path / "b.png")) == [("b.png", tmp_path / "b.png")]


@pytest.mark.parametrize("key", ["images", "test_images", "any"])
def test_rows_of_an_npz(tmp_path, key):
    images = np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2)
    others = {"labels": np.zeros(3)} if key != "any" else {}
    np.savez(tmp_path / "x.npz", **{key: images}, **others)
    found = list(unlabelled(tmp_path / "x.npz"))
    assert [name for name, _ in found] == ["0", "1", "2"]
    assert np.array_equal(np.stack([pixels[..., 0] for _, pixels in found]), images)


@pytest.mark.parametrize("within", [True, False])
def test_rows_of_a_parquet_file(tmp_path, within):
    cells = [{"bytes": b"one", "path": "x"}, None] if within else [b"one", None]
    pq.write_table(pa.table({"image": cells}), tmp_path / "x.parquet")
    assert list(unlabelled(tmp_path / "x.parquet")) == [("0", b"one"), ("1", b"")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "found no such file or folder"),
        ("empty", "found no image file"),
        ("bad.npz", "found a damaged file"),
        ("float.npz", "values from 0 to 255, 0 to 1"),
        ("bad.parquet", "found a damaged file"),
        ("other.parquet", "found columns label, expected one called image"),
    ],
)
def test_what_holds_no_images_is_told(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.npz").write_bytes(b"none")
    (tmp_path / "bad.parquet").write_bytes(b"none")
    np.savez(tmp_path / "float.npz", images=np.full((1, 2, 2), 1e6))
    pq.write_table(pa.table({"label": [1]}), tmp_path / "other.parquet")
    with pytest.raises(SourceError, match=message):
        list(unlabelled(Path(tmp_path / name)))
