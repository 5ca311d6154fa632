"""The stream: orders, tasks, and splits that never overlap."""

import struct

import numpy as np
import pytest
from pydantic import ValidationError

from gppdm_pipeline.streams.scenario import StreamConfig, read_task
from gppdm_pipeline.streams.sources import Reader, SklearnDigits, SourceError

REVERSED = "9-8-7-6-5-4-3-2-1-0"
FASHION = (
    "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle-boot".split()
)  # two names hold a "-"


def config(**options):
    return StreamConfig.model_validate(
        {"source": {"reader": "sklearn_digits"}, "classes_per_task": 2} | options
    )


def rows(data):
    """Each image with its label, as a set (the digits hold no image twice)."""
    return {(int(y), x.tobytes()) for x, y in zip(data.images, data.labels, strict=True)}


@pytest.mark.parametrize(
    ("classes_per_task", "sizes"),
    [(2, [2] * 5), (10, [10]), (1, [1] * 10), ([6, 2, 2], [6, 2, 2]), ([1, 9], [1, 9])],
)
def test_tasks_use_each_class_once(classes_per_task, sizes):
    for order in ("natural", "random", REVERSED):
        tasks = config(classes_per_task=classes_per_task, class_order=order).classes_by_task(seed=3)
        assert [len(task) for task in tasks] == sizes
        assert sorted(label for task in tasks for label in task) == list(range(10))


def test_orders():
    natural = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
    backwards = ((9, 8), (7, 6), (5, 4), (3, 2), (1, 0))
    assert config().classes_by_task(0) == config().classes_by_task(1) == natural
    assert config(class_order=REVERSED).classes_by_task(0) == backwards
    assert config(class_order=REVERSED.split("-")).classes_by_task(0) == backwards
    assert config(class_order=[9, 8, 7, 6, 5, 4, 3, 2, 1, 0]).classes_by_task(0) == backwards
    shuffled = config(class_order="random")
    assert shuffled.classes_by_task(0) == shuffled.classes_by_task(0) != natural
    assert len({shuffled.classes_by_task(seed) for seed in range(5)}) == 5


def test_tasks_read_no_image(monkeypatch):
    monkeypatch.setattr(Reader, "read", None)
    assert len(config(class_order="random").classes_by_task(0)) == 5


def test_names_with_a_dash_can_be_joined_by_dashes(tmp_path):
    source = {"reader": "idx", "folder": tmp_path, "class_names": FASHION}
    stream = config(source=source, class_order="-".join(FASHION[::-1]))
    assert stream.classes_by_task(0) == config(class_order=REVERSED).classes_by_task(0)


def test_a_configuration_survives_json():
    for order in ("natural", REVERSED):
        stream = config(classes_per_task=[6, 4], class_order=order)
        assert StreamConfig.model_validate_json(stream.model_dump_json()) == stream


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"classes_per_task": 3},
            "classes_per_task\n.*3 classes a task do not divide the source's 10 classes: use one "
            "of 1, 2, 5, 10, or a list of numbers that sum to 10",
        ),
        (
            {"classes_per_task": [5, 4]},
            r"\[5, 4\] sum to 9, but the source has 10 classes: use numbers that sum to 10",
        ),
        ({"classes_per_task": 0}, "greater than 0"),
        ({"classes_per_task": [10, 0]}, "greater than 0"),
        (
            {"class_order": "natrual"},
            r"class_order\n.*unknown 'natrual' \(did you mean 'natural'\?",
        ),
        ({"class_order": "9-8-8-7-6-5-4-3-2-1"}, "repeated '8'; missing '0'"),
        ({"class_order": ["1"] * 2}, "10 classes once: repeated '1'; missing '0', '2', '3', '4'"),
        ({"class_order": "9-8-7-6-5-4-3-2-1-O"}, "unknown 'O'; missing '0'"),
        ({"validation_fraction": 0.51}, "validation_fraction\n.*less than or equal to 0.5"),
        ({"validation_fraction": -0.1}, "greater than or equal to 0"),
        ({"clas_order": "random"}, "clas_order\n.*not permitted"),
        (
            {"source": {"reader": "sklearn"}, "class_order": "x"},
            "source\n.*'sklearn_digits', 'idx'",
        ),
    ],
)
def test_wrong_streams_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        config(**options)


def test_unknown_names_get_the_nearest_and_long_lists_are_cut(tmp_path):
    names = [f"class_{label:02}" for label in range(50)]
    source = {"reader": "idx", "folder": tmp_path, "class_names": names}
    with pytest.raises(ValidationError, match=r"unknown 'clas_07' \(did you mean 'class_07'\?\)"):
        config(source=source, class_order=["clas_07", *names[1:]])
    with pytest.raises(ValidationError, match=r"missing 'class_00', .*'class_09' and 40 more"):
        config(source=source, class_order=["x"])


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_splits_are_disjoint_stratified_and_complete(fraction):
    stream = config(classes_per_task=[4, 6], class_order="random", validation_fraction=fraction)
    train, test = SklearnDigits().read("train"), SklearnDigits().read("test")
    for task, classes in enumerate(stream.classes_by_task(5), start=1):
        split = read_task(stream, seed=5, task=task)
        parts = [rows(part) for part in (split.train, split.validation, split.test)]
        assert sum(map(len, parts)) == len(set.union(*parts))
        assert parts[0] | parts[1] == rows(train.of_classes(classes))
        assert parts[2] == rows(test.of_classes(classes))
        for label in classes:
            count = int((train.labels == label).sum())
            assert (split.validation.labels == label).sum() == round(fraction * count)


def test_the_test_images_are_those_of_every_seed_and_never_trained_on():
    stream = config(classes_per_task=10)
    splits = [read_task(stream, seed, task=1) for seed in range(3)]
    test = rows(splits[0].test)
    for split in splits:
        assert rows(split.test) == test
        assert not test & (rows(split.train) | rows(split.validation))
    assert rows(splits[0].validation) != rows(splits[1].validation)


def test_one_seed_gives_one_split_in_the_source_order():
    stream = config(class_order="random")
    first, again = read_task(stream, 1, 2), read_task(stream, 1, 2)
    for part in ("train", "validation", "test"):
        a, b = getattr(first, part), getattr(again, part)
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)
    source = [image.tobytes() for image in SklearnDigits().read("test").images]
    places = [source.index(image.tobytes()) for image in first.test.images]
    assert places == sorted(places)


def test_an_image_keeps_its_class_under_any_order():
    truth = rows(SklearnDigits().read("train"))
    for order in ("natural", "random", REVERSED):
        stream = config(class_order=order)
        for task, classes in enumerate(stream.classes_by_task(0), start=1):
            split = read_task(stream, 0, task)
            assert split.train.classes == split.test.classes == tuple(sorted(classes))
            assert rows(split.train) <= truth


@pytest.mark.parametrize("task", [0, 6, -1])
def test_a_task_outside_the_stream_is_refused(task):
    with pytest.raises(
        ValueError, match=f"task {task} does not exist: the stream has tasks 1 to 5"
    ):
        read_task(config(), 0, task)


def write_idx(folder, prefix, labels, side=4):
    images = struct.pack(">4I", 0x803, len(labels), side, side) + bytes(len(labels) * side * side)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(images)
    data = struct.pack(">2I", 0x801, len(labels)) + bytes(labels)
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(data)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 0, 1], [0, 1, 2], "no training image of class 'c', but each class needs at least one"),
        ([0, 1, 2], [0, 0], "no test image of class 'b', 'c', but"),
    ],
)
def test_a_class_without_images_is_named_in_the_first_task(tmp_path, train, test, message):
    write_idx(tmp_path, "train", train)
    write_idx(tmp_path, "t10k", test)
    source = {"reader": "idx", "folder": tmp_path, "class_names": ["a", "b", "c"]}
    with pytest.raises(SourceError, match=message):
        read_task(config(source=source, classes_per_task=1), 0, 1)


def test_one_image_a_class_is_enough_and_is_trained_on(tmp_path):
    write_idx(tmp_path, "train", [0, 1])
    write_idx(tmp_path, "t10k", [1, 0])
    source = {"reader": "idx", "folder": tmp_path, "class_names": ["a", "b"]}
    split = read_task(config(source=source, validation_fraction=0.5), 0, 1)
    assert (len(split.train), len(split.validation), len(split.test)) == (2, 0, 2)
    assert split.validation.image_shape == (4, 4, 1)


def test_training_and_test_images_must_be_of_one_size(tmp_path):
    write_idx(tmp_path, "train", [0, 1], side=4)
    write_idx(tmp_path, "t10k", [0, 1], side=5)
    source = {"reader": "idx", "folder": tmp_path, "class_names": ["a", "b"]}
    with pytest.raises(SourceError, match=r"are \(4, 4, 1\) .* test images \(5, 5, 1\)"):
        read_task(config(source=source), 0, 1)
