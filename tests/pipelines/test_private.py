"""A whole run of a private generator tells its epsilon, and is refused before it has begun."""

import json

import pytest
from kedro.runner import SequentialRunner
from tests.reference.runs import TINY, refused, run

from gppdm_pipeline.run.session import Session

pytestmark = pytest.mark.usefixtures("project")

GPPDM = {
    "memory": "adapters",
    "analytic": {"filters": 0},
    "adapters": {"batch_size": 4},
    "redraw": 0,
    "denoiser": {"steps": 4, "channels": [8, 16], "batch_size": 8},
    "replay": {"images_per_class": 2, "sampler_steps": 2},
    "prototypes": {"start": "noise"},
    "private": {"noise_multiplier": 1.5, "delta": 1e-4},
}


STREAM = {
    "source": {"train_per_class": 10, "test_per_class": 5},
    "tasks": [["3", "1"], ["0"]],
    "unlisted": "leave_out",
    "classes_per_task": None,
}


def given(**gppdm):
    """All settings, with changed ones of the method."""
    return {
        **TINY,
        "method": "gppdm",
        "gppdm": {**GPPDM, **gppdm},
        "stream": STREAM,
        "evaluation": {"replay": False},
    }


def test_epsilon_is_in_the_metrics_and_in_the_audit(project):
    pytest.importorskip("opacus")
    run(given())
    folder = project / "data/08_reporting/digits/gppdm/seed_0"
    told = json.loads((folder / "metrics.json").read_text())["private"]
    assert set(told) == {"task_01", "task_02"}
    with Session.create(project_path=project, runtime_params=given()) as session:
        session.run(pipeline_names=["audit"], runner=SequentialRunner())
    private = json.loads((folder / "audit.json").read_text())["state"]["private"]
    assert [each["epsilon"] for each in private["tasks"]] == [
        told[task]["epsilon"] for task in ("task_01", "task_02")
    ]
    assert private["epsilon"] == max(each["epsilon"] for each in told.values())
    assert private["delta"] == 1e-4
    assert "Differential privacy of the generator" in (folder / "audit.html").read_text()


@pytest.mark.parametrize(
    ("gppdm", "told"),
    [
        ({"prototypes": {}}, "prototypes.start"),
        ({"memory": "shared"}, "memory"),
        ({"analytic": {"filters": 2}}, "analytic.filters"),
    ],
)
def test_settings_that_would_leak_are_refused_before_it_begins(project, gppdm, told):
    with refused("private.noise_multiplier is above 0, but", told):
        run(given(**gppdm))
    assert not [*(project / "data").rglob("*.npz")]


def test_a_missing_package_is_told_before_it_begins(project, monkeypatch):
    monkeypatch.setattr("gppdm_pipeline.algorithm.generator.guarantee.find_spec", lambda name: None)
    with refused("install the extra 'privacy'"):
        run(given())
    assert not [*(project / "data").rglob("*.npz")]


def test_latents_are_refused_before_it_begins(project):
    pytest.importorskip("opacus")
    own = {"name": "latents", "autoencoder": "own", "own": {"halvings": 1, "width": 8, "steps": 2}}
    with refused("gppdm cannot learn these images", "what an encoder makes of images is whitened"):
        run({**given(), "space": own})
    assert not [*(project / "data").rglob("*.npz")]
