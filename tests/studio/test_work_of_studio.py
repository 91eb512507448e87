"""One learning at a time: how it ends, whatever a stop meets."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from warmstart.errors import DataError, UsageError
from warmstart.events import Event
from warmstart.studio.studio import Worker

STEP = Event(stage="features", kind="step", step=1, of=2)


class Told:
    """A worker, and what it told."""

    def __init__(self):
        self.seen, self.done = [], []
        self.worker = Worker(self.seen.append, self.done.append)

    def run(self, steps, number=1):
        self.worker.begin(number, "fast", steps)
        self.worker.wait(10)


def one_step():
    yield STEP


@pytest.fixture
def content():
    return Told()


def test_a_run_that_ends_is_told_of_once_and_another_may_begin(content):
    content.run(one_step)
    content.run(one_step, number=2)
    assert content.done == [1, 2]
    assert content.worker.now.state == "idle"
    turns = [one.turn for one in content.seen]
    assert turns == sorted(set(turns))


def test_a_stop_in_the_middle_closes_the_work(content):
    closed, begun = [], threading.Event()

    def steps():
        try:
            while True:
                begun.set()
                yield STEP
        finally:
            closed.append(True)

    content.worker.begin(1, "fast", steps)
    assert begun.wait(10)
    with pytest.raises(UsageError, match="a run is in progress"):
        content.worker.begin(2, "fast", steps)
    content.worker.stop()
    content.worker.wait(10)
    assert closed == [True]
    assert content.done == []
    assert content.worker.now.state == "stopped"


def test_a_stop_after_the_last_event_finds_it_done(content):
    def steps():
        yield STEP
        content.worker.stop()

    content.run(steps)
    assert content.done == [1]
    assert content.worker.now.state == "idle"


def test_a_stop_when_it_is_over_changes_nothing(content):
    content.run(one_step)
    content.worker.stop()
    assert content.worker.now.state == "idle"
    content.run(one_step, number=2)
    assert content.done == [1, 2]


@pytest.mark.parametrize(
    ("error", "words"),
    [(DataError("the data are gone"), "the data are gone"), (KeyError("x"), "this is a bug in")],
)
def test_a_failure_is_told_and_does_not_block(content, error, words):
    def steps():
        yield STEP
        raise error

    content.run(steps)
    assert content.worker.now.state == "failed"
    assert words in content.worker.now.error
    content.run(one_step, number=2)
    assert content.done == [2]


@pytest.mark.parametrize("end", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_ended_from_outside_has_stopped_and_can_be_gone_on_with(content, end):
    def steps():
        yield STEP
        raise end

    content.run(steps)
    assert content.worker.status().state == "stopped"
    assert content.seen[-1].state == "stopped"
    content.run(one_step)
    assert content.done == [1]


def test_a_thread_that_is_gone_without_a_word_is_noticed(content):
    """Nothing was told of its end: whoever looks finds out, and so does whoever begins anew."""
    content.run(one_step)
    content.worker.now = replace(content.worker.now, state="working")  # its last word was lost
    assert content.worker.status().state == "stopped"
    assert content.seen[-1].state == "stopped"
    content.worker.now = replace(content.worker.now, state="stopping")
    content.run(one_step, number=2)
    assert content.worker.status().state == "idle"


def test_a_thread_that_works_is_left_alone(content):
    begun, go = threading.Event(), threading.Event()

    def steps():
        yield STEP
        begun.set()
        go.wait(10)

    content.worker.begin(1, "fast", steps)
    assert begun.wait(10)
    assert content.worker.status().state == "working"
    go.set()
    content.worker.wait(10)
    assert content.worker.status().state == "idle"
