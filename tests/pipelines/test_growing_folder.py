"""The user's own folder of classes, to which one is added later."""

from __future__ import annotations

import json
import logging
import re

import numpy as np
import pytest
from PIL import Image
from tests.reference.runs import (
    contents,
    outputs,
    refused,
    run,
)

pytestmark = pytest.mark.usefixtures("project")

pytest.importorskip("gppdm_pipeline.streams.readers.image_folder")

RUN = "my_images/finetune/seed_0"


def add_class(folder, name, count=15):
    place = folder / name
    place.mkdir(parents=True)
    rng = np.random.default_rng(list(name.encode()))
    for number in range(count):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{number:02d}.png")


def learn(folder, tasks, **source):
    source = {"folder": str(folder), "resize": 8, **source}
    run({"benchmark": "my_images", "stream": {"source": source, "classes_per_task": tasks}})


@pytest.mark.parametrize("limits", [{}, {"train_per_class": 10, "test_per_class": 2}])
def test_a_folder_between_others(tmp_path, caplog, limits):
    folder = tmp_path / "pictures"
    for name in ("ant", "cat", "dog", "fox"):
        add_class(folder, name)
    learn(folder, [2, 2], **limits)
    before = {task: contents(outputs("06_models", RUN) / task) for task in ("task_01", "task_02")}
    add_class(folder, "bee")
    with caplog.at_level(logging.INFO):
        caplog.clear()
        learn(folder, [2, 2, 1], **limits)
    assert "Tasks 1-2 are there; training task 3." in caplog.text
    ran = re.findall(r"Completed node: (\w+)\.", caplog.text)
    assert {*ran} == {"task_03", "report"}
    for task, files in before.items():
        assert contents(outputs("06_models", RUN) / task) == files
    report = json.loads((outputs("08_reporting", RUN) / "metrics.json").read_text())
    assert report["classes_by_task"] == [["ant", "cat"], ["dog", "fox"], ["bee"]]
    add_class(folder, "cow")
    add_class(folder, "dog/more", 1)
    with refused("has learnt 3 tasks, and cannot go on to 4", "task 2: ", "images of dog"):
        learn(folder, [2, 2, 1, 1])
