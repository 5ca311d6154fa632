import json
import os
import subprocess
import sys
from pathlib import Path

import gppdm_pipeline

PROGRAM = """
import importlib, json, pkgutil, sys
import gppdm_pipeline.algorithm, gppdm_pipeline.methods
for package in (gppdm_pipeline.algorithm, gppdm_pipeline.methods):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print(json.dumps(sorted(sys.modules)))
"""


def test_the_algorithm_loads_neither_kedro_nor_mlflow():
    source = str(Path(gppdm_pipeline.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert {"gppdm_pipeline.algorithm.training", "gppdm_pipeline.methods.gppdm"} <= set(loaded)
    roots = {name.partition(".")[0] for name in loaded}
    assert roots.isdisjoint({"kedro", "mlflow", "kedro_mlflow", "kedro_datasets", "torchvision"})
    others = {"streams", "evaluation", "pipelines", "hooks", "datasets"}
    assert not {f"gppdm_pipeline.{name}" for name in others} & set(loaded)
