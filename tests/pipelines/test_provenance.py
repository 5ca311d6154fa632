from __future__ import annotations

import json

import pytest
from tests.reference.runs import (
    TINY,
    contents,
    outputs,
    refused,
    run,
)

from gppdm_pipeline.algorithm.disk.states import load_state, save_state, verify_state
from gppdm_pipeline.catalog.datasets import ImagesDataset
from gppdm_pipeline.streams.sources import fingerprint

pytestmark = pytest.mark.usefixtures("project")


def state_of(task):
    return outputs("06_models") / f"task_{task:02d}" / "state"


def test_a_state_says_what_it_was_made_with():
    run()
    manifest = json.loads((state_of(2) / "state.json").read_text())
    assert manifest["configuration"] == json.loads(
        (outputs("06_models") / "configuration.json").read_text()
    )
    assert set(manifest["versions"]) == {"gppdm-pipeline", "torch", "diffusers"}
    hashes = []
    for task in ("task_01", "task_02"):
        file = outputs("03_primary") / task / "train.npz"
        hashes.append(fingerprint(ImagesDataset(filepath=str(file)).load()))
    assert manifest["data"] == hashes
    assert load_state(state_of(2)).data == tuple(hashes)
    provenance = json.loads((state_of(2) / "provenance.json").read_text())
    assert {"git_commit", "python", "platform", "threads"} <= set(provenance)
    (state_of(2) / "provenance.json").unlink()
    verify_state(state_of(2))


def test_a_state_of_other_settings_or_another_order_is_refused_by_name():
    run(to_nodes=["task_01.evaluate"])
    state, manifest = load_state(state_of(1)), verify_state(state_of(1))
    before = contents(outputs("06_models"))
    other = {**manifest["configuration"], "classifier": {"steps": 4711}}
    save_state(state, state_of(1), other)
    with refused("task_01/state was made with other settings", "classifier.steps: 4711 there, 10"):
        run(namespaces=["task_02"])
    save_state(state, state_of(1))
    with refused("task_01/state does not say what it was made with"):
        run(namespaces=["task_02"])
    save_state(state, state_of(1), manifest["configuration"])
    del before["task_01/state/provenance.json"]
    assert contents(outputs("06_models")) == before
    order = {"stream": {**TINY["stream"], "class_order": "9-8-7-6-5-4-3-2-1-0"}}
    record = outputs("06_models") / "configuration.json"
    settings = json.loads(record.read_text())
    settings["stream"]["class_order"] = list("9876543210")
    record.write_text(json.dumps(settings))
    with refused("made of other images", "task 1: training images of 0 (9 there, 0 now)"):
        run(order, namespaces=["task_02"])
