"""The notebook runs, on a run as small as it can be, and is kept without what it has shown."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tests.reference.runs import (
    ROOT,
    TINY,
    run,
)

pytestmark = pytest.mark.usefixtures("project")

NOTEBOOK = ROOT / "notebooks" / "explore_run.ipynb"


@pytest.mark.filterwarnings("ignore")  # of jupyter_client
@pytest.mark.parametrize(
    ("label_dropout", "weight"), [pytest.param(0.0, "0.0", marks=pytest.mark.slow), (0.1, "8.0")]
)
def test_the_notebook_runs_on_a_finished_run(monkeypatch, label_dropout, weight):
    denoiser = {**TINY["gppdm"]["denoiser"], "label_dropout": label_dropout}
    params = {**TINY, "method": "gppdm", "gppdm": {**TINY["gppdm"], "denoiser": denoiser}}
    run(params)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    settings = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert settings.source.count("PARAMS = ") == 1
    settings.source = f'PARAMS = {params}\nCLASS, OTHER = "0", "6"\nIMAGES = 16'
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": Path.cwd()}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 5
    assert "**digits/gppdm/seed_0**: average accuracy" in str(shown)
    assert str(shown).count("spread over images") == (4 if label_dropout else 1)
    assert f"guidance {weight}: spread over images" in str(shown)
    assert [output for output in shown if output.get("name") == "stderr"] == []


def test_the_notebook_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
