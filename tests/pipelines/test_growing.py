"""A stream that becomes longer: only new tasks are learnt, and what is there stays."""

from __future__ import annotations

import json
import logging
import re
import shutil
import struct

import numpy as np
import pytest
from tests.pipelines.test_stop_and_go_on import result, stop_at_offer
from tests.reference.experiments import experiment_of
from tests.reference.runs import (
    TINY,
    client,
    contents,
    mlflow_runs,
    outputs,
    refused,
    run,
)
from tests.reference.tiny import Stopped

from gppdm_pipeline.algorithm.disk.states import load_state
from gppdm_pipeline.catalog import scratch
from gppdm_pipeline.grids import runs
from gppdm_pipeline.run import growing
from gppdm_pipeline.run.guard import differences

pytestmark = pytest.mark.usefixtures("project")

STAGES = ("split", "synthesise_replay", "train_classifier", "train_generator", "evaluate")
REPORT = {"report.summarise", "report.draw_accuracy_matrix", "report.draw_accuracy_over_tasks"}


def stream(*sizes, **options):
    source = TINY["stream"]["source"]
    return {"source": source, "classes_per_task": [*sizes], "unlisted": "leave_out", **options}


def nodes_of(caplog, params, **options):
    """Runs, and the names of the nodes that the log says ran."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        run(params, **options)
    return set(re.findall(r"Completed node: (\S+)", caplog.text))


def states(name="digits/finetune/seed_0"):
    return {task: contents(outputs("06_models", name) / task) for task in ("task_01", "task_02")}


@pytest.mark.parametrize(
    "method", ["finetune", pytest.param("gppdm", marks=pytest.mark.slow), "joint"]
)
def test_only_the_new_task_is_learnt_and_all_is_as_if_learnt_at_once(method, caplog):
    name = f"digits/{method}/seed_0"
    run({"method": method, "variant": "at_once", "stream": stream(2, 2, 1)})
    run({"method": method, "stream": stream(2, 2)})
    before = states(name)
    ran = nodes_of(caplog, {"method": method, "stream": stream(2, 2, 1)})
    assert "Tasks 1-2 are there; training task 3." in caplog.text
    learnt = {node for node in ran if not node.startswith(("report.", "assessment."))}
    assert learnt == {f"task_03.{stage}" for stage in STAGES}
    assert ran >= REPORT
    assert states(name) == before

    grown, at_once = result(name), result(f"digits/{method}-at_once/seed_0")
    compared = 0
    for (layer, file), content in at_once.items():
        of_settings = file.endswith("state.json")  # the stream was another when it was written
        is_cost = file.startswith("task_03/") and file.endswith(".json")
        is_result = file.endswith(("evaluation.json", "replay_quality.json"))
        if not of_settings and (not is_cost or is_result):
            assert grown[layer, file] == content, file
            compared += 1
    assert compared > 20
    reports = outputs("08_reporting", name)
    report = json.loads((reports / "metrics.json").read_text())
    assert len(report["accuracy_matrix"]) == 3
    assert list(report["seconds"]) == ["task_01", "task_02", "task_03"]
    aside = json.loads((reports / "before_task_03" / "metrics.json").read_text())
    assert len(aside["accuracy_matrix"]) == 2
    assert (reports / "before_task_03" / "figures" / "accuracy_matrix.png").exists()
    latest = mlflow_runs()[0]
    assert latest.data.params["number_of_tasks"] == "3"
    history = client().get_metric_history(latest.info.run_id, "average_accuracy")
    assert [point.step for point in history] == [1, 2, 3]


def test_growing_that_was_stopped_goes_on(caplog, monkeypatch):
    run({"stream": stream(2, 2)})
    before = states()
    longer = {"stream": stream(2, 2, 1, 1), "checkpoint_seconds": 0}
    with monkeypatch.context() as patch:
        stop_at_offer(patch, 13)  # in task 4
        with pytest.raises(Stopped):
            run(longer)
    # By then the code is another: the tasks that are there are not made anew all the same.
    with monkeypatch.context() as patch:
        for module in (scratch, growing):
            patch.setattr(module, "code_digest", lambda: "another")
        ran = nodes_of(caplog, longer)
    assert "Tasks 1-2 are there; training tasks 3-4." in caplog.text
    assert "were learnt by other code" in caplog.text
    assert {node for node in ran if node.startswith("task_0")} == {
        f"task_04.{stage}" for stage in STAGES[2:]
    }
    assert ran >= REPORT
    assert states() == before


def test_what_changed_is_named_and_nothing_is_done(monkeypatch):
    run({"stream": stream(2, 2)})
    whole = contents(outputs("06_models")), contents(outputs("08_reporting"))

    def unchanged():
        return (contents(outputs("06_models")), contents(outputs("08_reporting"))) == whole

    longer = stream(2, 2, 1)
    with refused("has learnt 2 tasks, and cannot go on to 3", "classifier.steps: 10 there, 9 now"):
        run({"stream": longer, "classifier": {"steps": 9, "width": 8}})
    with refused("task 1: classes 0, 1 there, 1, 2 now", "task 2: classes 2, 3 there, 0, 3 now"):
        run({"stream": {**longer, "class_order": "1-2-0-3-4"}})
    with refused("task 1: classes 0, 1 there", "class_order is random", "new ones behind"):
        run({"stream": {**longer, "class_order": "random"}})
    more = {**longer, "source": {"train_per_class": 11, "test_per_class": 5}}
    with refused("task 1: training images of 0 (9 there, 10 now), 1", "overwrite=true"):
        run({"stream": more})
    more["source"] = {"train_per_class": 10, "test_per_class": 6}
    with refused("task 2: test images of 2 (5 there, 6 now), 3 (5 there, 6 now)"):
        run({"stream": more})
    assert unchanged()
    with refused("number_of_tasks: 2 there, 3 now", "the whole pipeline learns these alone"):
        run({"stream": longer}, namespaces=["task_03"])
    assert unchanged()
    (outputs("06_models") / "task_02" / "state" / "state.json").unlink()
    with refused("state.json is missing"):
        run({"stream": longer})
    shutil.rmtree(outputs("06_models") / "task_02")
    with refused("task_02/state is missing", "First give the command of the stream of 2 tasks"):
        run({"stream": longer})


def test_what_is_missing_of_earlier_tasks_is_told_and_made_if_asked(caplog):
    run({"stream": stream(2, 2)})
    before, longer = states(), {"stream": stream(2, 2, 1)}
    (outputs("03_primary") / "task_01" / "test.npz").unlink()
    with refused("task_01/test.npz is missing", "task_01.split", "--only-missing-outputs"):
        run(longer)
    ran = nodes_of(caplog, longer, only_missing_outputs=True)
    assert {node for node in ran if node.startswith("task_0")} == {
        "task_01.split",
        *(f"task_03.{stage}" for stage in STAGES),
    }
    assert states() == before


def test_a_shorter_stream_is_other_settings():
    run({"stream": stream(2, 2)})
    with refused("made with other settings", "stream.classes_per_task: [2, 2] there, [2] now"):
        run({"stream": stream(2)})


def test_a_stream_told_in_another_way_is_the_same_stream(caplog):
    run({"stream": stream(2, 2)})
    tasks = [["1", "0"], "3-2", ["4"]]
    ran = nodes_of(caplog, {"stream": {**stream(), "classes_per_task": None, "tasks": tasks}})
    assert {node.split(".")[0] for node in ran} == {"task_03", "report"}


CLASSES = {name: seed for seed, name in enumerate(["ant", "cat", "dog", "bee", "fox"])}


def write_classes(folder, *names):
    """IDX files of these classes; a class's images are the same whatever comes beside it."""
    folder.mkdir(exist_ok=True)
    for prefix, count in (("train", 12), ("t10k", 6)):
        images = [
            np.random.default_rng([CLASSES[name], count]).integers(0, 256, (count, 8, 8), np.uint8)
            for name in names
        ]
        labels = bytes(label for label in range(len(names)) for _ in range(count))
        head = struct.pack(">4I", 0x803, len(labels), 8, 8)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(head + np.stack(images).tobytes())
        head = struct.pack(">2I", 0x801, len(labels))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(head + labels)
    return {"reader": "idx", "folder": str(folder), "class_names": list(names)}


@pytest.mark.parametrize("method", ["finetune", pytest.param("gppdm", marks=pytest.mark.slow)])
def test_a_class_that_comes_between_others_does_not_move_them(method, tmp_path, caplog):
    """As a folder that is added to a folder of classes, in alphabetical order."""
    name = f"digits/{method}/seed_0"
    source = write_classes(tmp_path / "classes", "ant", "cat", "dog", "fox")
    run({"method": method, "stream": {"source": source, "classes_per_task": 2}})
    before = states(name)
    source = write_classes(tmp_path / "classes", "ant", "bee", "cat", "dog", "fox")
    longer = {"method": method, "stream": {"source": source, "classes_per_task": [2, 2, 1]}}
    ran = nodes_of(caplog, longer)
    assert {node.split(".")[0] for node in ran} - {"assessment"} == {"task_03", "report"}
    assert states(name) == before
    state = load_state(outputs("06_models", name) / "task_03" / "state")
    assert state.tasks == ((0, 1), (2, 3), (4,))
    record = json.loads((outputs("06_models", name) / "configuration.json").read_text())
    assert record["classes"] == ["ant", "cat", "dog", "fox", "bee"]
    report = json.loads((outputs("08_reporting", name) / "metrics.json").read_text())
    assert report["classes_by_task"] == [["ant", "cat"], ["dog", "fox"], ["bee"]]
    assert list(report["per_class_accuracy"]) == record["classes"]

    # The run knows its classes from then on, whatever nodes are run.
    assert nodes_of(caplog, longer, namespaces=["report"]) >= REPORT
    with refused("made with other settings", "stream.source.class_names"):
        source = write_classes(tmp_path / "classes", "ant", "bee", "dog", "fox")
        run({"method": method, "stream": {"source": source, "classes_per_task": 2}})


def test_a_sweep_takes_a_grown_run_for_finished(tmp_path):
    source = write_classes(tmp_path / "classes", "ant", "cat")
    run({"stream": {"source": source, "classes_per_task": 1}})
    source = write_classes(tmp_path / "classes", "ant", "bee", "cat")
    run({"stream": {"source": source, "classes_per_task": 1}})
    given = f"benchmark=digits,method=finetune,seed=0,stream.source.folder={source['folder']}"
    given += ",stream.source.reader=idx,stream.classes_per_task=1,classifier.steps=10"
    given += ",classifier.width=8"
    experiment = experiment_of(given + ",stream.source.class_names=[ant]")
    stream = experiment.stream.model_copy(
        update={
            "source": experiment.stream.source.model_copy(
                update={"class_names": ("ant", "bee", "cat")}
            )
        }
    )
    assert runs.is_finished(experiment.model_copy(update={"stream": stream}))


def test_growing_a_class_that_comes_back(caplog):
    """Drawn for each task, a class's earlier images do not depend on how often it comes."""
    options = {"classes_per_task": None, "returning_images": 6}
    tasks = [["0", "1"], ["2", "0"]]
    run({"stream": {**stream(), **options, "tasks": tasks}})
    ran = nodes_of(caplog, {"stream": {**stream(), **options, "tasks": [*tasks, ["1", "3"]]}})
    assert {node.split(".")[0] for node in ran} == {"task_03", "report"}
    report = json.loads((outputs("08_reporting") / "metrics.json").read_text())
    assert report["classes_by_task"] == [["0", "1"], ["0", "2"], ["1", "3"]]
    assert None not in report["accuracy_matrix"][-1]
    options["returning_images"] = "divide"
    with refused("task 1: training images of 0 (6 there, ") as told:
        run({"stream": {**stream(), **options, "tasks": [*tasks, ["1", "3"], ["4"]]}})
    assert "divide" not in str(told.value)  # no class comes more often: that is not why


COMES_BACK = [["0", "1"], ["2", "0"], ["1", "3", "0"], ["4"]]


@pytest.mark.parametrize("method", ["finetune", pytest.param("gppdm", marks=pytest.mark.slow)])
def test_a_divided_stream_that_was_planned_grows(method, caplog):
    planned = {**stream(), "classes_per_task": None, "returning_images": "divide"}
    planned["tasks"] = COMES_BACK
    run({"method": method, "variant": "at_once", "stream": {**planned, "up_to_task": 3}})
    run({"method": method, "stream": {**planned, "up_to_task": 2}})
    name = f"digits/{method}/seed_0"
    before = states(name)
    ran = nodes_of(caplog, {"method": method, "stream": {**planned, "up_to_task": 3}})
    learnt = {node for node in ran if not node.startswith(("report.", "assessment."))}
    assert learnt == {f"task_03.{stage}" for stage in STAGES}
    assert states(name) == before
    assert_same_state(name, f"digits/{method}-at_once/seed_0", "task_03")
    ran = nodes_of(caplog, {"method": method, "stream": planned})  # up to the last
    assert {node.split(".")[0] for node in ran} - {"assessment"} == {"task_04", "report"}


def test_a_divided_stream_that_was_not_planned_says_what_to_do():
    divided = {**stream(), "classes_per_task": None, "returning_images": "divide"}
    run({"stream": {**divided, "tasks": COMES_BACK[:2]}})
    whole = contents(outputs("06_models"))
    with refused(
        "task 1: training images of 0 (",
        "1 would come more often",
        "stream.up_to_task=<number>",
        "stream.returning_images=<number>",
    ):
        run({"stream": {**divided, "tasks": COMES_BACK[:3]}})
    assert contents(outputs("06_models")) == whole
    run({"stream": {**divided, "tasks": [*COMES_BACK[:2], ["3", "4"]]}})  # only new ones: it grows


@pytest.mark.slow
def test_a_stream_with_repetition_grows_behind_its_last_task(caplog):
    repetition = {"experiences": 3, "probability": 0.5}
    options = {**stream(), "classes_per_task": None, "returning_images": 6}
    longer = {**options, "repetition": {**repetition, "further": 2}}
    run({"variant": "at_once", "stream": longer})
    run({"stream": {**options, "repetition": repetition}})
    before = states()
    with refused(
        "cannot go on to 5",
        "task 1: classes",
        "leave it as it was",
        "repetition.further=<how many>",
    ):
        run({"stream": {**options, "repetition": {**repetition, "experiences": 5}}})
    ran = nodes_of(caplog, {"stream": longer})
    assert {node.split(".")[0] for node in ran} == {"task_04", "task_05", "report"}
    assert states() == before
    assert_same_state("digits/finetune/seed_0", "digits/finetune-at_once/seed_0", "task_05")
    report = json.loads((outputs("08_reporting") / "metrics.json").read_text())
    tasks = [*report["classes_by_task"], ["4", "0"]]  # told by name, it goes on all the same
    ran = nodes_of(caplog, {"stream": {**options, "tasks": tasks}})
    assert {node.split(".")[0] for node in ran} == {"task_06", "report"}


def assert_same_state(one, other, task):
    """But for their records, which tell of streams that are told in two ways."""
    folders = [contents(outputs("06_models", name) / task / "state") for name in (one, other)]
    for folder in folders:
        del folder["state.json"], folder["provenance.json"]
    assert folders[0] == folders[1] and folders[0]


def test_names_by_which_labels_are_made_may_get_more():
    def record(names):
        return {"classes": names, "gppdm": {"condition": {"class_names": names}}}

    assert differences(record(["ant", "bee"]), record(["ant", "bee", "cat"])) == []
    (text,) = differences(record(["ant"]), {**record(["bee"]), "classes": ["ant"]})
    assert text == "gppdm.condition.class_names: ['ant'] there, ['bee'] now"
