"""What answers, and what it is calibrated with."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.reference.tiny import CLASSIFIER, SHAPE, gppdm, images_of, learn

from gppdm_pipeline.algorithm.classifier.network import predict_logits
from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.disk.states import StateError, save_state
from gppdm_pipeline.algorithm.state import Weights
from gppdm_pipeline.images.files import write_images
from gppdm_pipeline.methods import Method
from gppdm_pipeline.serving import classify
from gppdm_pipeline.serving.classify import classified
from gppdm_pipeline.serving.predictor import Calibration, Predictor
from gppdm_pipeline.serving.trained import Learned, TrainedRun, UntrainedError
from gppdm_pipeline.streams.conversion import Conversion, UndecodableError

NAMES = ("cat", "dog", "fox")
RECORD = {
    "method": "finetune",
    "classifier": CLASSIFIER,
    "finetune": {},
    "seed": 0,
    "classes": list(NAMES),
    "stream": {"source": {"reader": "sklearn_digits", "fit": "pad"}},
}


@pytest.fixture(scope="module")
def states():
    settings = {"classifier": {**CLASSIFIER, "steps": 40, "learning_rate": 0.01}}
    return learn(Method.model_validate({"name": "finetune", **settings}), [(2, 0), (1,)])


@pytest.fixture
def predictor(states):
    return Predictor(states[1], NAMES, Conversion())


def png(pixels):
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("method", "keeps"),
    [
        ({"name": "finetune", "classifier": CLASSIFIER}, ""),
        ({"name": "slda"}, "sums over training images"),
        (gppdm(replay={"gaussians": 0.2}).model_dump(), "sums over training images"),
        ({"name": "exemplar", "classifier": CLASSIFIER, "images": 2}, "training images"),
    ],
)
def test_a_state_says_what_it_keeps_of_images_and_what_packages_it_needs(
    method, keeps, monkeypatch
):
    state = learn(Method.model_validate(method), [(0, 1)])[-1]
    settings = {"classifier": {"network": "timm:resnet18"}}  # which slda does not use
    learned = Learned(Path("state"), {"configuration": settings}, state)
    assert learned.keeps == keeps
    assert learned.requirements == []
    monkeypatch.setattr("gppdm_pipeline.serving.trained.requirements_of", lambda kind: [kind])
    of_timm = replace(state, classifier=Weights({"network": {}}, {}))
    assert replace(learned, state=of_timm).requirements == ["timm"]


def test_logits_are_those_of_the_learner_and_of_no_batch(states, predictor):
    images = images_of(0, 2, per_class=9).images
    logits = predictor.logits(images)
    assert np.array_equal(logits, predict_logits(states[1], images, Context(0, 1)))
    assert np.array_equal(
        logits, np.concatenate([predictor.logits(images[i : i + 1]) for i in range(18)])
    )
    assert predictor.logits(images[:0]).shape == (0, 2)


def test_the_columns_of_the_answers(predictor):
    images = images_of(0, 2).images
    answers = predictor.answers(images)
    columns = answers.columns()
    assert predictor.names == ("cat", "fox")
    assert columns["label"] == [predictor.names[j] for j in predictor.logits(images).argmax(1)]
    assert np.allclose(np.add(columns["probability"], columns["probability_2"]), 1)
    assert min(columns["probability"]) >= 0.5 >= max(columns["probability_2"])
    assert columns["label_3"] == columns["probability_5"] == [None] * 12
    assert columns["known"] == [True] * 12


def test_temperature_and_threshold(states):
    images = images_of(0, 2).images
    sure = Predictor(states[1], NAMES, Conversion(), Calibration(0.1, threshold=1e9)).answers(
        images
    )
    plain = Predictor(states[1], NAMES, Conversion()).answers(images)
    assert (sure.probabilities.max(1) > plain.probabilities.max(1)).all()
    assert np.array_equal(sure.order, plain.order)
    assert not sure.known.any()


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (16, 16, 3), (8, 8, 3)])
def test_other_sizes_and_colours_are_brought_to_the_streams(predictor, shape):
    grey = np.full(shape, 77, np.uint8)
    for image in (grey, png(grey[..., 0] if shape[-1] == 1 else grey)):
        pixels = predictor.pixels(image)
        assert pixels.shape == SHAPE and (pixels == 77).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"none", "no image"),
        (np.zeros((8, 8), np.float32), r"float32 \[8, 8\], not uint8"),
        (np.zeros((8, 8, 4), np.uint8), r"uint8 \[8, 8, 4\], not uint8"),
        (np.zeros((0, 8), np.uint8), "no pixel"),
    ],
)
def test_what_is_no_image_is_told(predictor, image, message):
    with pytest.raises(UndecodableError, match=message):
        predictor.pixels(image)


def test_none_is_lost_and_damaged_ones_are_told(predictor, monkeypatch, tmp_path):
    monkeypatch.setattr(classify, "BATCH", 4)
    data = images_of(0, 2, per_class=5)
    items = [(str(i), pixels) for i, pixels in enumerate(data.images)]
    items[3] = ("3", b"none")
    items[8:] = [("8", png(data.images[8, ..., 0])), ("9", tmp_path / "nowhere.png")]
    parts = list(classified(predictor, items))
    assert [len(part["file"]) for part in parts] == [4, 4, 2]
    rows = {key: [value for part in parts for value in part[key]] for key in parts[0]}
    assert rows["file"] == [*"0123456789"]
    assert [rows["problem"][i] is None for i in range(10)] == [i not in (3, 9) for i in range(10)]
    assert rows["label"][3] is rows["known"][9] is None
    assert "No such file" in rows["problem"][9]
    whole = [i for i in range(10) if i not in (3, 9)]
    expected = predictor.answers(data.images[whole]).columns()
    assert [rows["probability"][i] for i in whole] == expected["probability"]


@pytest.fixture
def trained(states, tmp_path):
    for number, state in enumerate(states[1:], start=1):
        save_state(state, tmp_path / f"models/task_0{number}/state", RECORD)
    return TrainedRun("a run", *(tmp_path / name for name in ("models", "images", "replay")))


def keep(images, folder, task, name):
    place = folder / f"task_0{task}"
    place.mkdir(parents=True, exist_ok=True)
    with (place / f"{name}.npz").open("wb") as file:
        write_images(images, file)


def test_the_newest_state_answers(trained, states):
    assert trained.newest.parent.name == "task_02"
    predictor = trained.learned.predictor()
    images = images_of(1).images
    assert np.array_equal(
        predictor.logits(images), predict_logits(states[2], images, Context(0, 1))
    )
    assert predictor.names == ("cat", "fox", "dog")
    tall = np.full((16, 8), 255, np.uint8)  # padded, as its stream says
    assert predictor.pixels(tall)[:, 0].max() == 0


def test_a_newest_state_that_may_not_be_read_is_told_and_no_older_one_answers(trained, monkeypatch):
    exists = Path.exists

    def refusing(path):
        if "task_02" in path.parts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", refusing)
    with pytest.raises(PermissionError, match="task_02"):
        trained.newest  # noqa: B018


def test_it_is_calibrated_on_validation_images(trained):
    keep(images_of(0, 2, per_class=20), trained.images, 1, "validation")
    keep(images_of(1, per_class=20), trained.images, 2, "validation")
    found = trained.calibrate(Context(0, 1).device)
    assert (found["fitted_on"], found["images"]) == ("validation", 30)
    assert found["unseen_classes"] == ["dog"]
    assert 0 <= found["unseen_auroc"] <= 1
    assert found["known"] > 0.8
    assert 0 <= found["calibration_error_after"] <= 1
    assert Calibration.of(found) == Calibration(found["temperature"], found["threshold"])


def test_it_is_calibrated_on_replay_or_on_nothing(trained):
    found = trained.calibrate(Context(0, 1).device)
    assert (found["temperature"], found["threshold"], found["fitted_on"]) == (1, None, "nothing")
    keep(images_of(0, 2), trained.replay, 2, "replay")
    found = trained.calibrate(Context(0, 1).device)
    assert (found["fitted_on"], found["unseen_auroc"]) == ("replay", None)
    (trained.replay / "task_02/replay.npz").write_bytes(b"none")
    with pytest.raises(StateError, match=r"replay\.npz is damaged"):
        trained.calibrate(Context(0, 1).device)


def test_without_a_state_nothing_is_used(tmp_path, states):
    trained = TrainedRun("a run", tmp_path, tmp_path, tmp_path)
    with pytest.raises(UntrainedError, match="has no state: nothing has been learnt"):
        trained.learned  # noqa: B018
    save_state(states[1], tmp_path / "task_01/state")
    with pytest.raises(StateError, match="does not say what it was made with"):
        trained.learned  # noqa: B018
