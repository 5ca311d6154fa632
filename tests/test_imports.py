"""What is imported, and what is not; and how long files are."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import gppdm_pipeline

ALGORITHM = """
import importlib, pkgutil
import gppdm_pipeline.algorithm, gppdm_pipeline.methods
for package in (gppdm_pipeline.algorithm, gppdm_pipeline.methods):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
"""
START = "import gppdm_pipeline.settings, gppdm_pipeline.pipeline_registry"
"""What `kedro run` imports of the project before it knows what to do."""


def loaded_by(program):
    """The names of the modules that a Python of its own has then."""
    said = f"{program}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    source = str(Path(gppdm_pipeline.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", said],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def roots(modules):
    """The packages that they are of."""
    return {name.partition(".")[0] for name in modules}


def test_the_algorithm_loads_neither_kedro_nor_mlflow():
    loaded = loaded_by(ALGORITHM)
    assert {"gppdm_pipeline.algorithm.generator.learn", "gppdm_pipeline.methods.gppdm"} <= loaded
    others = {"kedro", "mlflow", "kedro_mlflow", "kedro_datasets", "torchvision"}
    assert roots(loaded).isdisjoint(others)
    others = {"streams", "evaluation", "pipelines", "run", "catalog"}
    assert not {f"gppdm_pipeline.{name}" for name in others} & loaded


def test_a_run_begins_without_what_takes_long_and_is_not_needed_yet():
    loaded = loaded_by(START)
    assert "gppdm_pipeline.pipelines.continual.nodes" in loaded
    assert roots(loaded).isdisjoint({"diffusers", "transformers", "sklearn", "dvc", "mlflow"})
    assert "scipy.spatial" not in loaded


def test_files_have_at_most_300_lines_and_functions_40():
    """Docstrings of functions are not counted."""
    long = []
    for file in Path(gppdm_pipeline.__file__).parent.rglob("*.py"):
        text = file.read_text()
        long += [file.name] * (text.count("\n") > 300)
        for found in ast.walk(ast.parse(text)):
            if isinstance(found, ast.FunctionDef):
                first = found.body[bool(ast.get_docstring(found)) :] or found.body
                lines = (found.end_lineno or 0) - first[0].lineno + 1
                long += [f"{file.name}: {found.name}"] * (lines > 40)
    assert not long
