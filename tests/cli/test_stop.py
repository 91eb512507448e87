"""Ctrl-C: the first ends the work at its next event, the second at once."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from warmstart.cli.main import main
from warmstart.cli.stop import STOPPING, stoppable
from warmstart.events import Event

EXTRACTION = Event(stage="features", kind="step", step=1, of=3, t=0.0)
BEGIN = Event(stage="read", kind="note", values={"folder": "runs/my photos"}, t=0.0)


@pytest.fixture(autouse=True)
def _as_it_was():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) == handler
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_at_the_next_event(number, capfd):
    events, after = [], []

    def work(see):
        see(EXTRACTION)
        os.kill(os.getpid(), number)
        after.append("the step goes on to its end")
        see(EXTRACTION)
        after.append("nothing after it does")

    with pytest.raises(KeyboardInterrupt) as caught, stoppable(events.append) as see:
        work(see)
    assert after == ["the step goes on to its end"]
    assert events == [EXTRACTION, EXTRACTION]  # what happened is shown before it stops
    assert caught.value.args == ()  # no folder was made yet
    assert capfd.readouterr() == ("", STOPPING + "\n")


def test_the_second_signal_stops_at_once(capfd):
    after = []

    def work(see):
        see(BEGIN)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        after.append("nothing")

    with pytest.raises(KeyboardInterrupt) as caught, stoppable(lambda event: None) as see:
        work(see)
    assert after == []
    assert caught.value.args == ("runs/my photos",)
    assert capfd.readouterr().err == STOPPING + "\n"  # once


def test_a_signal_after_the_last_event_lets_the_work_come_to_its_end(capfd):
    with stoppable(lambda event: None) as see:
        see(EXTRACTION)
        os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_have_no_signals():
    events = []

    def work():
        with stoppable(events.append) as see:
            see(EXTRACTION)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert events == [EXTRACTION]


def test_a_closed_stderr_is_no_reason_to_go_on(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)

    def work(see):
        os.kill(os.getpid(), signal.SIGINT)
        see(EXTRACTION)

    with pytest.raises(KeyboardInterrupt), stoppable(lambda event: None) as see:
        work(see)


def test_an_interrupted_fit_names_its_run(work, monkeypatch, capfd):
    """The second event comes after the signal."""

    def steps(request):
        yield BEGIN
        os.kill(os.getpid(), signal.SIGINT)
        yield EXTRACTION
        raise AssertionError("it went on")

    monkeypatch.setattr(sys.modules["warmstart.run.fit"], "fit", steps)
    assert main(["fit", "my photos", "-q"]) == 130
    assert capfd.readouterr().err.splitlines() == [
        STOPPING,
        "Interrupted; what was computed is kept. Continue with: warmstart resume 'runs/my photos'",
    ]
