"""Runs with a budget: what is chosen is told and kept, and later runs take it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from kedro.runner import SequentialRunner
from tests.reference.runs import TINY, outputs, refused, run

from gppdm_pipeline.grids import runs
from gppdm_pipeline.run import budget
from gppdm_pipeline.run.session import Session

pytestmark = pytest.mark.usefixtures("project")

FAMILY = Path("data/06_models/digits/finetune")


@pytest.fixture
def measured(monkeypatch):
    """A machine on which ten steps take 40 s, whatever the stream; how often it was asked."""
    asked = []

    def costs(learner, *_):
        training = 4.0 * learner.classifier.steps
        asked.append(learner)
        return {"seconds": {"total": training + 5.0}, "training_seconds": training}

    monkeypatch.setattr(budget, "estimate_costs", costs)
    return asked


def steps_of(seed):
    record = json.loads(
        outputs("06_models", f"digits/finetune/seed_{seed}/configuration.json").read_text()
    )
    return record["classifier"]["steps"]


def test_steps_are_chosen_once_for_all_seeds_and_longer_streams(measured, caplog):
    caplog.set_level(logging.INFO)
    run({"budget": "45s"})  # of which 25 are fixed
    assert steps_of(0) == 5
    assert "0.50 times the steps of the settings, which are now classifier.steps 5" in caplog.text
    (kept,) = json.loads((FAMILY / "budget.json").read_text())
    assert kept["own_steps"] == {"classifier.steps": 10}
    assert kept["fit"]["budget"] == "45s" and kept["fit"]["training_seconds"] == 40.0
    report = json.loads((outputs("08_reporting") / "metrics.json").read_text())
    assert report["configuration"]["classifier"]["steps"] == 5

    params = "benchmark=digits,device=cpu,method=finetune,classifier.width=8"
    params += ",stream.source.train_per_class=10,stream.source.test_per_class=5"
    whole = "stream.classes_per_task=5"
    (again,) = runs.experiments_of([f"{params},{whole},classifier.steps=10,budget=45s"])
    assert runs.is_finished(again)
    (plain,) = runs.experiments_of([f"{params},{whole},classifier.steps=5"])
    assert again.fingerprint() == plain.fingerprint()

    with Session.create(
        project_path=Path.cwd(), runtime_params={**TINY, "budget": "45s", "seed": 1}
    ) as session:
        session.run(pipeline_names=["continual"], runner=SequentialRunner(), tags=["settings"])
    assert len(measured) == 1
    learner = json.loads(outputs("06_models", "digits/finetune/seed_1/learner.json").read_text())
    assert learner["classifier"]["steps"] == 5


def test_other_budgets_and_settings_are_measured_anew(measured):
    run({"budget": "45s"})
    with refused("classifier.steps: 5 there, 9 now"):
        run({"budget": "60s"})
    with refused("classifier.steps: 5 there, 10 now"):
        run()
    run({"budget": "60s", "overwrite": True})
    assert steps_of(0) == 9
    assert len(measured) == 2


def test_a_longer_stream_goes_on_with_the_steps_of_the_shorter(measured):
    names = [["0", "1"], ["2", "3"]]
    stream = {"source": TINY["stream"]["source"], "unlisted": "leave_out"}
    run({"budget": "45s", "stream": {**stream, "tasks": names[:1]}})
    run({"budget": "45s", "stream": {**stream, "tasks": names}})
    assert steps_of(0) == 5
    assert len(measured) == 1


def test_a_budget_that_is_too_small_leaves_nothing(measured):
    with refused("budget = 30s: too short", "Give budget=34s at least"):
        run({"budget": "30s"})
    assert not outputs("06_models").exists()
    (FAMILY / "budget.json").write_text("no JSON")
    with refused("budget.json is damaged", "Remove it"):
        run({"budget": "45s"})


def test_inspect_tells_it_and_keeps_nothing(measured, capsys):
    given = {**TINY, "budget": "45s"}
    with Session.create(project_path=Path.cwd(), runtime_params=given) as session:
        session.run(pipeline_names=["inspect"], runner=SequentialRunner())
    assert "- budget 45s: trainings have 0.50 times" in capsys.readouterr().out
    page = json.loads(Path("data/08_reporting/digits/inspect/inspection.json").read_text())
    assert page["budget"]["steps"] == {"classifier.steps": 5}
    assert not FAMILY.exists()
