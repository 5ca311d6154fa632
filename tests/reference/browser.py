"""A real browser for tests: headless Chromium, spoken to over its DevTools protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from contextlib import contextmanager

from websockets.sync.client import connect

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
PATIENCE = 60  # seconds


class Page:
    """One page, and what happened on it.

    Attributes:
        requests: the URL of everything that was asked for.
        errors: what went wrong, as the console would say it.
    """

    def __init__(self, socket):
        self._socket, self._session, self._number = socket, None, 0
        self.requests, self.errors, self._seen = [], [], set()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        return self._until(lambda answer: answer.get("id") == self._number)["result"]

    def open(self, url, width=1000, height=900, mobile=False):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )
        self.requests.clear()
        self.errors.clear()
        self._seen.discard("Page.loadEventFired")
        failed = self.call("Page.navigate", url=url).get("errorText")
        assert not failed, failed
        if "Page.loadEventFired" not in self._seen:
            self._until(lambda event: event.get("method") == "Page.loadEventFired")

    def value(self, expression):
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression):
        """Until the expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.value(expression):
            assert time.monotonic() < end, f"{expression} is not true after {PATIENCE} s"
            time.sleep(0.2)

    def screenshot(self, whole=True):
        return base64.b64decode(
            self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        )

    def _until(self, wanted):
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            assert "error" not in message, message["error"]
            self._note(message.get("method"), message.get("params", {}))
            if wanted(message):
                return message

    def _note(self, method, params):
        self._seen.add(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.errors.append(str(params["args"]))


@contextmanager
def browser(profile):
    """A page of a browser of its own, whose profile is in the folder `profile`."""
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-first-run",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port, path = _address(profile, process)
        address = f"ws://127.0.0.1:{port}{path}"
        with connect(address, max_size=None, open_timeout=PATIENCE) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait()


def _address(profile, process):
    file, end = profile / "DevToolsActivePort", time.monotonic() + PATIENCE
    while not (file.exists() and len(lines := file.read_text().split()) == 2):
        assert process.poll() is None, "the browser has ended"
        assert time.monotonic() < end, "the browser does not answer"
        time.sleep(0.1)
    return lines
