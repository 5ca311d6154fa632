"""Tasks by names and by sizes with the first classes apart; labels that stay; what is refused."""

import struct

import numpy as np
import pytest
from pydantic import ValidationError
from tests.streams.test_scenario import config, rows

from gppdm_pipeline.streams.scenario import StreamConfig, read_task, read_tasks

PETS = ["cat", "dog", "guinea-pig", "ship"]


def pets(**options):
    source = {"reader": "idx", "folder": "x", "class_names": PETS}
    return StreamConfig.model_validate({"source": source, **options})


def test_tasks_by_name():
    stream = pets(tasks=[["ship", "cat"], ["dog", "guinea-pig"]])
    assert stream.classes_by_task(7) == ((3, 0), (1, 2))
    assert stream.names_by_task(0) == [["ship", "cat"], ["dog", "guinea-pig"]]
    assert stream.number_of_tasks == 2
    assert pets(tasks=["ship-cat", "guinea-pig-dog"]).classes_by_task(0) == ((3, 0), (2, 1))
    digits = config(classes_per_task=None, tasks=[[3, 1], [4]], unlisted="leave_out")
    assert digits.classes_by_task(0) == ((3, 1), (4,))
    split = read_task(digits, 0, 1)
    assert split.train.classes == split.validation.classes == split.test.classes == (1, 3)


@pytest.mark.parametrize(
    ("first", "rest", "sizes"),
    [
        ("half", 1, [5, 1, 1, 1, 1, 1]),
        ("half", 5, [5, 5]),
        (4, 2, [4, 2, 2, 2]),
        (6, [3, 1], [6, 3, 1]),
        (9, 1, [9, 1]),
    ],
)
def test_first_classes_then_the_others(first, rest, sizes):
    stream = config(first_classes=first, classes_per_task=rest, class_order="random")
    tasks = stream.classes_by_task(2)
    assert [len(task) for task in tasks] == sizes
    assert stream.number_of_tasks == len(sizes)
    assert sorted(sum(tasks, ())) == list(range(10))


def test_classes_may_be_left_out_if_that_is_said():
    assert config(classes_per_task=[2, 3], unlisted="leave_out").classes_by_task(0) == (
        (0, 1),
        (2, 3, 4),
    )
    assert len(config(classes_per_task=3, unlisted="leave_out").classes_by_task(0)) == 3
    some = config(class_order="7-3-1-9", unlisted="leave_out")
    assert some.classes_by_task(0) == ((7, 3), (1, 9))
    assert pets(tasks=["ship"], unlisted="leave_out").number_of_tasks == 1


def test_all_tasks_are_read_as_one_by_one():
    stream = config(class_order="random")
    for number, split in enumerate(read_tasks(stream, 3), start=1):
        again = read_task(stream, 3, number)
        for part in ("train", "validation", "test"):
            assert rows(getattr(split, part)) == rows(getattr(again, part))
    assert number == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": [["cta"], ["dog"]]}, r"unknown 'cta' \(did you mean 'cat'\?\); no task brings"),
        ({"tasks": [["cat", "cat"], PETS[1:]]}, "task 1 names 'cat' twice"),
        (
            {"tasks": [["cat", "dog"], ["cat", "guinea-pig", "ship"]]},
            "'cat' is in the tasks 1, 2, and a class may come back only if stream.returning_images",
        ),
        ({"tasks": [["cat"], ["dog"]]}, "no task brings 'guinea-pig', 'ship': add them, or leave"),
        ({"tasks": [PETS, []]}, "task 2 has no class"),
        ({"tasks": []}, "at least 1 item"),
        ({"tasks": [PETS], "class_order": "random"}, "class_order must be left natural: tasks giv"),
        ({"tasks": [PETS], "classes_per_task": 2}, "set are classes_per_task and tasks"),
        ({"classes_per_task": 1, "first_classes": 4}, "no class of 4 is left behind them"),
        ({"classes_per_task": 2, "first_classes": 1}, "source's 3 classes behind first_classes: "),
        ({"classes_per_task": [2, 1]}, "sum to 3, but the source has 4 classes: use numbers that su"
         "m to 4, or set stream.unlisted=leave_out"),
        ({"classes_per_task": [4, 1], "unlisted": "leave_out"}, "use numbers that sum to 4 \\["),
        ({"classes_per_task": 5, "unlisted": "leave_out"}, "5 classes a task do not divide"),
        ({"class_order": "cat-dog", "classes_per_task": 1}, "missing 'guinea-pig', 'ship'"),
        ({"class_order": "cat-dog-cat", "classes_per_task": 1, "unlisted": "leave_out"},
         "repeated 'cat'"),
        ({"numbering": ["cat", "dog"], "classes_per_task": 1}, "missing 'guinea-pig', 'ship'"),
    ],
)  # fmt: skip
def test_wrong_tasks_are_named(options, message):
    with pytest.raises(ValidationError, match=message):
        pets(**options)


def test_an_odd_number_of_classes_has_no_half():
    source = {"reader": "idx", "folder": "x", "class_names": PETS[:3]}
    with pytest.raises(ValidationError, match="3 classes have no half: set first_classes to a num"):
        StreamConfig.model_validate(
            {"source": source, "first_classes": "half", "classes_per_task": 1}
        )


def test_labels_follow_their_numbering(tmp_path):
    for prefix in ("train", "t10k"):
        images = np.arange(8 * 16, dtype=np.uint8)
        head = struct.pack(">4I", 0x803, 8, 4, 4)
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">2I", 0x801, 8)
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(head + bytes([0, 1, 2, 3] * 2))
    source = {"reader": "idx", "folder": tmp_path, "class_names": PETS}
    numbering = ["ship", "cat", "guinea-pig", "dog"]
    own = {"source": source, "validation_fraction": 0}
    natural = StreamConfig.model_validate({**own, "tasks": ["cat-ship", "dog-guinea-pig"]})
    other = StreamConfig.model_validate({**own, "tasks": ["cat-ship", "dog-guinea-pig"],
                                         "numbering": numbering})  # fmt: skip
    assert other.class_names == tuple(numbering)
    assert natural.classes_by_task(0) == ((0, 3), (1, 2))
    assert other.classes_by_task(0) == ((1, 0), (3, 2))
    for one, another in zip(read_tasks(natural, 0), read_tasks(other, 0), strict=True):
        assert (one.train.images == another.train.images).all()
        names = [[s.class_names[k] for k in split.train.labels]
                 for s, split in ((natural, one), (other, another))]  # fmt: skip
        assert names[0] == names[1]
    ordered = StreamConfig.model_validate({**own, "classes_per_task": 2, "numbering": numbering})
    assert ordered.names_by_task(0) == [["ship", "cat"], ["guinea-pig", "dog"]]
