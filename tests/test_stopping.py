from __future__ import annotations

import signal
import sys
import threading
import time
import weakref

import pytest
from sqlalchemy.exc import InvalidRequestError

from gppdm_pipeline.run.tracking import Tracker
from gppdm_pipeline.stopping import stop_at_signals, stops_held

STOPS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit, signal.SIGHUP: SystemExit}


@pytest.fixture(autouse=True)
def handlers():
    """Those of a run in a terminal, for the time of a test: in the background, some are ignored."""
    before = {number: signal.getsignal(number) for number in STOPS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stop_at_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_that_python_ignores_comes_again(number, monkeypatch):
    others = []
    monkeypatch.setattr(sys, "unraisablehook", others.append)
    stop_at_signals()
    hook = sys.unraisablehook
    stop_at_signals()
    assert sys.unraisablehook is hook  # once is enough

    def ignored(action):
        thing = Swallowing(number)
        reference = weakref.ref(thing, lambda _: action())
        del thing
        return reference

    with pytest.raises(STOPS[number]):
        ignored(lambda: signal.raise_signal(number))
        time.sleep(10)
    assert not others
    ignored(lambda: 1 / 0)
    assert [args.exc_type for args in others] == [ZeroDivisionError]


class Swallowing:
    """A client that reports a failure of its own when it is interrupted, as SQLAlchemy may."""

    def __init__(self, number):
        self.number, self.logged = number, False

    def set_terminated(self, run_id, status):
        try:
            signal.raise_signal(self.number)
            self.logged = True
        except BaseException:
            raise InvalidRequestError("This transaction is closed") from None


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_waits_until_mlflow_has_been_told(number):
    client = Swallowing(number)
    tracker = Tracker(client, "run")
    with pytest.raises(STOPS[number]):
        tracker.finish("FINISHED")
    assert client.logged
    assert not tracker.lost


def test_a_second_signal_stops_at_once_and_handlers_come_back():
    before = {number: signal.getsignal(number) for number in STOPS}
    with pytest.raises(SystemExit), stops_held():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert {number: signal.getsignal(number) for number in STOPS} == before
    with stops_held():
        pass
    assert {number: signal.getsignal(number) for number in STOPS} == before


def test_signals_that_nothing_handles_are_left_alone_and_threads_hold_none():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stops_held():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.raise_signal(signal.SIGHUP)

    def hold():
        before = signal.getsignal(signal.SIGTERM)
        with stops_held():
            seen.append(signal.getsignal(signal.SIGTERM) is before)

    seen = []
    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert seen == [True]
