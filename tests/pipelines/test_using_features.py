"""Predict, publish and serve what was learnt of an encoder: the tiny one, for EfficientNet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from kedro.runner import SequentialRunner
from starlette.testclient import TestClient
from tests.reference import tiny_encoder
from tests.reference.runs import TINY, outputs, refused, run

from gppdm_pipeline import serve
from gppdm_pipeline.algorithm.disk.states import StateError, load_state, save_state, verify_state
from gppdm_pipeline.catalog.registry import ModelRegistry
from gppdm_pipeline.estimator import ContinualClassifier
from gppdm_pipeline.images.files import read_images
from gppdm_pipeline.run.session import Session
from gppdm_pipeline.serving import onnx_file
from gppdm_pipeline.serving.trained import Learned
from gppdm_pipeline.spaces import encoders
from gppdm_pipeline.streams.scenario import StreamConfig, read_tasks

SPACE = {"space": {"name": "features", "side": 32}}
RUN = {**TINY, **SPACE, "method": "ranpac", "ranpac": {"features": 20, "strength": 1.0}}
NAME = "digits/ranpac/seed_0"
URI = "sqlite:///mlflow.db"


def use(pipeline, **params):
    with Session.create(
        project_path=Path.cwd(), runtime_params={**RUN, pipeline: params}
    ) as session:
        session.run(pipeline_names=[pipeline], runner=SequentialRunner())


def of_the_run(state):
    """Its test images with their labels, and the vectors that the run made of them."""
    stream = StreamConfig.model_validate(verify_state(state)["configuration"]["stream"])
    parts = [split.test for split in read_tasks(stream, 0)]
    images, labels = (np.concatenate([getattr(p, k) for p in parts]) for k in ("images", "labels"))
    vectors = []
    for number in (1, 2):
        with (outputs("03_primary", NAME) / f"task_0{number}/test.npz").open("rb") as file:
            vectors.append(read_images(file).images)
    return images, labels, np.concatenate(vectors)


@pytest.mark.usefixtures("project")
def test_images_are_classified_as_the_run_classified_them(monkeypatch, tmp_path):
    tiny_encoder.install(monkeypatch, tmp_path)
    run(RUN)
    state = outputs("06_models", NAME) / "task_02/state"
    images, labels, vectors = of_the_run(state)
    learned = Learned.read(state)
    predictor = learned.predictor()
    assert predictor.image_shape == learned.image_shape == images.shape[1:] == (8, 8, 1)
    # What the run kept is rounded to float16.
    logits = predictor.logits(images)
    np.testing.assert_allclose(logits, predictor.logits(vectors), atol=1e-3)
    assert np.array_equal(logits[:1], predictor.logits(images[:1]))

    np.savez(tmp_path / "images.npz", images=images)
    use("predict", images=str(tmp_path / "images.npz"))
    table = pd.read_csv(outputs("07_model_output", NAME) / "predictions.csv", dtype={"label": str})
    names = list(predictor.names)
    confusion = np.zeros((10, 10), np.int64)
    order = [learned.class_names[k] for k in labels]
    for true, said in zip(order, table["label"], strict=True):
        confusion[names.index(true), names.index(said)] += 1
    evaluation = outputs("08_reporting", NAME) / "task_02/evaluation.json"
    assert confusion.tolist() == json.loads(evaluation.read_text())["confusion"]
    assert len({*table["label"]}) > 2
    assert table["probability"].max() < 1

    use("publish")
    registry = ModelRegistry(URI, "digits")
    served, version = serve.load(registry, "digits-ranpac", "champion", "cpu")
    with TestClient(serve.application(served, {"version": version})) as client:
        one = client.post("/invocations", json={"inputs": images[:1].tolist()}).json()
    (row,) = one["predictions"]
    assert (row["label"], row["probability"], row["known"]) == tuple(
        table.loc[0, ["label", "probability", "known"]]
    )
    mlflow.set_tracking_uri(URI)
    model = mlflow.pyfunc.load_model("models:/digits-ranpac/1")
    assert model.predict(images)["probability"].tolist() == table["probability"].tolist()
    source = registry.download("digits-ranpac", 1, tmp_path / "model")
    assert {*encoders.REQUIREMENTS} <= {*(source / "requirements.txt").read_text().split()}

    refuses_the_rest(state, monkeypatch, tmp_path)


def refuses_the_rest(state, monkeypatch, tmp_path):
    with refused("has learnt features, of which there is no picture to draw"):
        use("draw")
    monkeypatch.setattr(onnx_file, "PACKAGES", ("no_such_package",))
    with refused("publish.folder = folder", "no generator that diffusers", "no_such_package"):
        use("publish", folder="folder")
    with pytest.raises(StateError, match="the estimator learns pixels"):
        ContinualClassifier.load(state)
    before = replace(load_state(state), picture_shape=None)
    save_state(before, tmp_path / "state", verify_state(state)["configuration"])
    with pytest.raises(StateError, match="does not say of what size its images were"):
        Learned.read(tmp_path / "state")
    tiny_encoder.install(monkeypatch, tmp_path, seed=1)
    with refused("task_02/state has learnt features: ", "Install those that were used"):
        use("predict", images=str(tmp_path / "images.npz"))
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(StateError, match=r"has learnt features: .*pip install efficientnet"):
        Learned.read(state)
