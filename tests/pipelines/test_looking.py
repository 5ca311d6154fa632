"""What is told of a stream before anything is learnt, and copies among its images."""

from collections import defaultdict
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from tests.streams.test_scenario import config

from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.pipelines.inspect import duplicates, near_copies
from gppdm_pipeline.pipelines.inspect.duplicates import Duplicates, find_duplicates, hash_images
from gppdm_pipeline.pipelines.inspect.looking import inspect_stream
from gppdm_pipeline.pipelines.inspect.near_copies import find_near_copies
from gppdm_pipeline.pipelines.inspect.page import as_markdown
from gppdm_pipeline.streams.sources import Idx, SklearnDigits


def images(*pixels, labels=None):
    data = np.array(pixels, np.uint8).reshape(-1, 1, 1, 1).repeat(3, 1).repeat(5, 2)
    return LabelledImages(data, np.array(labels or [0] * len(pixels), np.int64))


def slow(train, test):
    """The same, one image at a time."""
    places = defaultdict(lambda: ([], []))
    for part, data in enumerate((train, test)):
        for i, image in enumerate(data.images):
            places[image.tobytes()][part].append(i)
    groups = [g for g in places.values() if len(g[0]) + len(g[1]) > 1]
    labels = [{*train.labels[a], *test.labels[b]} for a, b in groups]
    return Duplicates(
        within_train=sum(max(len(a) - 1, 0) for a, _ in groups),
        within_test=sum(max(len(b) - 1, 0) for _, b in groups),
        across=sum(len(b) for a, b in groups if a),
        of_other_classes=sum(len(each) > 1 for each in labels),
        groups=tuple((tuple(a), tuple(b)) for a, b in groups[:10]),
    )


def test_no_copies():
    none = find_duplicates(images(1, 2), images(3))
    assert none == Duplicates(0, 0, 0, 0, ())


def test_a_case_done_by_hand():
    found = find_duplicates(
        images(7, 1, 7, 2, 7, labels=[0, 0, 0, 1, 1]), images(7, 2, 3, 3, labels=[0, 1, 0, 0])
    )
    assert found == Duplicates(2, 1, 2, 1, (((0, 2, 4), (0,)), ((3,), (1,)), ((), (2, 3))))


@pytest.mark.parametrize("chunk", [1, 1 << 26])
@pytest.mark.parametrize("seed", range(5))
def test_copies_are_those_of_a_slow_search(seed, chunk, monkeypatch):
    monkeypatch.setattr(duplicates, "_CHUNK_BYTES", chunk)
    rng = np.random.default_rng(seed)
    parts = [
        LabelledImages(rng.integers(0, 2, (n, 2, 3, 1), np.uint8), rng.integers(0, 3, n))
        for n in (40, 15)
    ]
    assert find_duplicates(*parts) == slow(*parts)


def test_images_that_share_a_hash_are_compared(monkeypatch):
    monkeypatch.setattr(duplicates, "hash_images", lambda images: np.zeros(len(images), np.uint64))
    assert find_duplicates(images(1, 2), images(3)) == Duplicates(0, 0, 0, 0, ())
    assert find_duplicates(images(1, 1), images(3)).within_train == 1


def test_a_hash_sees_every_byte():
    base = np.zeros((1, 3, 3, 1), np.uint8)
    seen = {int(hash_images(base)[0])}
    for place in np.ndindex(base.shape):
        for value in (1, 128, 255):
            changed = base.copy()
            changed[place] = value
            seen.add(int(hash_images(changed)[0]))
    assert len(seen) == 1 + 9 * 3


def photographs(n=60, side=32):
    """Patches of two photographs that come with scikit-learn, as pictures of 4 `side`."""
    whole = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    corners = rng.integers(0, (500, 280), (n, 2)).tolist()
    return [
        whole[i % 2].crop((x, y, x + 4 * side, y + 4 * side)) for i, (x, y) in enumerate(corners)
    ]


def scaled(pictures, side=32):
    pixels = np.stack(
        [np.asarray(each.resize((side, side), Image.Resampling.BOX)) for each in pictures]
    )
    return LabelledImages(pixels, np.zeros(len(pixels), np.int64))


def as_jpeg(picture):
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=75)
    return Image.open(stream)


@pytest.mark.parametrize("chunk", [1, 1 << 26])
def test_near_copies_are_found_and_other_images_are_not(monkeypatch, chunk):
    monkeypatch.setattr(near_copies, "_CHUNK_BYTES", chunk)
    monkeypatch.setattr(near_copies, "_TOGETHER", 7)
    pictures = photographs()
    train, others = scaled(pictures[:40]), scaled(pictures[40:])
    assert find_near_copies(train, others).count == 0
    copies = [as_jpeg(each) for each in pictures[:10]]
    copies += [each.resize((64, 64)) for each in pictures[10:20]]
    found = find_near_copies(train, scaled([*copies, *pictures[40:]]), most=20)
    assert found.count >= 18
    assert all(a == b for a, b in found.pairs)
    assert find_near_copies(train, train).count == 0, "equal ones are told elsewhere"


def test_plain_images_and_digits_are_no_near_copies():
    assert find_near_copies(images(10, 200), images(11, 201)).count == 0
    digits = SklearnDigits()
    assert find_near_copies(digits.read("train"), digits.read("test")).count == 0


def test_grey_versions_are_means_of_areas():
    pixels = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(1, 5, 4, 3)
    small = near_copies.grey_versions(pixels, 2).reshape(2, 2)
    expected = [
        [pixels[0, a, b].mean() for b in (slice(2), slice(2, 4))] for a in (slice(2), slice(2, 5))
    ]
    np.testing.assert_allclose(small, expected, rtol=1e-6)  # sums of float32


def test_a_stream_is_described_by_name():
    source = {"reader": "sklearn_digits", "train_per_class": 22, "test_per_class": 9}
    stream = config(
        source=source,
        classes_per_task=None,
        tasks=[["3", "1"], ["1", "8"]],
        returning_images="divide",
        unlisted="leave_out",
    )
    found = inspect_stream(stream, 0)
    record = found.record
    assert record["image_shape"] == [8, 8, 1]
    first, second = record["tasks"]
    assert [c["name"] for c in first["classes"]] == ["3", "1"]
    assert [(c["name"], c["new"], c["test"]) for c in second["classes"]] == [
        ("1", False, 0),
        ("8", True, 9),
    ]
    assert first["train"] == sum(c["train"] for c in first["classes"]) == 20 + 10
    assert first["validation"] == 3
    assert record["left_out"] == list("0245679")
    # A class that comes back is not tested again, and so has nothing to be too few of.
    small = {(f["task"], f["name"], f["part"], f["images"]) for f in record["small"]}
    assert small == {
        (1, "3", "test", 9),
        (1, "1", "train", 10),
        (1, "1", "test", 9),
        (2, "1", "train", 10),
        (2, "8", "test", 9),
    }
    assert [(task, name, len(x)) for task, name, x in found.samples] == [
        (1, "3", 12),
        (1, "1", 10),
        (2, "1", 10),
        (2, "8", 12),
    ]


def test_copies_are_named_by_class(monkeypatch):
    train, test = images(5, 6, 5, labels=[0, 1, 1]), images(6, 9, labels=[0, 1])
    data = {"train": train, "test": test}
    monkeypatch.setattr(Idx, "_read", lambda self, split: data[split])
    source = {"reader": "idx", "folder": "x", "class_names": ["cat", "dog"]}
    record = inspect_stream(config(source=source, validation_fraction=0), 0).record
    found = record["duplicates"]
    assert (found["within_train"], found["across"], found["of_other_classes"]) == (1, 1, 2)
    assert found["examples"][0] == {"train": [0, 2], "test": [], "classes": ["cat", "dog"]}


def test_digits_hold_no_copy():
    stream = config(source=SklearnDigits(), classes_per_task=10)
    assert inspect_stream(stream, 0).record["duplicates"]["examples"] == []


def test_what_a_folder_is_found_to_be_and_its_near_copies_are_told(tmp_path):
    for split, pictures in (("Training", photographs(24)), ("Testing", photographs(24))):
        for i, picture in enumerate(pictures):
            file = tmp_path / split / "ab"[i % 2] / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            (picture if split == "Training" else picture.resize((64, 64))).save(file)
    draw_thumbnail = tmp_path / "Training/a/@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg"
    draw_thumbnail.parent.mkdir(parents=True)
    photographs(1)[0].save(draw_thumbnail)
    source = {"reader": "image_folder", "folder": str(tmp_path), "resize": 32}
    record = inspect_stream(config(source=source, classes_per_task=1), 0).record
    assert sum(task["train"] + task["validation"] for task in record["tasks"]) == 24
    assert record["near_copies"]["across"] >= 20
    costs = {"device": "cpu", "seconds": {"total": 1}, "bytes": {"total": 1}}
    about = {"benchmark": "b", "method": "m", "seed": 0, "estimate": costs, "budget": None}
    page = as_markdown({**record, **about})
    assert "- Training images are those of Training/, test images those of Testing/." in page
    assert "1 @eaDir/" in page
    assert "test images look like a training image, as if scaled or encoded anew" in page
    assert "images that look alike, of a: train 0; test 0" in page
