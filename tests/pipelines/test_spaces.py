"""Runs on the features of a frozen encoder: the tiny one, in the place of EfficientNet."""

import json

import numpy as np
import pytest
from tests.reference import tiny_encoder
from tests.reference.runs import TINY, contents, outputs, refused, run

from gppdm_pipeline.algorithm.disk.states import load_state, verify_state
from gppdm_pipeline.spaces import encoders

FEATURES = {"space": {"name": "features", "side": 32}}


@pytest.fixture
def _encoder(monkeypatch, tmp_path):
    tiny_encoder.install(monkeypatch, tmp_path)


def report(run_name):
    return json.loads((outputs("08_reporting", run_name) / "metrics.json").read_text())


@pytest.mark.usefixtures("project", "_encoder")
def test_a_run_on_features_from_end_to_end(monkeypatch, tmp_path):
    few = {"replay": {"images_per_class": 30}}
    params = {**FEATURES, "method": "gaussian_replay", "gaussian_replay": few}
    run(params)
    name = "digits/gaussian_replay/seed_0"
    found = report(name)
    space = {"name": "features", "encoder": "efficientnet_lite0", "side": 32}
    space["sha256"] = encoders.fingerprint()
    assert found["space"] == found["configuration"]["space"] == space
    state = outputs("06_models", name) / "task_02/state"
    assert verify_state(state)["configuration"]["space"] == space
    assert verify_state(state)["image_shape"] == [1, 1, 1280]
    with np.load(outputs("03_primary", name) / "task_01/train.npz") as archive:
        assert archive["images"].dtype == np.float16
        assert archive["images"].shape[1:] == (1, 1, 1280)
    # Replay of the first task's classes, and no picture of it.
    with np.load(outputs("05_model_input", name) / "task_02/replay.npz") as archive:
        assert archive["images"].shape == (5 * 30, 1, 1, 1280)
    pictures = {file.name for file in (outputs("08_reporting", name)).rglob("*.png")}
    assert "accuracy_matrix.png" in pictures
    assert not pictures & {"replay.png", "drift.png"}

    # Every image was encoded once: another method encodes none.
    monkeypatch.setattr(encoders.Encoder, "of", None)
    before = contents(outputs("03_primary", name))
    run({**FEATURES, "method": "ranpac", "ranpac": {"features": 20}})
    assert contents(outputs("03_primary", "digits/ranpac/seed_0")) == before

    # What was learnt with one encoder does not go on with another, nor in pixels.
    with refused("space.name: features there, unset now"):
        run({"method": "ranpac", "ranpac": {"features": 20}})
    tiny_encoder.install(monkeypatch, tmp_path, seed=1)
    with refused("space.sha256: ", "there, ", "now"):
        run({**params, "method": "gaussian_replay"}, only_missing_outputs=True)


@pytest.mark.usefixtures("project", "_encoder")
def test_a_generator_learns_features_from_end_to_end():
    denoiser = {**TINY["gppdm"]["denoiser"], "width": 8, "blocks": 1}
    gppdm = {**TINY["gppdm"], "denoiser": denoiser, "memory": "adapters"}
    run({**FEATURES, "method": "gppdm", "gppdm": gppdm})
    name = "digits/gppdm/seed_0"
    state = outputs("06_models", name) / "task_02/state"
    assert verify_state(state)["image_shape"] == [1, 1, 1280]
    scale = load_state(state).extras["scale"].tensors
    assert scale["matrix"].shape == (1280, 1280)
    with np.load(outputs("05_model_input", name) / "task_02/replay.npz") as archive:
        assert archive["images"].dtype == np.float16
        assert archive["images"].shape == (5 * 2, 1, 1, 1280)
    # A vector has no picture, and the page says so.
    shown = outputs("08_reporting", name)
    assert not {f"{name}.png" for name in UNSEEN} & {file.name for file in shown.rglob("*.png")}
    (page,) = shown.rglob("*.html")
    assert "a vector has no picture" in page.read_text()


UNSEEN = ("replay", "drift", "prototypes")


@pytest.mark.usefixtures("project", "_encoder")
def test_a_longer_stream_goes_on_from_features():
    stream = {**TINY["stream"], "classes_per_task": None, "tasks": ["0-1", "2-3"]}
    params = {**FEATURES, "method": "nearest_mean", "stream": {**stream, "unlisted": "leave_out"}}
    run(params)
    longer = {**stream, "unlisted": "leave_out", "tasks": ["0-1", "2-3", "4-5"]}
    name, first = "digits/nearest_mean/seed_0", "task_01/state/state.json"
    before = (outputs("06_models", name) / first).read_bytes()
    run({**params, "stream": longer})
    assert (outputs("06_models", name) / first).read_bytes() == before
    assert len(report(name)["accuracy_matrix"]) == 3


@pytest.mark.usefixtures("project", "_encoder")
@pytest.mark.parametrize(
    ("params", "said"),
    [
        (
            {"method": "gppdm", "gppdm": {"denoiser": {"patch": 2}}},
            "denoiser.patch is 2, which cuts images; what is learnt are vectors of 1280 numbers",
        ),
        ({"retention": "release"}, "retention = release, space.name = features"),
        ({"retention_of_test": "release"}, "Set retention=keep and retention_of_test=keep"),
        ({"space": {"name": "pixels", "side": 64}}, "space.side is for features"),
        ({"space": {**FEATURES["space"], "sha256": "0" * 64}}, "Install those that were used"),
        ({"space": {"name": "feature"}}, "did you mean features?"),
    ],
)
def test_what_a_space_does_not_have_is_refused(params, said):
    with refused(said):
        run({**FEATURES, **params})


@pytest.mark.usefixtures("project")
def test_without_the_packages_nothing_begins(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with refused("space.name = features", "pip install efficientnet-lite-pytorch"):
        run(FEATURES)
