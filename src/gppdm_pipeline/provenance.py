"""What a result was made with, besides its settings."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

import gppdm_pipeline

PACKAGE = Path(__file__).parent
COMPUTING = ("algorithm", "methods", "streams", "images")
"""The parts of the package that decide what is computed."""

REPORTED = ("torch", "diffusers", "numpy", "scikit-learn", "kedro", "mlflow")


@cache
def code_digest() -> str:
    """SHA-256 of the source that decides what is computed."""
    found = hashlib.sha256()
    for part in COMPUTING:
        for file in sorted((PACKAGE / part).rglob("*.py")) or [PACKAGE / part]:
            found.update(file.relative_to(PACKAGE).as_posix().encode() + file.read_bytes())
    return found.hexdigest()


def provenance(folder: Path) -> dict[str, object]:
    """Where something in `folder` was made: the same for all that one machine makes of one commit.

    Args:
        folder: within the project.
    """
    return {
        "git_commit": git_commit(folder),
        "code": code_digest(),
        "versions": {name: version(name) for name in ("numpy", "safetensors")},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "gpu": _gpu(),
        "threads": torch.get_num_threads(),
    }


def environment() -> dict[str, str]:
    """What a run's page names of where it was made; the commit is that of the current folder."""
    versions = {name: version(name) for name in REPORTED}
    return {
        "gppdm_pipeline": gppdm_pipeline.__version__,
        "commit": git_commit(Path.cwd()),
        "python": platform.python_version(),
        **versions,
        "platform": platform.platform(),
        "processor": platform.machine(),
        "gpu": _gpu() or "none",
        "threads": str(torch.get_num_threads()),
    }


def _gpu() -> str | None:
    """The machine's GPU, whether or not a run uses it."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def git_commit(folder: Path) -> str:
    """The commit that `folder` is at, with `-dirty` if files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
