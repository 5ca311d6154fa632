"""Whether two checkouts learn the same: every method, tiny budgets, everything held to the byte.

    python benchmarks/same_results.py <checkout> <checkout> [--methods=...] [--jobs=2]

Runs each method on digits and on a stream with repetition in a copy of both checkouts, and compares
every tensor of every state, every image of replay and of the splits, and results.json. What states
say of versions, settings and checksums is left out, so that a checkout in which an option was
renamed or removed compares equal if it learns the same. Ends with 1 where something differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

METHODS = (
    "analytic cpdm ddgr diffusion_replay ewc exemplar finetune gaussian_replay gppdm joint lwf "
    "nearest_mean ranpac slda vae_replay"
).split()
BENCHMARKS = ("digits", "digits_repetition")
DIFFUSION = ("gppdm", "cpdm", "diffusion_replay", "ddgr")


def parameters(method: str) -> str:
    """`--params` of a tiny run of `method`."""
    given = {"device": "cpu", "classifier.steps": 6, "classifier.width": 8}
    if method in DIFFUSION:
        given |= {f"{method}.denoiser.steps": 6, f"{method}.replay.images_per_class": 6}
        given |= {f"{method}.replay.sampler_steps": 3}
    if method == "vae_replay":
        given |= {"vae_replay.vae.steps": 6, "vae_replay.replay.images_per_class": 6}
    return ",".join(f"{key}={value}" for key, value in given.items())


def learnt(checkout: Path, benchmark: str, method: str) -> dict[str, str]:
    """File or tensor -> SHA-256, of a run in a copy of `checkout`.

    Raises:
        RuntimeError: if the run fails, with what it printed.
    """
    with tempfile.TemporaryDirectory() as place:
        project = Path(place)
        shutil.copy(checkout / "pyproject.toml", project)
        for folder in ("conf", "src"):
            shutil.copytree(checkout / folder, project / folder)
        params = f"benchmark={benchmark},method={method},{parameters(method)}"
        command = [Path(sys.executable).parent / "kedro", "run", "--pipeline=continual"]
        done = subprocess.run(
            [*command, f"--params={params}"],
            cwd=project,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GPPDM_CACHE": place},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{checkout}, {params}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        return dict(_hashes(project / "data"))


def _hashes(data: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(data.rglob("*")):
        name = file.relative_to(data).as_posix()
        named = name.startswith(("03_primary", "05_model_input", "06_models", "08_reporting"))
        if not named or "/oracles/" in name:  # these lie under a hash of their settings
            continue
        if file.suffix in (".npz", ".safetensors"):
            arrays = load_file(file) if file.suffix == ".safetensors" else dict(np.load(file))
            for key, array in arrays.items():
                content = array.dtype.str.encode() + str(array.shape).encode() + array.tobytes()
                yield f"{name}:{key}", hashlib.sha256(content).hexdigest()
        elif file.name == "results.json":
            for key, value in _results(json.loads(file.read_text())):
                yield f"{name}:{key}", json.dumps(value, sort_keys=True)


def _results(report: dict[str, object]) -> Iterator[tuple[str, object]]:
    settings = ("configuration", "settings")
    yield from ((key, value) for key, value in report.items() if key not in settings)


def main() -> int:
    """Compare, and say what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkouts", nargs=2, type=Path)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    runs = list(product(BENCHMARKS, given.methods.split(",")))
    differing = 0
    with ThreadPoolExecutor(given.jobs) as pool:
        pairs = [
            [pool.submit(learnt, checkout, *run) for checkout in given.checkouts] for run in runs
        ]
        for run, (before, after) in zip(runs, pairs, strict=True):
            old, new = before.result(), after.result()
            different = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            differing += len(different)
            print(*run, f"{len(old)} alike" if not different else f"{different[:8]} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
