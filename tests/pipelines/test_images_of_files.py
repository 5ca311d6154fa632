"""Runs on images of files: the preset that takes one's own, and what is told before training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.reference.runs import (
    TINY,
    client,
    outputs,
    refused,
    run,
)

pytestmark = pytest.mark.usefixtures("project")

RUN = "my_images/finetune/seed_0"
NAMES = ("ant", "bee", "cat", "dog", "emu")


def settings(**source):
    stream = {"source": {"folder": "pictures", **source}}
    return {**TINY, "benchmark": "my_images", "stream": stream}


@pytest.fixture(autouse=True)
def pictures(project):
    for label, name in enumerate(NAMES):
        folder = project / "pictures" / name
        folder.mkdir(parents=True)
        for i in range(5):
            pixels = np.full((20 + i, 24, 3), 40 * label + i, np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return project / "pictures"


def test_five_folders_are_learnt_by_setting_one_path(cache):
    run(settings())
    reports = outputs("08_reporting", RUN)
    report = json.loads((reports / "metrics.json").read_text())
    assert np.array(report["accuracy_matrix"], float).shape == (5, 5)
    with np.load(outputs("03_primary", RUN) / "task_02/train.npz") as task:
        assert task["images"].shape[1:] == (24, 24, 1)  # as they are, of 20 to 24 x 24, grey
        assert set(task["labels"]) == {1}
    assert report["configuration"]["stream"]["source"]["class_names"] == list(NAMES)
    assert len([*cache.glob("image_folder-*/images.npy")]) == 2
    assert not Path("data/02_intermediate").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"folder": "nowhere"}, "nowhere: found no such folder"),
        ({"class_names": ["ant", "bea"]}, "no class 'bea'"),
        ({"damaged": "skipp"}, "did you mean skip?"),
        ({"test_fraction": 0.6}, "stream.source.test_fraction = 0.6"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_made(source, message):
    with refused(message):
        run(settings(**source))
    assert not Path("data/03_primary").exists()
    assert not Path("data/06_models").exists()


def test_a_damaged_image_stops_the_run_before_training(pictures):
    (pictures / "bee/3.png").write_bytes(b"no image")
    (pictures / "bee/4.png").write_bytes(b"no image")
    with refused("bee/", "no image", "damaged: skip"):
        run(settings())
    assert not Path("data/03_primary").exists()
    run(settings(damaged="skip"))
    assert outputs("06_models", RUN).exists()


def test_names_that_are_too_long_for_mlflow_are_cut_there_alone(pictures, monkeypatch):
    monkeypatch.setattr("gppdm_pipeline.run.tracking.LONGEST", 30)
    run(settings())
    experiment = client().get_experiment_by_name("my_images")
    (tracked,) = client().search_runs([experiment.experiment_id])
    told = tracked.data.params["stream.source.class_names"]
    names = str(list(NAMES))
    assert told == f"{names[:30]}... ({len(names)} characters)"
    assert tracked.data.params["classifier.steps"] == "10"
    kept = json.loads((outputs("06_models", RUN) / "configuration.json").read_text())
    assert kept["stream"]["source"]["class_names"] == list(NAMES)
