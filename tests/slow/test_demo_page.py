"""The demo in a real browser: nothing of it comes from elsewhere."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from tests.reference.browser import CHROMIUM, PATIENCE, browser
from tests.reference.tiny import images_of
from tests.test_demo import run_in

pytest.importorskip("gradio")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: `make test-browser` installs it"),
]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def address(tmp_path):
    """Of the demo, once it answers."""
    run_in(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "gppdm_pipeline.demo", f"--port={port}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    try:
        end = time.monotonic() + 10 * PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, "the demo has ended"
                assert time.monotonic() < end, "the demo does not answer"
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def click(page, selector, text):
    """The visible element that says so."""
    found = (
        f"[...document.querySelectorAll({json.dumps(selector)})]"
        f".find(each => each.innerText.trim() === {json.dumps(text)} && each.offsetParent)"
    )
    page.wait_for(f"!!{found}")
    page.value(f"{found}.click()")


def in_block(selector, label):
    """The element in the part of the page that is called so."""
    inside = f"e.closest('.block')?.innerText.includes({json.dumps(label)})"
    return f"[...document.querySelectorAll({json.dumps(selector)})].find(e => {inside})"


def upload(page, label, files):
    wanted = in_block("input[type=file]", label)
    page.wait_for(f"!!{wanted}")
    found = page.call("Runtime.evaluate", expression=wanted)["result"]
    page.call("DOM.setFileInputFiles", files=[*map(str, files)], objectId=found["objectId"])


def draw_a_stroke(page):
    page.wait_for("!!document.querySelector('[aria-label=Brush]')")
    page.value("document.querySelector('[aria-label=Brush]').click()")
    page.wait_for("!!document.querySelector('[aria-label=\"Brush Size\"]')")
    box = "document.querySelector('canvas').getBoundingClientRect()"
    x, y = page.value(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({box})")
    moves = [("mouseMoved", 0, 0), ("mousePressed", 0, 1)]
    moves += [("mouseMoved", shift, 1) for shift in (10, 20, 30)] + [("mouseReleased", 30, 0)]
    for kind, shift, buttons in moves:
        button = {"button": "left" if buttons or shift else "none", "buttons": buttons}
        place = {"x": x + shift, "y": y + shift, "clickCount": 1}
        page.call("Input.dispatchMouseEvent", type=kind, **place, **button)
        time.sleep(0.2)  # as a hand does


def test_one_draws_drops_replays_and_teaches(address, tmp_path):
    files = []
    for label in (0, 1):
        for number, pixels in enumerate(images_of(label, per_class=4).images):
            files.append(tmp_path / f"{label}_{number}.png")
            Image.fromarray(pixels[..., 0]).resize((32, 32), 0).save(files[-1])
    with browser(tmp_path / "profile") as page:
        page.open(address)
        page.wait_for("document.body.innerText.includes('Or drop')")
        said = "document.querySelector('[data-testid=label-output-value]')?.innerText ?? ''"

        draw_a_stroke(page)
        page.wait_for(f"/cat|fox/.test({said})")
        page.value("document.querySelector('[aria-label=\"Clear canvas\"]').click()")
        page.wait_for(f"!/cat|fox/.test({said})")

        upload(page, "Or drop", files[:1])
        page.wait_for(f"/cat|fox/.test({said})")

        click(page, "button[role=tab]", "Replay")
        click(page, "button", "Draw its replay")
        page.wait_for(
            "document.querySelectorAll('.gallery-item img, .thumbnail-item img').length >= 16"
        )

        click(page, "button[role=tab]", "Add a class")
        page.value(f"{in_block('textarea, input[type=text]', 'Name of the class')}.focus()")
        page.call("Input.insertText", text="bat")
        upload(page, "Its images", files[4:])
        page.wait_for("document.body.innerText.includes('1_3')")
        click(page, "button", "Learn it")
        number = r"\s+[\d.]+"
        rows = rf"/cat\s+6{number}{number}\s+fox\s+6{number}{number}\s+bat\s+4{number}/"
        page.wait_for(f"{rows}.test(document.body.innerText)")  # class, images, before, after

        elsewhere = [
            url for url in page.requests if not url.startswith((address, "data:", "blob:"))
        ]
        assert elsewhere == []
