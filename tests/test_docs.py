"""What the documentation shows is run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter
from tests.reference import tiny_encoder

from gppdm_pipeline.configuration.experiment import resolve
from gppdm_pipeline.configuration.layers import Layer, flatten
from gppdm_pipeline.configuration.params import parse
from gppdm_pipeline.methods import METHODS
from gppdm_pipeline.streams.sources import Source, SourceError

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md"))
SHOWN = sorted(
    {
        params.strip(".,")
        for page in PAGES
        for params in re.findall(
            r"--params=([^\s`\"')]+)", re.sub(r"\\\n\s*", "", page.read_text())
        )
        if "=" in params and "<" not in params and "..." not in params
    }
)


@pytest.mark.slow
def test_the_library_guide_runs():
    page = (ROOT / "docs/how-to/use-as-a-library.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    quick, replaced = re.subn(r'"steps": \d+', '"steps": 3', code)
    assert replaced == 2
    result = subprocess.run(
        [sys.executable, "-c", quick],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
    )
    first, second = result.stdout.splitlines()
    assert first.startswith("1 (0, 1) ")
    assert second.startswith("2 (0, 1, 2, 3) ")


def test_sources_in_the_guide_to_data_are_valid():
    page = (ROOT / "docs/how-to/data.md").read_text()
    examples = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert len(examples) >= 8
    for example in examples:
        try:
            TypeAdapter(Source).validate_python(example["source"])
        except SourceError as error:  # its names of classes are in files that are not here
            assert "data/01_raw" in str(error)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


def test_the_table_of_options_names_each_with_its_default():
    page = (ROOT / "docs/method.md").read_text()
    _, table = page.split("## All options of the generator")
    rows = re.findall(r"^\| `([a-z_.]+)` \| `([^`]*)` \|", table.split("\n## ")[0], flags=re.M)
    said = {key: yaml.safe_load(value) for key, value in rows}
    gppdm = METHODS["gppdm"]()
    options = flatten(gppdm.model_dump(mode="json"))
    options |= {f"adapters.{key}": value for key, value in gppdm.adapters}  # files leave some out
    own = {k: v for k, v in options.items() if k != "name" and not k.startswith("classifier.")}
    assert said == own


@pytest.mark.parametrize("params", SHOWN)
def test_settings_in_commands_are_valid(params, monkeypatch, tmp_path):
    tiny_encoder.install(monkeypatch, tmp_path)
    conf = ROOT / "conf/base"
    presets, spaces = (
        {
            file.stem: Layer(yaml.safe_load(file.read_text())[file.stem], lambda _, f=file: f.name)
            for file in (conf / kind).glob("*.yml")
        }
        for kind in ("benchmarks", "spaces")
    )
    defaults = yaml.safe_load((conf / "parameters.yml").read_text())
    layers = [Layer(defaults, lambda _: "parameters.yml"), Layer(parse(params), lambda _: params)]
    try:
        assert resolve(presets, layers, spaces).method in METHODS
    except SourceError as error:  # its images are not here
        assert "data/01_raw" in str(error) or "/usr/share" in str(error)


def test_there_are_commands_to_hold():
    assert len(SHOWN) > 8


TARGETS = ("sweep", "ablation", "crossed", "memory", "sums", "options", "results", "gpu")


@pytest.mark.parametrize("target", TARGETS)
def test_makefile_starts_what_it_says(target):
    """Without an installed package."""
    lines = subprocess.run(
        ["make", "-n", "-o", ".venv/run.stamp", target, "ARGS=--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.splitlines()
    # Make within make says more than the commands.
    (line,) = (line for line in lines if "-m gppdm_pipeline" in line)
    command = line.replace(".venv/bin/python", shlex.quote(sys.executable))
    assert sys.executable in command
    if target in ("sweep", "gpu"):  # the others differ in a plan's file
        shown = subprocess.run(
            ["/bin/sh", "-c", command], capture_output=True, text=True, cwd=ROOT, env={}, check=True
        ).stdout
        assert "Usage" in shown
    else:
        assert command.startswith("PYTHONPATH=src ")
        assert (ROOT / command.split("gppdm_pipeline.plan ")[1].split()[0]).exists()
