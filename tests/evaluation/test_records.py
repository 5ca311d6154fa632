"""Records of runs: what they keep, and what the tables say of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from gppdm_pipeline.plans.markdown import (
    as_markdown,
    differences_as_markdown,
    replay_as_markdown,
)
from gppdm_pipeline.plans.records import MEASURES, cost_of, distance_slope, paired, record_of


def record(seed, accuracy, drift=None, gpu=None):
    metrics = {} if drift is None else {"key_drift/mid": drift, "value_drift/mid": 0.0}
    return {
        "configuration": {"seed": seed},
        "average_accuracy": accuracy,
        "average_incremental_accuracy": accuracy,
        "forgetting": None,
        "per_class_accuracy": {"3": accuracy, "8": accuracy},
        "seconds": {
            "task_01": {"train_classifier": 2.0, "evaluate": 0.5},
            "task_02": {"evaluate": 1},
        },
        "state_bytes": [1, 2_500_000],
        "stages": {"task_01.train_generator": metrics},
        "made": {"gpu": gpu},
    }


def test_paired_difference_is_over_common_seeds_with_the_95_percent_interval_of_its_mean():
    ours = [record(0, 0.9), record(1, 0.8), record(2, 0.7), record(7, 0.1)]
    theirs = [record(2, 0.6), record(1, 0.75), record(0, 0.88), record(8, 0.9)]
    differences = np.array([2.0, 5.0, 10.0])
    half = 4.303 * differences.std(ddof=1) / math.sqrt(3)  # t of 2 degrees, in any printed table
    assert paired(ours, theirs) == f"{differences.mean():+.1f} ± {half:.1f} (n = 3)"
    assert paired(ours[:2], theirs) == f"+3.5 ± {12.706 * 1.5:.1f} (n = 2)"  # t of 1 degree
    assert paired([record(0, 0.5)], [record(0, 0.6)]) == "-10.0 (n = 1)"
    assert paired([record(0, 0.5)], [record(1, 0.6)]) == ""


def test_a_table_of_differences_has_a_row_for_each_pair_and_a_column_a_stream():
    first = {"a": [record(0, 0.5), record(1, 0.7)], "b": [record(1, 0.6)], "c": []}
    second = {"a": [record(3, 0.9)], "b": [record(3, 0.8)], "c": [record(3, 0.2)]}
    lines = differences_as_markdown({"x": first, "y": second}, [("a", "b"), ("c", "a")])
    assert lines.splitlines() == [
        "| difference | x | y |",
        "| --- | ---: | ---: |",
        "| a less b | +10.0 (n = 1) | +10.0 (n = 1) |",
        "| c less a |  | -70.0 (n = 1) |",
    ]


def table(records, baseline, **given):
    """Its cells, by variant and column."""
    header, _, *rows = as_markdown(records, baseline, **given).splitlines()
    names, *rows = ([cell.strip() for cell in row.split("|")[1:-1]] for row in (header, *rows))
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}


def test_table():
    records = {
        "plain": [record(0, 0.5)],
        "new": [record(0, 0.6, 0.25), record(1, 0.8, 0.5)],
        "x": [],
    }
    rows = table(records, "plain")
    assert rows["plain"] == {
        "variant": "plain",
        "seeds": "0",
        "average accuracy, %": "50.0",
        "difference to plain": "",
        "incremental, %": "50.0",
        "change of old keys and values": "",
        "CPU seconds": "≤ 4",
        "state, MB": "2.5",
    }  # forgetting is undefined everywhere
    assert rows["new"] == {
        "variant": "new",
        "seeds": "0, 1",
        "average accuracy, %": "70.0 ± 14.1",
        "difference to plain": "+10.0 (n = 1)",
        "incremental, %": "70.0 ± 14.1",
        "change of old keys and values": "0.5",  # the largest
        "CPU seconds": "≤ 4",
        "state, MB": "2.5",
    }
    assert rows["x"]["seeds"] == "not run"
    assert "".join(list(rows["x"].values())[2:]) == ""


def test_how_many_images_of_each_class_take_as_many_bytes_as_the_state():
    large = {**record(1, 0.5), "state_bytes": [9_999_999, 3_200_000]}
    rows = table({"a": [record(0, 0.5), large]}, "a", image_bytes=28 * 28)
    assert rows["a"]["state as raw images per class"] == str(3_200_000 // (28 * 28 * 2))


def test_seconds_are_the_least_of_the_seeds_and_the_clock_s_are_a_bound():
    old, new = record(0, 0.5), {**record(1, 0.5), "cpu_seconds": {"task_01": {"a": 1.0, "b": 2.0}}}
    other = {**record(2, 0.5), "cpu_seconds": {"task_01": {"a": 2.0}, "task_02": {"a": 5.0}}}
    assert table({"x": [other, old, new]}, "x")["x"]["CPU seconds"] == "3"
    assert table({"x": [old]}, "x")["x"]["CPU seconds"] == "≤ 4"


def test_seconds_of_a_gpu_have_a_column_of_their_own():
    cpu = {**record(0, 0.5), "made": {}, "cpu_seconds": {"task_01": {"a": 9.0}}}
    gpu = {**record(1, 0.5, gpu="NVIDIA H100"), "cpu_seconds": {"task_01": {"a": 1.0}}}
    cells = table({"x": [cpu, gpu]}, "x")["x"]
    assert cells["CPU seconds"] == "9"
    assert cells["GPU seconds"] == "4"
    assert [cost_of(cpu), cost_of(gpu)] == [9.0, 3.5]
    beside = {**gpu, "configuration": {"seed": 1, "device": "cpu"}}  # the machine had one
    assert cost_of(beside) == 1.0


def quality(*after):
    def shown(share, d):
        return {"oracle_agreement": share, "frechet_distance": {"lite": 99.0, "oracle": d}}

    classes = [{label: shown(*of) for label, of in task.items()} for task in after]
    real = {label: shown(0.95 + n / 100, n) for n, label in enumerate(classes[-1], start=1)}
    return {
        "settings": {"extractors": ["oracle", "lite"]},
        "reference": real,
        "after_task": classes,
    }


def test_replay_of_the_first_two_classes_after_every_task():
    one = quality(
        {"7": (1.0, 1.0)},
        {"7": (0.5, 3.0), "2": (0.9, 2.0)},
        {"2": (0.8, 4.0), "5": (0.0, 50.0), "7": (0.4, 6.0)},
    )
    other = quality(
        {"7": (0.8, 2.0)},
        {"7": (0.5, 3.0), "2": (0.9, 2.0)},
        {"2": (0.6, 4.0), "5": (0.0, 50.0), "7": (0.2, None)},
    )
    records = {
        "a": [record(0, 0.5) | {"replay_quality": one}, record(1, 0.5) | {"replay_quality": other}],
        "older": [record(0, 0.5)],
        "x": [],
    }
    header, _, row, real = replay_as_markdown(records).splitlines()
    assert header == (
        "| replay of the first two classes: agreement, distance after task | 1 | 2 | 3 |"
    )
    assert row == "| a | 90 %, 1.5 | 70 %, 2.5 | 50 %, nan |"
    # of class 7 the third in `reference`, then of classes 7 and 2
    assert real == "| real training images | 98 %, 3.0 | 97 %, 2.0 | 97 %, 2.0 |"
    assert replay_as_markdown({"older": [record(0, 0.5)], "x": []}) == ""


def test_the_distance_that_replay_gains_per_generation():
    """One slope for all classes, each with a level of its own."""
    one = quality(
        {"7": (1.0, 1.0)},
        {"7": (0.5, 3.0), "2": (0.9, 20.0)},
        {"7": (0.4, 6.0), "2": (0.8, 22.0), "5": (0.0, 500.0)},
    )
    levels = np.array([[1, 0, 0, 0], [1, 0, 0, 1], [1, 0, 0, 2], [0, 1, 0, 0], [0, 1, 0, 1]])
    slope = np.linalg.lstsq(levels, np.array([1.0, 3.0, 6.0, 20.0, 22.0]))[0][3]
    assert distance_slope({"replay_quality": one}) == pytest.approx(slope)
    flat = quality({"7": (1.0, 1.0)}, {"7": (1.0, 1.0)})
    once = quality({"7": (1.0, 1.0)}, {"2": (1.0, None)})
    assert math.isnan(distance_slope({"replay_quality": once}))
    runs = [
        *(record(seed, 0.5) | {"replay_quality": of} for seed, of in enumerate((one, flat, once))),
        record(3, 0.5),
    ]
    records = {"a": runs, "one": runs[:1], "none": runs[2:]}
    rows = table(records, "a", slopes=True)
    name = "distance per generation"
    assert rows["a"][name] == f"{slope / 2:+.2f} ± {slope / math.sqrt(2):.2f}"
    assert rows["one"][name] == f"{slope:+.2f}"
    assert rows["none"][name] == ""
    assert name not in table(records, "a")["a"]


def test_a_record_keeps_measures_settings_and_what_stages_measured():
    settings = {"seed": 3, "space": {"weights": "/home/a/project/data/w"}, "other": ["/home/b", 1]}
    report = {name: [name] for name in MEASURES} | {"configuration": settings, "curves": [1]}
    logs = {"task_01.a": {"metrics": {"m": 1.0}, "curves": {"c": []}}, "task_01.b": {"seconds": 1}}
    made = record_of(report, logs, {"git_commit": "x"}, Path("/home/a/project"))
    told = {"seed": 3, "space": {"weights": "data/w"}, "other": ["/home/b", 1]}
    assert made["configuration"] == told
    assert made["stages"] == {"task_01.a": {"m": 1.0}}
    assert made["made"] == {"git_commit": "x"}
    assert set(made) == {*MEASURES, "configuration", "stages", "made"}
    assert json.loads(json.dumps(made)) == made


@pytest.mark.parametrize("value", [0.0, 3e-7])
def test_small_drifts_stay_visible(value):
    shown = "0.0" if value == 0 else "3e-07"
    assert f"| {shown} |" in as_markdown({"a": [record(0, 0.5, value)]}, "a")
