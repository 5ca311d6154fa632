"""Pictures of recorded runs."""

from __future__ import annotations

import numpy as np
import pytest
from tests.evaluation.test_figures import texts
from tests.evaluation.test_pictures import checked
from tests.evaluation.test_records import quality, record

from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.plans.record_pictures import (
    accuracy_against_cost_picture,
    first_classes_picture,
    strip_of,
)

Q = (0.9, 1.0)
QUALITY = quality({"7": Q}, {"7": Q, "2": Q}, {"7": Q, "2": Q, "5": Q})


def replay(**counts):
    """Grey images as bright as their label, and one brighter with each of a class."""
    labels = [int(name[1:]) for name, count in counts.items() for _ in range(count)]
    shades = [int(name[1:]) + i for name, count in counts.items() for i in range(count)]
    images = np.array(shades, np.uint8)[:, None, None, None].repeat(4, 1).repeat(6, 2)
    return LabelledImages(images, np.array(labels, np.int64))


def test_strip_holds_the_first_images_of_the_first_two_classes_after_each_task():
    replays = [replay(_7=5), replay(_2=2, _7=4), replay(_7=3, _5=9, _2=3)]
    strip = strip_of(replays, {"replay_quality": QUALITY})
    assert strip.shape == (2, 3, 3, 4, 6, 1)
    assert strip.dtype == np.uint8
    shades = strip[..., 0, 0, 0].tolist()
    assert shades[0] == [[7, 8, 9]] * 3
    assert shades[1] == [[255, 255, 255], [2, 3, 255], [2, 3, 4]]  # white where there is none


@pytest.mark.parametrize("tasks", [1, 10])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_for_each_variant(tasks, channels):
    strip = np.zeros((2, tasks, 3, 8, 8, channels), np.uint8)
    picture = checked(first_classes_picture({"neither": strip, "both_distilled": strip}, "A title"))
    assert {"neither", "A title", "both\ndistilled", str(tasks)} <= set(texts(picture.figure))
    assert len(picture.figure.axes) == 2 * tasks


def test_accuracy_against_cost():
    fast = [
        {**record(s, 0.5 + s / 10), "cpu_seconds": {"task_01": {"a": 10.0 + s}}} for s in (0, 1)
    ]
    records = {"fast": fast, "slow": [record(0, 0.75)], "missing": []}
    picture = checked(accuracy_against_cost_picture(records, "Cost"))
    assert [(row["variant"], row["seconds"], row["accuracy"]) for row in picture.rows] == [
        ("fast", 10.0, 50.0),
        ("fast", 10.0, 60.0),
        ("slow", 3.5, 75.0),
    ]
    found = set(texts(picture.figure))
    assert {"fast", "slow", "seconds of a run on a CPU, least of the seeds"} <= found
    assert "missing" not in found


def test_runs_of_a_gpu_are_hollow_and_have_a_mean_of_their_own():
    records = {"a": [record(0, 0.5), record(1, 0.7, gpu="H100")]}
    picture = checked(accuracy_against_cost_picture(records, "Cost"))
    assert [(row["gpu"], row["accuracy"]) for row in picture.rows] == [(False, 50.0), (True, 70.0)]
    points = picture.figure.axes[0].collections
    filled = [len(point.get_facecolors()) > 0 for point in points]
    assert filled == [True, True, False, False]
    assert [point.get_offsets()[0, 1] for point in points] == [50.0, 50.0, 70.0, 70.0]
    found = texts(picture.figure)
    assert found.count("a") == 1
    assert "seconds of a run on a CPU, least of the seeds; hollow: on a GPU" in found
