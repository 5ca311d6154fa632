"""Runs in the latents of an autoencoder: a tiny one of noise, in a folder of diffusers'."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from kedro.runner import SequentialRunner
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.reference import tiny_autoencoder
from tests.reference.runs import TINY, contents, outputs, refused, run

from gppdm_pipeline.algorithm.classifier.network import predict_logits
from gppdm_pipeline.algorithm.context import CPU, Context
from gppdm_pipeline.algorithm.disk.states import StateError, load_state, verify_state
from gppdm_pipeline.catalog.registry import ModelRegistry
from gppdm_pipeline.images.files import read_images
from gppdm_pipeline.run.session import Session
from gppdm_pipeline.serving.trained import Learned
from gppdm_pipeline.spaces import autoencoders

NAME = "digits/gppdm/seed_0"
OWN = {"name": "latents", "autoencoder": "own", "own": {"halvings": 1, "width": 8, "steps": 12}}


@pytest.fixture
def space(tmp_path):
    """Of digits, 8x8x1: maps of 4x4x4."""
    folder = tmp_path / "autoencoder"
    widths = {"block_out_channels": [8, 8], "down_block_types": ["DownEncoderBlock2D"] * 2}
    widths["up_block_types"] = ["UpDecoderBlock2D"] * 2
    tiny_autoencoder.made(folder, colours=1, **widths)
    return {"space": {"name": "latents", "autoencoder": str(folder)}}


def use(given, pipeline, **params):
    values = {**given, pipeline: params}
    with Session.create(project_path=Path.cwd(), runtime_params=values) as session:
        session.run(pipeline_names=[pipeline], runner=SequentialRunner())


@pytest.mark.usefixtures("project")
@pytest.mark.pictures
def test_a_run_in_latents_is_learnt_shown_and_used(space, tmp_path, monkeypatch):
    given = {**TINY, **space, "method": "gppdm"}
    given["gppdm"] = {**TINY["gppdm"], "memory": "adapters"}
    run(given)
    report = json.loads((outputs("08_reporting", NAME) / "metrics.json").read_text())
    sha256 = autoencoders.described(space["space"]["autoencoder"], None, False).fingerprint()
    assert report["space"]["sha256"] == sha256
    state = outputs("06_models", NAME) / "task_02/state"
    manifest = verify_state(state)
    assert manifest["configuration"]["space"]["sha256"] == sha256
    assert manifest["image_shape"] == [4, 4, 4]
    assert load_state(state).extras["scale"].tensors["matrix"].shape == (4, 4)
    with np.load(outputs("05_model_input", NAME) / "task_02/replay.npz") as archive:
        assert archive["images"].dtype == np.float16
        assert archive["images"].shape == (5 * 2, 4, 4, 4)
        assert np.isfinite(archive["images"]).all()

    # What is learnt is decoded to be seen and to be measured, and so is the reference.
    names = {file.name for file in outputs("08_reporting", NAME).rglob("*.png")}
    assert {"replay.png", "drift.png", "prototypes.png", "replay_quality.png"} <= names
    assert len(report["reconstruction"]) == 2
    assert all(0 < each < 30 for each in report["reconstruction"])
    distances = [
        {c["frechet_distance"]["oracle"] for c in classes.values()}
        for classes in (report["replay_quality"]["reference"],
                        report["replay_quality"]["after_task"][1])
    ]  # fmt: skip
    assert all(None not in each and min(each) > 0 for each in distances)

    is_drawn(given)
    is_used(given, state, tmp_path)
    # What was learnt with one autoencoder does not go on with another, and is found elsewhere.
    moved = Path(space["space"]["autoencoder"]).rename(tmp_path / "moved")
    elsewhere = {**given, "space": {"name": "latents", "autoencoder": str(moved)}}
    before = contents(outputs("06_models", NAME))
    run(elsewhere, only_missing_outputs=True)
    after = contents(outputs("06_models", NAME))
    assert {k for k in before if before[k] != after[k]} <= {"configuration.json"}
    file = moved / autoencoders.WEIGHTS
    file.write_bytes(file.read_bytes() + b" ")
    with refused("space.sha256: ", "there, ", "now"):
        run(elsewhere, only_missing_outputs=True)
    with refused("space.name: latents there, unset now"):
        run({**given, "space": {"name": "pixels"}})


def is_drawn(given):
    use(given, "draw", classes="3-7", images=2)
    drawn = outputs("07_model_output", NAME) / "drawn"
    files = sorted(drawn.glob("*.png"))
    assert len(files) == 4
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    assert pixels.shape == (4, 8, 8)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 0
    use(given, "draw", classes="3", towards="7", images=2)
    use(given, "draw", classes="3", like=str(files[0]), images=2)
    assert len([*drawn.glob("*.png")]) == 2


def is_used(given, state, tmp_path):
    learned = Learned.read(state)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    predictor = learned.predictor()
    assert predictor.image_shape == (8, 8, 1)
    logits = predictor.logits(images)
    codes = learned.space.coder(predictor.network.head.weight.device).codes(images)
    np.testing.assert_allclose(logits, predictor.logits(codes), atol=5e-3)  # kept in float16
    np.savez(tmp_path / "images.npz", images=images)
    use(given, "predict", images=str(tmp_path / "images.npz"))
    table = pd.read_csv(outputs("07_model_output", NAME) / "predictions.csv")
    assert table["label"].tolist() == [int(predictor.names[k]) for k in logits.argmax(1)]
    use(given, "publish")
    # A published model has the autoencoder with it.
    Path(given["space"]["autoencoder"]).rename(tmp_path / "away")
    uri = f"sqlite:///{Path.cwd()}/mlflow.db"
    registry = ModelRegistry(uri, "digits")
    place = registry.download("digits-gppdm", 1, tmp_path / "model")
    assert np.array_equal(
        Learned.read(place / "artifacts/state").predictor().logits(images), logits
    )
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model("models:/digits-gppdm/1")
    assert model.predict(images)["label"].tolist() == [predictor.names[k] for k in logits.argmax(1)]
    (tmp_path / "away").rename(given["space"]["autoencoder"])


@pytest.mark.usefixtures("project")
def test_a_classifier_of_decoded_images_is_learnt_and_used(space):
    given = {**TINY, **space, "classifier": {**TINY["classifier"], "sees": "images"}}
    run({**given, "method": "exemplar", "exemplar": {"images": 20}})
    name = "digits/exemplar/seed_0"
    learned = Learned.read(outputs("06_models", name) / "task_02/state")
    assert learned.state.classifier.config["image_shape"] == [8, 8, 1]
    assert learned.state.image_shape == (4, 4, 4)
    predictor = learned.predictor()
    with (outputs("03_primary", name) / "task_01/test.npz").open("rb") as file:
        test = read_images(file)
    context = Context(0, 2, decode=learned.space.decoding((8, 8, 1), CPU))
    expected = predict_logits(learned.state, test.images, context)
    np.testing.assert_allclose(predictor.logits(test.images), expected, atol=1e-5)


@pytest.mark.usefixtures("project")
def test_a_later_task_that_is_kept_worse_is_told(space, monkeypatch):
    monkeypatch.setattr("gppdm_pipeline.evaluation.reconstruction.DRIFT", -50.0)
    run({**space, "method": "vae_replay"})
    name = "digits/vae_replay/seed_0"
    (page,) = outputs("08_reporting", name).rglob("*.html")
    assert "The autoencoder keeps less of the images of task 2" in page.read_text()
    with np.load(outputs("05_model_input", name) / "task_02/replay.npz") as archive:
        assert archive["images"].shape[1:] == (4, 4, 4)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"space": {"name": "latents"}}, "latents are of an autoencoder: set"),
        ({"space": {"name": "latents", "autoencoder": "no/such"}}, "there is no such folder"),
        ({"retention": "release"}, "retention = release, space.name = latents"),
        ({"space": {**OWN, "images": "no/such"}}, "space.images = no/such: no such file or folder"),
        (
            {"classifier": {"sees": "images"}, "space": {"name": "pixels"}},
            "classifier.sees = images, space.name = pixels",
        ),
        (
            {"classifier": {"sees": "images"}, "method": "ddgr"},
            "the classifier of ddgr with these settings sees what its generator draws",
        ),
    ],
)
def test_what_cannot_be_had_is_refused(space, params, said):
    with refused(said):
        run({**space, **params})


@pytest.mark.usefixtures("project")
def test_an_autoencoder_of_ones_own_is_trained_used_and_asked_for(tmp_path):
    given = {**TINY, "space": OWN, "method": "gaussian_replay"}
    run(given)
    name = "digits/gaussian_replay/seed_0"
    folder = outputs("06_models", name) / "autoencoder"
    sha256 = autoencoders.described(str(folder), None, False).fingerprint()
    report = json.loads((outputs("08_reporting", name) / "metrics.json").read_text())
    assert report["space"]["sha256"] == sha256
    assert len(report["reconstruction"]) == 2
    assert report["seconds"]["task_01"]["train_autoencoder"] > 0
    log = outputs("08_reporting", name) / "task_01/train_autoencoder.json"
    assert json.loads(log.read_text())["curves"]["reconstruction_loss"]
    state = outputs("06_models", name) / "task_02/state"
    assert verify_state(state)["encoder"] == sha256
    learned = Learned.read(state)
    assert learned.state.image_shape == (4, 4, 8)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    assert learned.predictor().logits(images).shape == (3, 10)

    # A command that was given before makes nothing anew.
    before = contents(outputs("06_models", name))
    run(given, only_missing_outputs=True)
    assert contents(outputs("06_models", name)) == before
    # It can learn from other images than the first task's.
    np.savez(tmp_path / "others.npz", images=np.repeat(images, 9, 0))
    others = {**OWN, "images": str(tmp_path / "others.npz")}
    run({**given, "space": others, "variant": "others"})
    other = contents(outputs("06_models", "digits/gaussian_replay-others/seed_0"))
    assert (
        other[f"autoencoder/{autoencoders.WEIGHTS}"]
        != before[f"autoencoder/{autoencoders.WEIGHTS}"]
    )
    # Another autoencoder in its place is refused, and so is none.
    weights = folder / autoencoders.WEIGHTS
    save_file({name: 2 * tensor for name, tensor in load_file(weights).items()}, weights)
    with refused("There are outputs", "made of other images"):
        run(given)
    with pytest.raises(StateError, match="Install those that were used"):
        Learned.read(state)
    folder.rename(tmp_path / "away")
    with pytest.raises(StateError, match="autoencoder is missing"):
        Learned.read(state)
