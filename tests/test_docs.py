"""What the documentation shows is run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from gppdm_pipeline.layers import flatten
from gppdm_pipeline.methods import METHODS
from gppdm_pipeline.streams.sources import Source, SourceError

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md"))


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
    options = flatten(METHODS["gppdm"]().model_dump(mode="json"))
    own = {k: v for k, v in options.items() if k != "name" and not k.startswith("classifier.")}
    assert said == own
