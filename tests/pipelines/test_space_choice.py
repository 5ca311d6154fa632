"""`space.name=auto`: images choose, where the encoder is installed; a run stays as it began."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from kedro.runner import SequentialRunner
from PIL import Image
from tests.reference import photographs as drawn
from tests.reference import tiny_encoder
from tests.reference.runs import TINY, outputs, refused, run

from gppdm_pipeline.configuration.params import written
from gppdm_pipeline.grids import runs
from gppdm_pipeline.run.session import Session

pytestmark = pytest.mark.usefixtures("project")

RUN = "my_images/finetune/seed_0"
PACKAGE = "efficientnet_lite_pytorch"


def add_class(folder, name, side=40, count=8):
    """Noise around a colour."""
    (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(list(name.encode()))
    colour = rng.integers(40, 216, 3)
    for number in range(count):
        pixels = (colour + rng.integers(-40, 40, (side, side, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    for name in ("ant", "bee"):
        add_class(folder, name)
    return folder


@pytest.fixture
def without_packages(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, PACKAGE, None)


def asked(folder, **more):
    source = {"folder": str(folder)}
    return {"benchmark": "my_images", "stream": {"source": source, "classes_per_task": 1}, **more}


def learnt(name=RUN):
    """What the report says of the space, and the pixels of a side."""
    report = json.loads((outputs("08_reporting", name) / "metrics.json").read_text())
    configuration = report["configuration"]
    assert '"auto"' not in json.dumps(configuration["stream"]["source"])
    assert configuration.get("space") == report.get("space")
    return report.get("space", {}).get("name"), configuration["stream"]["source"]["resize"]


def experiment_of(params):
    """As a sweep sees it."""
    (experiment,) = runs.experiments_of([written({**TINY, **params})])
    return experiment


def test_larger_images_are_learnt_in_features_and_stay_so(
    photographs, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    tiny_encoder.install(monkeypatch, tmp_path)
    run(asked(photographs))
    assert learnt() == ("features", 40)
    assert caplog.text.count("features of efficientnet_lite0 are learnt, since images have") == 1
    state = outputs("06_models", RUN) / "task_01/state/state.json"
    assert json.loads(state.read_text())["configuration"]["space"]["name"] == "features"
    assert runs.is_finished(experiment_of(asked(photographs)))
    before = state.read_bytes()

    add_class(photographs, "cow")
    with monkeypatch.context() as elsewhere:
        elsewhere.setitem(__import__("sys").modules, PACKAGE, None)
        with refused("this run has begun in features", "pip install efficientnet-lite-pytorch"):
            run(asked(photographs))
        # All of it anew is as this machine can.
        assert experiment_of(asked(photographs, overwrite=True)).space.name == "pixels"
    run(asked(photographs))
    assert state.read_bytes() == before
    assert (
        len(
            json.loads((outputs("08_reporting", RUN) / "metrics.json").read_text())[
                "classes_by_task"
            ]
        )
        == 3
    )


@pytest.mark.usefixtures("without_packages")
def test_without_the_packages_pixels_are_learnt_and_stay_so(
    photographs, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    run(asked(photographs))
    assert learnt() == (None, 32)
    said = [line for line in caplog.messages if "space.name" in line]
    assert len(said) == 1
    assert "pip install efficientnet-lite-pytorch==0.1.0" in said[0]
    assert "learnt in features" in said[0]
    state = outputs("06_models", RUN) / "task_01/state/state.json"
    before = state.read_bytes()

    tiny_encoder.install(monkeypatch, tmp_path)
    assert runs.is_finished(experiment_of(asked(photographs)))
    assert experiment_of(asked(photographs, variant="other")).space.name == "features"
    add_class(photographs, "cow")
    run(asked(photographs))
    assert learnt() == (None, 32)
    assert state.read_bytes() == before
    assert "this run has begun in pixels, and goes on so" in caplog.text


def test_photographs_are_learnt_by_gppdm_with_its_own_networks(tmp_path, monkeypatch):
    tiny_encoder.install(monkeypatch, tmp_path)
    folder = drawn.draw(tmp_path / "drawn", drawn.CLASSES[:2], 6)
    few = {"denoiser": {"steps": 2}, "replay": {"images_per_class": 2}}
    run(asked(folder, method="gppdm", gppdm=few, classifier={"steps": 2}))
    name = "my_images/gppdm/seed_0"
    assert learnt(name) == ("features", 128)
    learner = json.loads((outputs("06_models", name) / "learner.json").read_text())
    own = (learner["memory"], learner["texture"], learner["denoiser"]["patch"])
    assert own == ("adapters", False, 1)
    with np.load(outputs("05_model_input", name) / "task_02/replay.npz") as archive:
        assert archive["images"].shape == (2, 1, 1, 1280)


def test_inspect_and_a_budget_say_what_features_take(photographs, tmp_path, monkeypatch, capsys):
    tiny_encoder.install(monkeypatch, tmp_path)
    given = {**TINY, **asked(photographs, method="gppdm", budget="60m")}
    with Session.create(project_path=Path.cwd(), runtime_params=given) as session:
        session.run(pipeline_names=["inspect"], runner=SequentialRunner())
    told = capsys.readouterr().out
    assert "images of 40 x 40 (colour), learnt in features, seed 0." in told
    assert "space.name = auto: features" in told
    assert "encode " in told
    assert "trainings have" in told
    folder = Path("data/08_reporting/my_images/inspect")
    record = json.loads((folder / "inspection.json").read_text())
    assert record["space"]["name"] == "features"
    # Eighteen images of a task are vectors of 1,280 numbers of two bytes, with their labels.
    assert record["estimate"]["bytes"]["task images"] == 2 * 8 * (2 * 1280 + 8)


@pytest.mark.parametrize(
    ("more", "side", "expected"),
    [
        ({}, 33, ("features", 36)),
        ({}, 200, ("features", 128)),
        ({"space": {"name": "auto", "side": 64}}, 200, ("features", 64)),
        ({}, 32, ("pixels", 32)),
        ({"stream": {"source": {"resize": 64}}}, 200, ("features", 64)),
        ({"stream": {"source": {"resize": [32, 24]}}}, 200, ("pixels", (32, 24))),
        ({"space": {"name": "pixels"}}, 200, ("pixels", 32)),
        ({"space": {"name": "features"}}, 20, ("features", 20)),
        ({"retention": "release"}, 200, ("pixels", 32)),
        ({"evaluation": {"privacy": True}}, 200, ("pixels", 32)),
    ],
)
def test_what_is_chosen_of_which_images(tmp_path, monkeypatch, more, side, expected):
    tiny_encoder.install(monkeypatch, tmp_path)
    add_class(tmp_path / "images", "a", side, 2)
    given = asked(tmp_path / "images", **{k: v for k, v in more.items() if k != "stream"})
    given["stream"]["source"] |= more.get("stream", {}).get("source", {})
    given["stream"]["source"] |= {"train_per_class": 1}
    chosen = experiment_of(given)
    assert (chosen.space.name, chosen.stream.source.resize) == expected
    assert chosen.space.name != "features" or chosen.learner.classifier.steps == 10


def test_other_readers_are_learnt_in_pixels(tmp_path, monkeypatch):
    tiny_encoder.install(monkeypatch, tmp_path)
    given = asked(tmp_path, method="finetune")
    given["stream"]["source"] = {"reader": "sklearn_digits"}
    chosen = experiment_of(given)
    assert chosen.space.name == "pixels"
    assert "no setting says how large images are" in chosen.space_choice
