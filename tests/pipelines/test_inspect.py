"""`kedro run --pipeline=inspect`: a page, a picture and an estimate, and nothing else."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from kedro.runner import SequentialRunner
from matplotlib import image
from pydantic import BaseModel
from tests.methods.test_contract import SETTINGS
from tests.reference.runs import (
    TINY,
    outputs,
    refused,
    run,
)
from tests.reference.tiny import gppdm, images_of, learn

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.methods import METHODS, Method
from gppdm_pipeline.methods.gppdm import Gppdm
from gppdm_pipeline.pipelines.inspect import estimate, stopwatch
from gppdm_pipeline.pipelines.inspect.estimate import estimate_costs
from gppdm_pipeline.run.session import Session
from gppdm_pipeline.streams.scenario import StreamConfig, TaskSplit

pytestmark = pytest.mark.usefixtures("project")

FOLDER = Path("data/08_reporting/digits/inspect")


def inspect(params=None):
    given = {**TINY, **(params or {})}
    with Session.create(project_path=Path.cwd(), runtime_params=given) as session:
        session.run(pipeline_names=["inspect"], runner=SequentialRunner())


@pytest.mark.pictures
def test_page_picture_and_json(capsys):
    inspect({"method": "gppdm"})
    assert {file.name for file in FOLDER.iterdir()} == {
        "images.png",
        "images.svg",
        "images.csv",
        "inspection.json",
        "page.md",
    }
    record = json.loads((FOLDER / "inspection.json").read_text())
    assert record["method"] == "gppdm"
    assert [task["train"] for task in record["tasks"]] == [45, 45]
    page = (FOLDER / "page.md").read_text()
    assert "10 classes in 2 tasks, images of 8 x 8 (grey), seed 0." in page
    assert "| 2 | 5 (9), 6 (9), 7 (9), 8 (9), 9 (9) | 45 | 5 | 25 |" in page
    assert "Task 2: 7 has 9 images to learn from" in page
    assert "![The first training images of each class](images.png)" in page
    told = capsys.readouterr().out
    assert "- 15 more classes are as small." in told
    assert "About what gppdm takes (cpu)" in told
    assert image.imread(FOLDER / "images.png").shape[1] == 800
    assert not Path("data/06_models").exists()
    assert not Path("data/.checkpoints").exists()


def test_it_looks_beside_a_run_that_is_there_or_was_stopped(monkeypatch):
    run()
    monkeypatch.setattr("gppdm_pipeline.run.session.Command.goes_on", lambda _: True)
    inspect({"stream": {**TINY["stream"], "classes_per_task": 2}})
    before = (FOLDER / "page.md").read_text()
    assert "in 5 tasks" in before
    inspect()
    assert "in 2 tasks" in (FOLDER / "page.md").read_text()
    assert len(list(outputs("06_models").glob("task_*"))) == 2


def test_what_cannot_be_learnt_is_told(tmp_path):
    with refused("nowhere", "no such folder"):
        source = {"folder": str(tmp_path / "nowhere")}
        inspect({"benchmark": "fashion_mnist", "stream": {"source": source}})
    with refused("gppdm cannot learn these images", "set it to 10 at least"):
        inspect({"method": "gppdm", "gppdm": {"denoiser": {"condition_dim": 8}}})
    with refused("comes 2 times and has 1 training images: too few to divide"):
        stream = {
            "source": {"train_per_class": 1},
            "unlisted": "leave_out",
            "tasks": [["0"], ["0"]],
            "returning_images": "divide",
        }
        inspect({"stream": stream})
    assert not FOLDER.exists()


STREAM = StreamConfig.model_validate(
    {
        "source": {"reader": "sklearn_digits", "train_per_class": 40, "test_per_class": 5},
        "unlisted": "leave_out",
        "classes_per_task": [2, 2, 1],
    }
)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_estimated(name):
    method = Method.model_validate(SETTINGS[name])
    costs = estimate_costs(method, STREAM, 0, torch.device("cpu"))
    seconds, size = costs["seconds"], costs["bytes"]
    assert set(seconds) == {
        "synthesise_replay",
        "train_classifier",
        "train_generator",
        "evaluate",
        "total",
    }
    assert all(value >= 0 for value in seconds.values())
    assert seconds["total"] == pytest.approx(sum(seconds.values()) - seconds["total"])
    assert size["task images"] == (5 * 45) * (64 + 8)
    each = method.replay.images_per_class if method.has_generator else 0
    if method.keeps_images:
        each = method.images
    elif method.reads_earlier_images:
        each = 36
    assert size["replay"] == (2 + 4) * each * (64 + 8)
    assert size["states"] > 0


class Slow(METHODS["finetune"]):
    """Every step takes a tenth of a second, and every task a fifth besides."""

    def train_classifier(self, state, train, validation, replay, context):
        time.sleep(0.2)
        with context.progress(self.classifier.steps, "train_classifier") as bar:
            for _ in range(self.classifier.steps):
                time.sleep(0.1)
                bar.advance()
        state = state.begin(context.task, train.classes, train.image_shape)
        small = self.model_copy(
            update={"classifier": self.classifier.model_copy(update={"steps": 1})}
        )
        return METHODS["finetune"].train_classifier(
            small, state, train, validation, replay, context.__class__(0, context.task)
        )


class Replay(BaseModel):
    images_per_class: int = 300


class Drawing(METHODS["finetune"]):
    """Every replayed image takes a hundredth of a second."""

    once: bool
    replay: Replay = Replay()

    @property
    def draws_once(self):
        return self.once

    def synthesise_replay(self, state, context, earlier=()):
        old = state.classes_before(context.task)
        with context.progress(len(old) * self.replay.images_per_class, "synthesise_replay") as bar:
            for _ in range(len(old) * self.replay.images_per_class):
                time.sleep(0.01)
                bar.advance()
        return super().synthesise_replay(state, context, earlier)


@pytest.mark.parametrize(("once", "classes"), [(False, 2 + 4), (True, 2 + 2)])
def test_what_is_drawn_once_counts_once(once, classes):
    method = Drawing(once=once, classifier={"steps": 3, "width": 8})
    seconds = estimate_costs(method, STREAM, 0, torch.device("cpu"))["seconds"]
    assert seconds["synthesise_replay"] == pytest.approx(classes * 300 * 0.01, rel=0.2)


def test_time_is_that_of_the_whole_budget_and_all_tasks():
    method = Slow(classifier={"steps": 1000, "width": 8})
    costs = estimate_costs(method, STREAM, 0, torch.device("cpu"))
    seconds = costs["seconds"]
    assert costs["training_seconds"] == pytest.approx(3 * 1000 * 0.1, rel=0.05)
    assert seconds["train_classifier"] == pytest.approx(3 * (1000 * 0.1 + 0.2), rel=0.05)


@pytest.mark.slow
def test_bytes_are_about_those_of_a_run():
    run({"method": "gppdm"})
    inspect({"method": "gppdm"})
    size = json.loads((FOLDER / "inspection.json").read_text())["estimate"]["bytes"]
    folder = outputs("06_models", "digits/gppdm/seed_0")
    on_disk = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    assert size["states"] == pytest.approx(on_disk, rel=0.2)


def test_the_trial_keeps_networks_and_shapes():
    learner = METHODS["gppdm"]()
    small = estimate._reduced(learner, 16)
    assert small.denoiser.channels == learner.denoiser.channels
    assert small.denoiser.batch_size == learner.denoiser.batch_size
    assert small.denoiser.steps == small.classifier.steps == estimate.STEPS
    assert (small.replay.images_per_class, small.replay.sampler_steps) == (16, 2)


def test_a_loop_is_timed_by_its_units_however_many_are_done_at_once(monkeypatch):
    """Batches of 10, 10, 10 and 5 images, of which each takes half a second."""
    clock = iter([0.0, 9.0, 14.0, 19.0, 24.0, 26.5, 27.0])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(clock))
    watch = stopwatch.Stopwatch()
    with watch(45, "draw") as bar:
        for images in (10, 10, 10, 10, 5):
            bar.advance(images)
    assert watch.loops["draw"].per_unit == pytest.approx(0.5)


def test_what_is_drawn_class_by_class_is_timed_in_batches(monkeypatch):
    """Of 64 classes a trial has two images each, which would be all beginnings."""
    asked = []

    def drawn(self, state, classes, per_class, context):
        asked.append((len(classes), per_class))
        with context.progress(len(classes) * per_class, "draw") as bar:
            bar.advance(len(classes) * per_class)

    monkeypatch.setattr(Gppdm, "draw", drawn)
    state, trial = estimate._try_task(
        gppdm(memory="adapters"),
        learn(gppdm(memory="adapters"), [(5, 2, 0)])[-1],
        TaskSplit(images_of(1), images_of(1), images_of(1)),
        Context(0, 2),
        (),
    )
    assert asked == [(2, estimate.IMAGES // 2)]
    assert trial.loops["synthesise_replay"]["synthesise_replay"].total == estimate.IMAGES
    assert set(state.classes) == {0, 1, 2, 5}
