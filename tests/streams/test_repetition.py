"""Streams in which classes come back: which come when, and with which images."""

from itertools import chain, pairwise

import numpy as np
import pytest
from pydantic import ValidationError
from tests.streams.test_scenario import config, rows

from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.streams import sources
from gppdm_pipeline.streams.repetition import first_seen
from gppdm_pipeline.streams.scenario import StreamConfig, read_task, read_tasks
from gppdm_pipeline.streams.sources import SourceError


def repeating(images="divide", **repetition):
    repetition = {"experiences": 12, "probability": 0.4, **repetition}
    source = {"reader": "sklearn_digits", "train_per_class": 30, "test_per_class": 4}
    return config(
        source=source, classes_per_task=None, repetition=repetition, returning_images=images
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("experiences", [1, 3, 10, 12, 25])
def test_every_class_comes_and_is_new_once_in_the_class_order(experiences, seed):
    stream = repeating(experiences=experiences)
    tasks = stream.classes_by_task(seed)
    assert tasks == stream.classes_by_task(seed)
    assert len(tasks) == stream.number_of_tasks == experiences
    assert all(len(set(task)) == len(task) >= 1 for task in tasks)
    new = first_seen(tasks)
    assert list(chain(*new)) == list(range(10))
    # Spread evenly: class j of 10 is new in experience floor(j E / 10).
    places = {label: place for place, classes in enumerate(new) for label in classes}
    assert places == {j: j * experiences // 10 for j in range(10)}


def test_classes_come_back_as_often_as_was_said():
    stream = repeating(experiences=400, probability={"0": 0.5, "1": 0.1, "2": 1})
    tasks = stream.classes_by_task(0)[81:]  # from where all three are known, and none is empty
    returned = np.bincount(list(chain(*tasks)), minlength=10)
    assert returned[2] == 319
    assert abs(returned[0] - 0.5 * 319) < 4 * np.sqrt(319 * 0.25)
    assert abs(returned[1] - 0.1 * 319) < 4 * np.sqrt(319 * 0.09)
    assert set(returned[3:]) == {1}
    assert repeating().classes_by_task(0) != repeating().classes_by_task(1)
    assert repeating(probability=1).classes_by_task(0)[-1] == (*range(10),)


def test_there_is_a_limit_to_the_classes_of_an_experience():
    tasks = repeating(probability=1, classes_per_experience=3).classes_by_task(0)
    assert {len(task) for task in tasks[3:]} == {3}
    assert len({task for task in tasks}) > 6  # which ones come back is drawn
    assert list(chain(*first_seen(tasks))) == list(range(10))
    with pytest.raises(ValidationError, match="up to 4 new ones in one: set it to 4 at least"):
        repeating(experiences=3, classes_per_experience=3)


def test_divided_images_come_once_and_all_of_them():
    stream = repeating()
    tasks = stream.classes_by_task(0)
    splits = [read_task(stream, 0, number) for number in range(1, 13)]
    seen = [rows(part) for split in splits for part in (split.train, split.validation)]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 300
    for split, classes in zip(splits, tasks, strict=True):
        assert split.train.classes == tuple(sorted(classes))
    shares = [int((s.train.labels == 0).sum() + (s.validation.labels == 0).sum()) for s in splits]
    assert max(shares) - min(share for share in shares if share) <= 1
    tests = [rows(split.test) for split in splits]
    assert sum(map(len, tests)) == len(set.union(*tests)) == 40  # each counts once


def test_drawn_images_may_come_again_and_do_not_depend_on_later_tasks():
    tasks = [["0", "1"], ["2", "0"], ["0"]]
    options = {"unlisted": "leave_out", "returning_images": 40, "validation_fraction": 0.2}
    stream = config(classes_per_task=None, tasks=tasks, **options)
    splits = [read_task(stream, 0, number) for number in (1, 2, 3)]
    zeros = [rows(split.train.of_classes([0])) for split in splits]
    assert [len(each) for each in zeros] == [40, 40, 40]
    assert all(a & b and a != b for a, b in pairwise(zeros))
    held = [rows(split.validation.of_classes([0])) for split in splits]
    assert held[0] == held[1] == held[2]
    assert not held[0] & set.union(*zeros)  # what is held out is never trained on
    shorter = config(classes_per_task=None, tasks=tasks[:1], **options)
    first = read_task(shorter, 0, 1)
    assert rows(first.train) == rows(splits[0].train)
    assert rows(first.validation) == rows(splits[0].validation)


def test_too_few_images_to_divide_are_named():
    stream = repeating(probability=1, experiences=40)
    with pytest.raises(SourceError, match="class '0' comes 40 times and has 30 training images"):
        read_task(stream, 0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"returning_images": None}, "lets classes come back: say in stream.returning_images"),
        ({"repetition": {"experiences": 3, "probability": {"zero": 1}}}, "unknown 'zero'"),
        ({"repetition": {"experiences": 3, "probability": 1.5}}, "less than or equal to 1"),
        ({"repetition": {"experiences": 0, "probability": 1}}, "greater than 0"),
        ({"returning_images": 0}, "greater than 0"),
        ({"classes_per_task": 2}, "set are classes_per_task and repetition"),
        ({"repetition": None}, "one of classes_per_task, tasks, repetition, source_batches: none"),
        ({"first_classes": 2}, "first_classes must be used with classes_per_task"),
        ({"repetition": None, "source_batches": 3}, "reader sklearn_digits lists no training batc"),
    ],
)
def test_wrong_settings_are_told(options, message):
    given = {"repetition": {"experiences": 12, "probability": 0.4}, "returning_images": "divide"}
    with pytest.raises(ValidationError, match=message):
        config(**{"classes_per_task": None, **given, **options})


LABELS = np.array([2, 2, 0, 1, 0, 2, 1, 1, 0, 2])
BATCHES = ([0, 1, 5], [3, 2, 4], [9, 6, 8], [7])


@pytest.fixture
def batched(monkeypatch):
    """The digits' reader made to list batches, of ten images in three classes."""
    images = np.arange(10 * 4, dtype=np.uint8).reshape(10, 2, 2, 1)
    images.setflags(write=False)
    data = LabelledImages(images, LABELS)
    monkeypatch.setattr(sources.SklearnDigits, "class_names", ("a", "b", "c"))
    monkeypatch.setattr(sources.SklearnDigits, "_read", lambda self, split: data)
    lists = tuple(np.array(batch) for batch in BATCHES)
    monkeypatch.setattr(sources.SklearnDigits, "batches", lambda self: lists, raising=False)

    def stream(**options):
        options = {"source_batches": 4, "validation_fraction": 0, **options}
        return StreamConfig.model_validate({"source": {"reader": "sklearn_digits"}, **options})

    return stream


def test_batches_of_the_source_are_the_tasks(batched):
    stream = batched()
    assert stream.number_of_tasks == 4
    assert stream.names_by_task(0) == [["c"], ["a", "b"], ["a", "b", "c"], ["b"]]
    for number, batch in enumerate(BATCHES, start=1):
        split = read_task(stream, 0, number)
        assert sorted(split.train.images[:, 0, 0, 0] // 4) == sorted(batch)
        assert split.train.labels.tolist() == LABELS[sorted(batch)].tolist()
    tests = [len(read_task(stream, 0, number).test) for number in (1, 2, 3, 4)]
    assert tests == [4, 6, 0, 0]
    held = read_task(batched(validation_fraction=0.5), 0, 1)
    assert (len(held.train), len(held.validation)) == (1, 2)


def test_fewer_batches(batched):
    with pytest.raises(SourceError, match=r"class 'a', 'b': take more batches, or leave such"):
        read_task(batched(source_batches=1), 0, 1)
    stream = batched(source_batches=1, unlisted="leave_out")
    assert read_task(stream, 0, 1).test.classes == (2,)


def test_batches_that_do_not_fit_are_told(batched, monkeypatch):
    with pytest.raises(SourceError, match="source_batches is 5, but the source lists 4 batches"):
        batched(source_batches=5).classes_by_task(0)
    with pytest.raises(ValidationError, match="class_order must be left natural: source_batches"):
        batched(class_order="random")
    empty = (np.array([], np.int64),)
    monkeypatch.setattr(sources.SklearnDigits, "batches", lambda self: empty)
    with pytest.raises(SourceError, match=r"batch 1 has no training image: .*train_per_class"):
        batched(source_batches=1).classes_by_task(0)
    wrong = (np.array([0, 10]),)
    monkeypatch.setattr(sources.SklearnDigits, "batches", lambda self: wrong)
    with pytest.raises(SourceError, match="batch 1 lists the training images 0 to 10, but there"):
        batched(source_batches=1).classes_by_task(0)


@pytest.mark.parametrize("limit", [None, 4])
def test_further_experiences_bring_old_classes_and_change_nothing_before(limit):
    short = repeating(experiences=5, classes_per_experience=limit)
    longer = repeating(experiences=5, classes_per_experience=limit, further=20)
    assert (short.number_of_tasks, longer.number_of_tasks) == (5, 25)
    tasks = longer.classes_by_task(0)
    assert tasks[:5] == short.classes_by_task(0)
    assert not any(first_seen(tasks)[5:])
    assert abs(np.mean([len(task) for task in tasks[5:]]) - 4) < 1 or limit


def test_tasks_that_are_planned_have_their_images_kept_for_them():
    whole = repeating()
    first = whole.model_copy(update={"up_to_task": 7})
    assert first.number_of_tasks == len(first.classes_by_task(0)) == 7
    for part, split in zip(read_tasks(first, 0), read_tasks(whole, 0), strict=False):
        np.testing.assert_array_equal(part.train.images, split.train.images)
        np.testing.assert_array_equal(part.validation.labels, split.validation.labels)
        np.testing.assert_array_equal(part.test.images, split.test.images)
    with pytest.raises(ValueError, match="task 8 does not exist: the stream has tasks 1 to 7"):
        read_task(first, 0, 8)
    with pytest.raises(ValidationError, match="up_to_task is 13, but repetition gives 12 tasks"):
        StreamConfig.model_validate({**whole.model_dump(), "up_to_task": 13})
