"""dvc.yaml says in its own words what the pipeline is; here the two are held together."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from gppdm_pipeline.configuration.experiment import resolve
from gppdm_pipeline.configuration.layers import Layer
from gppdm_pipeline.methods import METHODS
from gppdm_pipeline.pipelines.continual import create_pipeline

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMETERS = yaml.safe_load((ROOT / "conf/base/parameters.yml").read_text())
PRESETS = sorted((ROOT / "conf/base/benchmarks").glob("*.yml"))


@pytest.fixture(scope="module")
def experiment():
    name = PARAMETERS["benchmark"]
    preset = yaml.safe_load((ROOT / f"conf/base/benchmarks/{name}.yml").read_text())[name]
    return resolve({name: Layer(preset, str)}, [Layer(PARAMETERS, str)])


def test_stages_are_the_tasks_of_the_default_experiment(experiment):
    tasks = [f"task_{n:02d}" for n in range(1, experiment.number_of_tasks + 1)]
    assert list(STAGES["learn"]["foreach"]) == tasks
    evaluations = [dep.split("/")[-2] for dep in STAGES["report"]["deps"] if "evaluation." in dep]
    assert evaluations == tasks
    for before, task in pairwise(tasks):
        item = STAGES["learn"]["foreach"][task]
        assert item["state"].endswith(f"/{before}/state")
        assert item["evaluation"].endswith(f"/{before}/evaluation.json")


@pytest.mark.parametrize("method", METHODS)
def test_every_node_is_in_one_stage(method):
    tags = {"settings", "data", "task_01", "task_02", "report"}
    nodes = create_pipeline(METHODS[method](), 2).nodes
    assert all(len(node.tags & tags) == 1 for node in nodes)
    assert {tag for node in nodes for tag in node.tags} == tags


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_presets_have_what_dvc_asks_for(file):
    asked = {
        key.removeprefix("${benchmark}.")
        for stage in (STAGES["settings"], STAGES["data"], STAGES["learn"]["do"], STAGES["report"])
        for params in stage["params"]
        for keys in (params.get("conf/base/benchmarks/${benchmark}.yml"),)
        for key in keys or ()
    }
    assert asked == {"space", "stream"}
    assert yaml.safe_load(file.read_text())[file.stem].keys() >= asked


def test_what_learns_depends_on_the_settings_of_its_method():
    (settings,) = STAGES["settings"]["outs"]
    assert settings in STAGES["learn"]["do"]["deps"]
    assert settings in STAGES["report"]["deps"]  # of the oracle
    whole = [file for params in STAGES["settings"]["params"] for file in params if not params[file]]
    spaces = sorted((ROOT / "conf/base/spaces").glob("*"))
    assert whole == [
        "conf/base/parameters.yml",
        "conf/base/benchmarks/${benchmark}.yml",
        *(str(file.relative_to(ROOT)) for file in spaces),
    ]


def test_images_depend_on_the_space_that_is_asked_for():
    asked = {file: keys for each in STAGES["data"]["params"] for file, keys in each.items()}
    assert "space" in asked["conf/base/parameters.yml"]
    assert "${benchmark}.space" in asked["conf/base/benchmarks/${benchmark}.yml"]
    assert "space" in PARAMETERS  # DVC wants it there


def test_stages_depend_on_code_that_is_there():
    stages = [STAGES["settings"], STAGES["data"], STAGES["learn"]["do"], STAGES["report"]]
    code = [dep for stage in stages for dep in stage["deps"] if dep.startswith("src/")]
    assert code
    assert all((ROOT / dep).exists() for dep in code)
