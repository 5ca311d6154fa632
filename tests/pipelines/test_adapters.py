"""Whole runs with adapters: replay is the same to the byte in every task, and is drawn once."""

import json
import shutil

import numpy as np
import pytest
from tests.reference.runs import run

pytestmark = pytest.mark.usefixtures("project")

STREAM = {
    "source": {"train_per_class": 10, "test_per_class": 5},
    "unlisted": "leave_out",
}
TASKS = [["3", "1"], ["0"], ["7"], ["5"]]


def learn(tasks, **options):
    """The last task is task 4 or an earlier one."""
    run(
        {
            "method": "gppdm",
            "gppdm": {
                "memory": "adapters",
                "adapters": {"batch_size": 8},
                "redraw": 0,
                "denoiser": {"steps": 5, "channels": [8, 16], "batch_size": 8},
                "replay": {"images_per_class": 3, "sampler_steps": 2},
            },
            "stream": {**STREAM, "tasks": TASKS[:tasks], "classes_per_task": None},
        },
        **options,
    )


def test_replay_is_the_same_to_the_byte_and_survives_being_deleted(project):
    learn(3)
    path = "digits/gppdm/seed_0"
    replay, states, drawn = (
        project / "data" / folder / path
        for folder in ("05_model_input", "06_models", ".checkpoints")
    )
    files = [replay / f"task_{task:02d}" / "replay.npz" for task in (1, 2, 3, 4)]
    two, three = (read(file) for file in files[1:3])
    assert [*two] == [1, 3]
    assert {*three} == {0, 1, 3}
    assert all(np.array_equal(two[label], three[label]) for label in two)
    adapters = sorted(file.parent.name for file in states.glob("task_03/state/adapters/*/*.json"))
    assert adapters == ["task_02", "task_03"]
    assert {file.name for file in (drawn / "drawn").iterdir()} == {
        f"class_{k}" for k in (0, 1, 3, 7)
    }
    folder = project / "data/08_reporting" / path
    results = json.loads((folder / "results.json").read_text())
    assert results["state_bytes"][2] > results["state_bytes"][1] > results["state_bytes"][0]

    # A task more, after the folder that can be removed was.
    shutil.rmtree(drawn)
    learn(4)
    four = read(files[3])
    assert {*four} == {0, 1, 3, 7}
    assert all(np.array_equal(three[label], four[label]) for label in three)


def read(file):
    """Class -> its images."""
    with np.load(file) as content:
        images, labels = content["images"], content["labels"]
    return {int(label): images[labels == label] for label in np.unique(labels)}
