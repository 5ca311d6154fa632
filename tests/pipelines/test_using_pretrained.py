"""Runs on the features of models of timm and transformers: learnt, asked, published, moved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from kedro.runner import SequentialRunner
from tests.reference import tiny_pretrained
from tests.reference.runs import TINY, contents, outputs, refused, run

from gppdm_pipeline.algorithm.disk.states import StateError
from gppdm_pipeline.catalog.registry import ModelRegistry
from gppdm_pipeline.run.session import Session
from gppdm_pipeline.serving.trained import Learned

NAME = "digits/nearest_mean/seed_0"
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_a_run_on_the_features_of_a_folder(kind, tmp_path):
    pytest.importorskip(kind, exc_type=ImportError)
    folder = tmp_path / "model"
    if kind == "timm":
        tiny_pretrained.of_timm(folder)
    else:
        tiny_pretrained.of_transformers(folder, size={"height": 32, "width": 32})
    space = {"name": "features", "encoder": "model"}
    given = {**TINY, "method": "nearest_mean", "space": space}
    run(given)
    report = json.loads((outputs("08_reporting", NAME) / "metrics.json").read_text())
    assert report["space"]["encoder"] == str(folder)
    assert report["space"]["side"] is None
    state = outputs("06_models", NAME) / "task_02/state"
    learned = Learned.read(state)
    assert learned.space.sha256 == report["space"]["sha256"]
    logits = learned.predictor().logits(IMAGES)
    assert logits.shape == (5, 10)

    # It is known by its content, wherever it lies, and a published model has a copy.
    with Session.create(project_path=Path.cwd(), runtime_params=given) as session:
        session.run(pipeline_names=["publish"], runner=SequentialRunner())
    moved = folder.rename(tmp_path / "moved")
    registry = ModelRegistry(f"sqlite:///{Path.cwd()}/mlflow.db", "digits")
    place = registry.download("digits-nearest_mean", 1, tmp_path / "published")
    published = Learned.read(place / "artifacts/state").predictor()
    assert np.array_equal(published.logits(IMAGES), logits)
    assert f"\n{kind}==" in (place / "requirements.txt").read_text()
    before = contents(outputs("06_models", NAME))
    elsewhere = {**given, "space": {**space, "encoder": "moved"}}
    run(elsewhere, only_missing_outputs=True)
    after = contents(outputs("06_models", NAME))
    assert {k for k in before if before[k] != after[k]} <= {"configuration.json"}

    # Another one in its place is refused, and none.
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with refused("space.sha256: ", "there, ", "now"):
        run(elsewhere, only_missing_outputs=True)
    with pytest.raises(
        StateError, match=r"has learnt features: space\.encoder = .* no such folder"
    ):
        Learned.read(state)


@pytest.mark.usefixtures("project")
def test_what_is_no_folder_is_refused_before_anything_runs():
    with refused("space.name = features", "space.encoder = lite1: there is no such folder"):
        run({"space": {"name": "features", "encoder": "lite1"}})
