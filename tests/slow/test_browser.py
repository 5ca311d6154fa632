"""Pages in a real browser: reports of runs and comparisons, and MLflow's."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from kedro.framework.project import configure_project
from kedro.runner import SequentialRunner
from tests.reference.browser import CHROMIUM, PATIENCE, browser
from tests.reference.runs import (
    ROOT,
    TINY,
    client,
)

from gppdm_pipeline.run.session import Session

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: `make test-browser` installs it"),
]

PHONE = {"width": 390, "height": 844, "mobile": True}
LAID_OUT = "[document.documentElement.scrollWidth, window.innerWidth]"
IMAGES = "[...document.images].map(image => image.complete && image.naturalWidth > 0)"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Two runs of two methods, and their comparison."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "conf", folder / "conf")
    before = Path.cwd()
    os.chdir(folder)
    configure_project("gppdm_pipeline")
    try:
        for pipeline, method in (
            ("continual", "gppdm"),
            ("continual", "finetune"),
            ("compare", "gppdm"),
        ):
            given = {**TINY, "method": method}
            with Session.create(project_path=folder, runtime_params=given) as session:
                session.run(pipeline_names=[pipeline], runner=SequentialRunner())
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


PAGES = {
    "digits/gppdm/seed_0/report.html": 12,
    "digits/finetune/seed_0/report.html": 7,
    "digits/comparison/comparison.html": 3,
}


@pytest.mark.parametrize("size", [PHONE, {"width": 1000}], ids=["phone", "desk"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_from_its_file(project, page, name, size):
    file = project / "data/08_reporting" / name
    page.open(file.as_uri(), **size)
    asked = [url for url in page.requests if not url.startswith("data:")]
    assert asked == [file.as_uri()]
    assert page.errors == []
    assert page.value(IMAGES) == [True] * PAGES[name]
    content, width = page.value(LAID_OUT)
    assert content <= width == size["width"]
    assert file.stat().st_size < 5e6


def test_what_is_wrong_with_a_page_is_seen(page, tmp_path):
    """The checks above can fail."""
    file = tmp_path / "bad.html"
    file.write_text(
        '<img src="nowhere.png"><div style="width: 800px">wide</div><script>x.y()</script>'
    )
    page.open(file.as_uri(), **PHONE)
    assert len(page.requests) == 2
    assert page.errors
    assert page.value(IMAGES) == [False]
    assert page.value("document.documentElement.scrollWidth") > 390


@pytest.fixture(scope="module")
def mlflow_ui(project):
    """The address of MLflow's server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", "sqlite:///mlflow.db"]
    server = subprocess.Popen(
        command,
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, server)
        yield address
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def _wait_for(address, server):
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, "MLflow's server has ended"
            assert time.monotonic() < end, "MLflow's server does not answer"
            time.sleep(0.5)


def test_mlflow_shows_the_runs_side_by_side(mlflow_ui, page):
    experiment = client().get_experiment_by_name("digits")
    found = client().search_runs([experiment.experiment_id], "tags.method != ''")
    assert {run.info.run_name for run in found} == {"gppdm seed 0", "finetune seed 0"}
    runs = json.dumps([run.info.run_id for run in found])
    page.open(f'{mlflow_ui}/#/compare-runs?runs={runs}&experiments=["{experiment.experiment_id}"]')
    for name in ("gppdm seed 0", "finetune seed 0", "average_accuracy"):
        page.wait_for(f"document.body.innerText.includes({json.dumps(name)})")
    elsewhere = [url for url in page.requests if not url.startswith((mlflow_ui, "data:", "blob:"))]
    assert elsewhere == []
