"""What is set before anything else is imported, seen from a process of its own."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_end_does_not_look_for_garbage():
    program = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > 1000))  # what is registered first comes last
import gppdm_pipeline.environment
print(gc.isenabled(), gc.get_threshold()[0] >= 100_000, gc.get_freeze_count())
"""
    given = {**os.environ, "PYTHONPATH": str(SOURCES)}
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, env=given, capture_output=True, text=True
    )
    assert run.stdout.splitlines() == ["True True 0", "True"]
