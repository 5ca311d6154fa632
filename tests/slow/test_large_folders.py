"""Memory does not grow with the number of images: docs/performance.md at a tenth of the size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def test_a_thousand_classes_are_prepared_split_and_read_in_little_memory(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/prepare_images.py")]
    options = ["--folder", str(tmp_path / "images"), "--classes", "1000", "--per-class", "10"]
    done = subprocess.run(
        command + options,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    steps = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert list(steps) == ["make", "prepare", "split", "iterate"]
    for name in ("prepare", "split", "iterate"):
        figures = json.loads(steps[name])
        assert figures["images"] == 10_000
        assert figures["peak_resident_GB"] < 0.5
    assert not (tmp_path / "images").exists()
