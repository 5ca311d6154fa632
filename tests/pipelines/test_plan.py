"""A plan runs what has no record, keeps records and writes tables."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import click
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from kedro.runner import SequentialRunner
from tests.reference.experiments import experiment_of

from gppdm_pipeline import plan
from gppdm_pipeline.configuration.params import parse
from gppdm_pipeline.grids import runs
from gppdm_pipeline.run.same_images import hash_of_images
from gppdm_pipeline.run.session import Session
from gppdm_pipeline.spaces.space import SpaceConfig

ROOT = Path(__file__).parents[2]
PLAN = {
    "baseline": "floor",
    "streams": {
        "small": {
            "benchmark": "digits",
            "seeds": [0, 1],
            "params": {
                "stream.source.train_per_class": 6,
                "stream.source.test_per_class": 4,
                "stream.classes_per_task": 5,
                "classifier.steps": 2,
                "classifier.width": 8,
            },
        }
    },
    "variants": {"floor": {"method": "finetune"}, "smooth": {"method": "lwf", "lwf.weight": 2.0}},
    "differences": [["smooth", "floor"]],
}


@pytest.fixture(autouse=True)
def project(project, monkeypatch):
    monkeypatch.setattr(runs, "run", in_this_process)
    Path("docs").mkdir()
    marks = "# Results\n<!-- trial: made by the plan -->\nold\n<!-- end of trial -->\nend\n"
    Path("docs/results.md").write_text(marks)
    Path("trial.yml").write_text(yaml.safe_dump(PLAN))
    return project


ran = []


def in_this_process(params):
    ran.append(params)
    with Session.create(project_path=Path.cwd(), runtime_params=parse(params)) as session:
        session.run(pipeline_names=["continual"], runner=SequentialRunner())
    return True


def planned(*options):
    ran.clear()
    return CliRunner().invoke(plan.main, ["trial.yml", *options])


def test_what_has_a_record_is_not_run_again_even_where_its_outputs_are_gone():
    done = planned("--seeds=0")
    assert done.exit_code == 0, done.output
    assert len(ran) == 2
    shutil.rmtree("data")
    done = planned()
    assert [pair for params in ran for pair in params.split(",") if "seed" in pair] == [
        "seed=1"
    ] * 2
    assert done.output.count(": recorded") == 2
    record = json.loads(Path("benchmarks/results/trial/small/smooth/seed_1.json").read_text())
    assert record["configuration"]["lwf"]["weight"] == 2.0
    assert record["made"]["code"]
    text = Path("docs/results.md").read_text()
    assert text.startswith("# Results\n")
    assert text.endswith("<!-- end of trial -->\nend\n")
    assert "old" not in text
    assert "| smooth | 0, 1 |" in text
    file = Path("benchmarks/results/trial/small/smooth/seed_1.json")
    other = {**record["configuration"], "lwf": {"weight": 3.0}}
    file.write_text(json.dumps({**record, "configuration": other}))
    planned("--variants=smooth")  # the record of other settings
    assert len(ran) == 0  # is made anew from the finished run
    assert json.loads(file.read_text())["configuration"] == record["configuration"]


def test_a_record_of_another_plan_will_do():
    Path("other.yml").write_text(
        yaml.safe_dump({**PLAN, "variants": {"floor": {"method": "finetune"}}, "differences": []})
    )
    Path("docs/results.md").write_text(
        Path("docs/results.md").read_text()
        + "<!-- other: made by the plan -->\n<!-- end of other -->\n"
    )
    assert planned("--seeds=0", "--variants=floor").exit_code == 0
    ran.clear()
    done = CliRunner().invoke(plan.main, ["other.yml", "--seeds=0"])
    assert not ran, done.output
    record = Path("benchmarks/results/other/small/floor/seed_0.json")
    assert record.read_bytes() == Path(str(record).replace("other", "trial")).read_bytes()


@pytest.mark.slow
def test_some_replay_of_the_first_seed_is_kept_and_shown():
    tiny = {
        "method": "vae_replay",
        "vae_replay.vae.steps": 2,
        "vae_replay.vae.width": 8,
        "vae_replay.replay.images_per_class": 2,
    }
    Path("trial.yml").write_text(
        yaml.safe_dump({**PLAN, "variants": {**PLAN["variants"], "vae": tiny}})
    )
    done = planned("--variants=vae")
    assert done.exit_code == 0, done.output
    folder = Path("benchmarks/results/trial/small/vae")
    assert sorted(file.name for file in folder.iterdir()) == [
        "seed_0.json",
        "seed_0.npz",
        "seed_1.json",
    ]
    with np.load(folder / "seed_0.npz", allow_pickle=False) as arrays:
        strip = arrays["replay"]
    with np.load("data/05_model_input/digits/vae_replay-small-vae/seed_0/task_02/replay.npz") as of:
        assert np.array_equal(strip[0, 0, :2], of["images"][of["labels"] == 0])
    assert strip.shape == (2, 2, 3, 8, 8, 1)
    text = Path("docs/results.md").read_text()
    assert "agreement, distance after task | 1 | 2 |" in text
    assert "| state as raw images per class |" in text  # their size is that of the kept ones
    for name in ("cost", "replay"):
        assert f"(images/plans/trial_small_{name}.png)" in text
        image = Path(f"docs/images/plans/trial_small_{name}.png").read_bytes()
        assert image.startswith(b"\x89PNG")


def test_settings_that_came_later_are_at_their_defaults_in_a_record():
    experiment = experiment_of("benchmark=digits,method=lwf,seed=3")
    there = experiment.settings()
    del there["lwf"]["softmax"], there["classifier"]["start"], there["precision"]
    assert plan._is_of(experiment, {"configuration": there})
    other = experiment_of("benchmark=digits,method=lwf,seed=4")
    assert not plan._is_of(other, {"configuration": there})
    changed = experiment_of("benchmark=digits,method=lwf,seed=3,lwf.softmax=all")
    assert not plan._is_of(changed, {"configuration": there})
    in_features = {**there, "space": {"name": "features", "sha256": "0"}}
    assert not plan._is_of(experiment, {"configuration": in_features})
    assert not plan._is_of(experiment, {"configuration": {**there, "lwf": {"gone": 1}}})
    was_off = {**there["classifier"], "label_smoothing": 0.0, "shift": 0}  # and is no setting now
    assert plan._is_of(experiment, {"configuration": {**there, "classifier": was_off}})
    was_on = {**was_off, "shift": 1}
    assert not plan._is_of(experiment, {"configuration": {**there, "classifier": was_on}})
    images = hash_of_images(experiment)
    assert plan._is_of(experiment, {"configuration": there, "images": images})
    assert not plan._is_of(experiment, {"configuration": there, "images": "of others"})


def test_tables_alone():
    done = planned("--tables")
    assert done.exit_code == 0
    assert not ran
    text = Path("docs/results.md").read_text()
    assert "| floor | not run |" in text
    assert "| smooth less floor |  |" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "none"}, "'none' is no variant: use one of floor, smooth"),
        ({"differences": [["floor", "none"]]}, "differences: 'none' is no variant: use one of"),
        ({"seeds": 1}, "seeds"),
        (
            {"variants": {"floor": {"lwf.weight": 2}}, "differences": []},
            "variants without a method: floor",
        ),
    ],
)
def test_a_plan_that_is_none(change, message):
    Path("trial.yml").write_text(yaml.safe_dump({**PLAN, **change}))
    done = planned()
    assert done.exit_code == 1
    assert "trial.yml is no plan" in done.output
    assert message in done.output


def test_runs_at_once(monkeypatch):
    together = threading.Barrier(2, timeout=60)

    def run(params):
        together.wait()
        return False

    monkeypatch.setattr(runs, "run", run)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    done = planned("--jobs=2")
    assert os.environ.pop("OMP_NUM_THREADS") == str(max(1, (os.cpu_count() or 1) // 2))
    assert done.exit_code == 1
    assert "4 of 4 runs failed" in done.output
    assert not together.broken


def test_stopped_it_begins_no_further_run(monkeypatch):
    begun = []

    def run(params):
        begun.append(params)
        time.sleep(0.5)  # until the one that is interrupted waits
        os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C
        time.sleep(0.5)
        return False

    monkeypatch.setattr(runs, "run", run)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    try:
        assert planned().exit_code == 1
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(begun) == 1


def test_names_that_the_plan_does_not_have():
    done = planned("--variants=smoth")
    assert done.exit_code == 1
    assert "--variants: the plan has no 'smoth'. Allowed: floor, smooth." in done.output
    for seeds in ("7", "x"):
        done = planned(f"--seeds=0,{seeds}")
        assert done.exit_code == 1
        assert f"--seeds: the plan has no '{seeds}'. Allowed: 0, 1." in done.output
    assert not ran


def test_records_of_other_settings_are_left_out_and_named():
    assert planned("--variants=floor").exit_code == 0
    file = Path("benchmarks/results/trial/small/floor/seed_1.json")
    record = json.loads(file.read_text())
    record["configuration"]["classifier"]["steps"] = 3
    file.write_text(json.dumps(record))
    assert planned("--tables").exit_code == 0
    text = Path("docs/results.md").read_text()
    assert "| floor | 0 |" in text
    assert "made with other settings (seeds): floor 1." in text


def test_experiments_read_together_are_those_read_alone():
    params = ["benchmark=digits,method=lwf,seed=3", "benchmark=my,method=joint", "seed=1"]
    with pytest.raises(click.ClickException, match="benchmark"):
        runs.experiments_of(params)
    del params[1]
    assert runs.experiments_of(params) == [experiment_of(each) for each in params]
    assert [experiment.seed for experiment in runs.experiments_of(params)] == [3, 1]


def test_a_setting_may_be_a_list():
    stream = {"benchmark": "digits", "seeds": [0]}
    variants = {
        name: {
            "method": "gppdm",
            "gppdm.projection.layers": layers,
            "gppdm.denoiser.channels": channels,
        }
        for name, layers, channels in (("a", [], [8, 8]), ("b", ["k", "out"], [8, 16]))
    }
    settings = {"baseline": "a", "streams": {"s": stream}, "variants": variants}
    runs_of = plan.runs_of(plan.Plan.model_validate(settings), ["s"], ["a", "b"])
    learners = [experiment_of(run.params).learner for run in runs_of]
    assert [each.projection.layers for each in learners] == [(), ("k", "out")]
    assert [each.denoiser.channels for each in learners] == [(8, 8), (8, 16)]


def test_a_setting_of_the_preset_may_be_null():
    assert experiment_of("benchmark=digits").learner.replay.sigma_max
    stream = {"benchmark": "digits", "seeds": [0], "params": {"gppdm.replay.sigma_max": None}}
    settings = {"baseline": "a", "streams": {"s": stream}, "variants": {"a": {"method": "gppdm"}}}
    [run] = plan.runs_of(plan.Plan.model_validate(settings), ["s"], ["a"])
    assert experiment_of(run.params).learner.replay.sigma_max is None


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").glob("*.yml")), ids=lambda f: f.stem)
def test_plans_of_the_project_are_valid(file, monkeypatch):
    monkeypatch.setattr(SpaceConfig, "resolved", lambda self: self)  # no encoder is here
    read = plan.read_plan(file)
    wanted = plan.runs_of(read, list(read.streams), list(read.variants), [0])
    experiments = [experiment_of(each.params) for each in wanted]
    assert len({experiment.run for experiment in experiments}) == len(wanted)
    results = (ROOT / "docs/results.md").read_text()
    assert f"<!-- {file.stem}: made by the plan -->" in results
