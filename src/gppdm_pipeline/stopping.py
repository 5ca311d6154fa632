"""Signals that stop a run as Ctrl-C does, but not in the middle of a call that has to end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_SOON = 0.05  # seconds


def stop_at_signals() -> None:
    """Let SIGTERM and SIGHUP raise SystemExit, unless someone else handles them.

    What they or Ctrl-C raise where Python ignores exceptions (in a finaliser, in the callback of a
    weak reference, as importing has) is raised again soon after.
    """

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, stop)
        if not isinstance(sys.unraisablehook, _StopAgain):
            sys.unraisablehook = _StopAgain(sys.unraisablehook)


@dataclass(frozen=True)
class _StopAgain:
    """Told of an exception that is ignored: if it was to stop the run, the signal comes again."""

    earlier: Callable[[UnraisableHookArgs], object]

    def __call__(self, ignored: UnraisableHookArgs) -> None:
        stops: dict[object, int] = {128 + n: n for n in (signal.SIGTERM, signal.SIGHUP)}
        error, number = ignored.exc_value, None
        if isinstance(error, KeyboardInterrupt):
            number = int(signal.SIGINT)
        elif isinstance(error, SystemExit):
            number = stops.get(error.code)
        if number is None:
            self.earlier(ignored)
            return
        timer = threading.Timer(_SOON, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()


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
