"""A run whose classifier is a model of timm: learnt, gone on with, asked and published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kedro.runner import SequentialRunner
from tests.reference import tiny_pretrained
from tests.reference.runs import TINY, contents, outputs, refused, run

from gppdm_pipeline.catalog.registry import ModelRegistry
from gppdm_pipeline.run.session import Session
from gppdm_pipeline.serving.trained import Learned

NAME = "digits/finetune/seed_0"


@pytest.mark.usefixtures("project")
def test_a_run_with_a_classifier_of_a_folder(tmp_path):
    pytest.importorskip("timm", exc_type=ImportError)
    tiny_pretrained.of_timm(tmp_path / "model")
    given = {**TINY, "classifier": {"steps": 3, "network": "model"}}
    run(given)
    learned = Learned.read(outputs("06_models", NAME) / "task_02/state")
    assert learned.configuration["classifier"]["network"].startswith("sha256:")
    assert learned.learner.classifier.network.startswith("sha256:")
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    logits = learned.predictor().logits(images)
    with Session.create(project_path=Path.cwd(), runtime_params=given) as session:
        session.run(pipeline_names=["publish"], runner=SequentialRunner())
    (tmp_path / "model").rename(tmp_path / "moved")
    registry = ModelRegistry(f"sqlite:///{Path.cwd()}/mlflow.db", "digits")
    place = registry.download("digits-finetune", 1, tmp_path / "published")
    published = Learned.read(place / "artifacts/state").predictor()
    assert np.array_equal(published.logits(images), logits)
    assert "\ntimm==" in (place / "requirements.txt").read_text()
    # It is its content, wherever it lies.
    before = contents(outputs("06_models", NAME))
    elsewhere = {**given, "classifier": {"steps": 3, "network": "moved"}}
    run(elsewhere, only_missing_outputs=True)
    assert contents(outputs("06_models", NAME)) == before
    with refused("classifier.network: sha256:", "there, timm:test_resnet now"):
        run({**given, "classifier": {"steps": 3, "network": "timm:test_resnet"}})
    with refused("cannot learn these images", "timm:test_vit: it makes nothing of images of 8x8"):
        run({**given, "classifier": {"steps": 3, "network": "timm:test_vit"}, "variant": "vit"})


@pytest.mark.usefixtures("project")
def test_what_is_no_network_is_refused_before_anything_runs():
    with refused(
        "classifier.network = resnet18: there is no such folder. Allowed are small, timm:"
    ):
        run({"classifier": {"network": "resnet18"}})
