"""What is set before anything else is imported, seen from a process of its own."""

import logging
import os
import platform
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from io import StringIO
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from rich.console import Console
from rich.logging import RichHandler

from gppdm_pipeline.environment import ignore_known_warnings

SOURCES = Path(__file__).parents[1] / "src"

ALLOCATE = """
import resource
size = 12 << 20
def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def layers():
    return len([b"x" * size for _ in range(6)])
layers()
before = pages()
for _ in range(10):
    layers()
print(pages() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is the GNU C library's")
def test_memory_that_is_freed_is_used_again():
    def pages_of(code):
        given = {**os.environ, "PYTHONPATH": str(SOURCES)}
        command = [sys.executable, "-c", code]
        run = subprocess.run(command, check=False, env=given, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return int(run.stdout)

    once = 6 * 12 * 2**20 / 4096
    assert pages_of("import gppdm_pipeline.environment\n" + ALLOCATE) < once
    assert pages_of(ALLOCATE) > 5 * once


def test_each_file_of_requirements_pins_what_its_part_needs():
    of_gpus = re.compile("nvidia-|cuda-|triton$")  # which torch asks for where it is built for them

    def canonical(name):
        return re.sub(r"[-_.]+", "-", name).lower()

    def needed(names):
        """With all that those need, as it is installed."""
        found, to_do = set(), [Requirement(name) for name in names]
        while to_do:
            asked = to_do.pop()
            key = (canonical(asked.name), frozenset(asked.extras))
            if key in found:
                continue
            found.add(key)
            extras = ["", *asked.extras]
            for further in map(Requirement, requires(asked.name) or ()):
                marker = further.marker
                if not of_gpus.match(canonical(further.name)) and (
                    marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)
                ):
                    to_do.append(further)
        return {name for name, _ in found}

    def pinned(file):
        lines = (SOURCES.parent / file).read_text().splitlines()
        return {canonical(line.partition("==")[0]) for line in lines if "==" in line}

    project = tomllib.loads((SOURCES.parent / "pyproject.toml").read_text())["project"]
    base = needed(project["dependencies"])
    assert pinned("requirements.txt") == base
    added = needed(project["optional-dependencies"]["dvc"]) - base
    assert pinned("requirements-dvc.txt") == added
    assert "-r requirements-dvc.txt" in (SOURCES.parent / "requirements-dev.txt").read_text()


def test_an_audit_that_looks_nothing_up_fails():
    lines = subprocess.run(
        ["make", "-n", "-o", ".venv/dev.stamp", "audit"],
        cwd=SOURCES.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "pip-audit --strict " in lines


def test_brackets_of_a_path_are_no_markup_of_richs():
    shown = Console(file=StringIO(), width=200)
    handler = RichHandler(console=shown, markup=True)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        ignore_known_warnings()
        logging.getLogger("gppdm_pipeline").warning("%s cannot be read", "a [v2]/b[/x]")
    finally:
        root.removeHandler(handler)
    assert "a [v2]/b[/x] cannot be read" in shown.file.getvalue()


def test_the_end_does_not_look_for_garbage():
    program = """
import atexit, gc
frozen = gc.get_freeze_count()  # some from the beginning on, since 3.12
atexit.register(lambda: print(gc.get_freeze_count() > frozen + 1000))  # the first comes last
import gppdm_pipeline.environment
print(gc.isenabled(), gc.get_threshold()[0] >= 100_000, gc.get_freeze_count() - frozen)
"""
    given = {**os.environ, "PYTHONPATH": str(SOURCES)}
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, env=given, capture_output=True, text=True
    )
    assert run.stdout.splitlines() == ["True True 0", "True"]
