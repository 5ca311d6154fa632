"""Signals that stop a run: as after Ctrl-C, and not in the middle of a call that cannot bear it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def stop_at_signals() -> None:
    """Let SIGTERM and SIGHUP raise SystemExit, unless someone else handles them."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, stop)


@contextmanager
def stops_held() -> Iterator[None]:
    """Let what is in here end before a signal stops the run; a second signal stops it at once.

    An exception that a handler raises comes out of whatever line it happens to meet, and a library
    that meets it while it commits may report a failure of its own in its place.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals do not reach it
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        held.append(number)
        handler = handlers[signal.Signals(number)]
        if len(held) > 1 and callable(handler):
            handler(number, frame)

    for number, handler in handlers.items():
        if callable(handler):
            signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
