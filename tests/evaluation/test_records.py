"""Records of runs: what they keep, and what the tables say of them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from gppdm_pipeline.plans.records import (
    MEASURES,
    as_markdown,
    cost_of,
    paired,
    record_of,
    replay_as_markdown,
)


def record(seed, accuracy, drift=None, gpu=None):
    metrics = {} if drift is None else {"key_drift/mid": drift, "value_drift/mid": 0.0}
    return {
        "configuration": {"seed": seed},
        "average_accuracy": accuracy,
        "average_incremental_accuracy": accuracy,
        "forgetting": None,
        "seconds": {
            "task_01": {"train_classifier": 2.0, "evaluate": 0.5},
            "task_02": {"evaluate": 1},
        },
        "state_bytes": [1, 2_500_000],
        "stages": {"task_01.train_generator": metrics},
        "made": {"gpu": gpu},
    }


def test_paired_difference_is_over_common_seeds_with_the_standard_error_of_its_mean():
    ours = [record(0, 0.9), record(1, 0.8), record(2, 0.7), record(7, 0.1)]
    theirs = [record(2, 0.6), record(1, 0.75), record(0, 0.88), record(8, 0.9)]
    differences = np.array([2.0, 5.0, 10.0])
    error = differences.std(ddof=1) / math.sqrt(3)
    assert paired(ours, theirs) == f"{differences.mean():+.1f} ± {error:.1f}"
    assert paired([record(0, 0.5)], [record(0, 0.6)]) == "-10.0"
    assert paired([record(0, 0.5)], [record(1, 0.6)]) == ""


def test_table():
    records = {
        "plain": [record(0, 0.5)],
        "new": [record(0, 0.6, 0.25), record(1, 0.8, 0.5)],
        "x": [],
    }
    header, _, plain, new, missing = as_markdown(records, "plain").splitlines()
    assert [cell.strip() for cell in header.split("|")[1:-1]] == [
        "variant",
        "seeds",
        "average accuracy, %",
        "incremental, %",
        "drift of old keys, values",
        "seconds",
        "state, MB",
        "to plain",
    ]  # forgetting is undefined everywhere
    assert plain == "| plain | 0 | 50.0 | 50.0 |  | 3.5 | 2.5 |  |"
    assert (
        new
        == "| new | 0, 1 | 70.0 ± 14.1 | 70.0 ± 14.1 | 0.4 ± 0.2 | 3.5 ± 0.0 | 2.5 ± 0.0 | +10.0 |"
    )
    assert missing.startswith("| x | not run |")


def test_seconds_of_the_processor_where_records_have_them():
    old, new = record(0, 0.5), {**record(1, 0.5), "cpu_seconds": {"task_01": {"a": 1.0, "b": 2.0}}}
    header, _, row = as_markdown({"x": [old, new]}, "x").splitlines()
    column = header.split("|").index(" CPU seconds ")
    assert row.split("|")[column] == " 3.0 "


def test_seconds_of_a_gpu_have_a_column_of_their_own():
    cpu = {**record(0, 0.5), "made": {}, "cpu_seconds": {"task_01": {"a": 9.0}}}
    gpu = {**record(1, 0.5, gpu="NVIDIA H100"), "cpu_seconds": {"task_01": {"a": 1.0}}}
    header, _, row = as_markdown({"x": [cpu, gpu]}, "x").splitlines()
    cells = dict(zip(header.split("|"), row.split("|"), strict=True))
    assert cells[" seconds "] == " 3.5 "
    assert cells[" CPU seconds "] == " 9.0 "
    assert cells[" seconds, GPU "] == " 3.5 "
    assert [cost_of(cpu), cost_of(gpu)] == [9.0, 3.5]
    beside = {**gpu, "configuration": {"seed": 1, "device": "cpu"}}  # the machine had one
    assert cost_of(beside) == 1.0


def quality(*after):
    classes = [
        {
            label: {"oracle_agreement": share, "frechet_distance": {"lite": 99.0, "oracle": d}}
            for label, (share, d) in task.items()
        }
        for task in after
    ]
    return {"settings": {"extractors": ["oracle", "lite"]}, "after_task": classes}


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
    header, _, row = replay_as_markdown(records).splitlines()
    assert header == "| replay of the first two classes after task | 1 | 2 | 3 |"
    assert row == "| a | 90, 1.5 | 70, 2.5 | 50, nan |"
    assert replay_as_markdown({"older": [record(0, 0.5)], "x": []}) == ""


def test_a_record_keeps_measures_settings_and_what_stages_measured():
    report = {name: [name] for name in MEASURES} | {"configuration": {"seed": 3}, "curves": [1]}
    logs = {"task_01.a": {"metrics": {"m": 1.0}, "curves": {"c": []}}, "task_01.b": {"seconds": 1}}
    made = record_of(report, logs, {"git_commit": "x"})
    assert made["stages"] == {"task_01.a": {"m": 1.0}}
    assert made["made"] == {"git_commit": "x"}
    assert set(made) == {*MEASURES, "configuration", "stages", "made"}
    assert json.loads(json.dumps(made)) == made


@pytest.mark.parametrize("value", [0.0, 3e-7])
def test_small_drifts_stay_visible(value):
    shown = "0.0" if value == 0 else "3e-07"
    assert f"| {shown} |" in as_markdown({"a": [record(0, 0.5, value)]}, "a")
