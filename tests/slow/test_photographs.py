"""A thousand photographs and one setting: their folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kedro.runner import SequentialRunner
from tests.reference import photographs, tiny_encoder
from tests.reference.runs import outputs

from gppdm_pipeline.run.session import Session

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("project")
def test_a_thousand_photographs_are_learnt_by_setting_one_path(tmp_path, monkeypatch):
    tiny_encoder.install(monkeypatch, tmp_path)
    folder = photographs.draw(tmp_path / "photographs", photographs.CLASSES, 100)
    given = {"benchmark": "my_images", "stream": {"source": {"folder": str(folder)}}}
    with Session.create(project_path=Path.cwd(), runtime_params=given) as session:
        session.run(pipeline_names=["continual"], runner=SequentialRunner())
    report = json.loads(
        (outputs("08_reporting", "my_images/gppdm/seed_0") / "metrics.json").read_text()
    )
    assert report["space"]["name"] == "features"
    assert [len(classes) for classes in report["classes_by_task"]] == [1] * 10
    assert len(report["accuracy_matrix"]) == 10
