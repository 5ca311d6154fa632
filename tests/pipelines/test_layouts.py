"""Presets of data sets that are not here: files of their layout, learnt in latents and features."""

from __future__ import annotations

import json

import pytest
from tests.reference import layouts, tiny_autoencoder, tiny_encoder
from tests.reference.runs import TINY, outputs, run

from gppdm_pipeline.streams.readers import core50

pytestmark = pytest.mark.usefixtures("project")

STREAMS = {
    "tiny_imagenet": {"classes_per_task": [2, 1]},
    "core50_repetition": {"source_batches": 2},
}
NAMES = {
    "tiny_imagenet": [["crane", "goldfish"], ["beacon"]],
    "core50_repetition": [["plug_adapter1"], ["plug_adapter1", "remote_control5"]],
}
"""Classes of each task, or some of them."""
METHODS = {  # of fifty classes, those that draw all of them at once
    ("tiny_imagenet", "latents"): ("gppdm", [16, 16, 4]),  # of 64 x 64
    ("tiny_imagenet", "features"): ("gppdm", [1, 1, 1280]),
    ("core50_repetition", "latents"): ("diffusion_replay", [8, 8, 4]),  # of 32 x 32, as it says
    ("core50_repetition", "features"): ("gaussian_replay", [1, 1, 1280]),
}
"""How it is learnt, and what a state says of the shape."""


@pytest.fixture
def space(request, tmp_path, monkeypatch):
    if request.param == "features":
        tiny_encoder.install(monkeypatch, tmp_path)
        return {"name": "features", "side": 32}
    return {"name": "latents", "autoencoder": str(tiny_autoencoder.made(tmp_path / "autoencoder"))}


@pytest.mark.parametrize("space", ["latents", "features"], indirect=True)
@pytest.mark.parametrize("benchmark", STREAMS)
def test_a_preset_learns_files_of_its_layout(benchmark, space, tmp_path):
    core50._read_lists.cache_clear()
    write = {"tiny_imagenet": layouts.tiny_imagenet, "core50_repetition": layouts.core50}
    source = {"folder": str(write[benchmark](tmp_path / "files"))}
    method, shape = METHODS[benchmark, space["name"]]
    denoiser = {**TINY["gppdm"]["denoiser"], "steps": 2, "width": 8, "blocks": 1}
    run(
        {
            "benchmark": benchmark,
            "method": method,
            "space": space,
            "stream": {"source": source, **STREAMS[benchmark]},
            "classifier": {"steps": 2, "width": 8},
            "generator": {**TINY["gppdm"], "denoiser": denoiser},
            "gppdm": {},
            "gaussian_replay": {"replay": {"images_per_class": 2}},
            "evaluation": {"replay": False},
        }
    )
    name = f"{benchmark}/{method}/seed_0"
    report = json.loads((outputs("08_reporting", name) / "metrics.json").read_text())
    assert report["space"]["name"] == space["name"]
    memory = report["configuration"][method].get("memory")
    assert memory == {"gppdm": "adapters", "diffusion_replay": "shared"}.get(method)
    for found, some in zip(report["classes_by_task"], NAMES[benchmark], strict=True):
        assert {*some} <= {*found}
    state = json.loads((outputs("06_models", name) / "task_02/state/state.json").read_text())
    assert state["image_shape"] == shape
    classes = {"tiny_imagenet": 3, "core50_repetition": 50}[benchmark]
    assert len({label for task in state["tasks"] for label in task}) == classes
