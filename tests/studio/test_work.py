"""One run at a time: how it ends, whatever a stop meets, and its live chart."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from warmstart.errors import DataError, UsageError
from warmstart.events import BESIDE, Event
from warmstart.studio.studio import ProgressTracker, Worker

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
def told():
    return Told()


def test_a_run_that_ends_is_told_of_once_and_another_may_begin(told):
    told.run(one_step)
    told.run(one_step, number=2)
    assert told.done == [1, 2]
    assert told.worker.now.state == "idle"
    turns = [one.turn for one in told.seen]
    assert turns == sorted(set(turns))


def test_a_stop_in_the_middle_closes_the_work(told):
    closed, begun = [], threading.Event()

    def steps():
        try:
            while True:
                begun.set()
                yield STEP
        finally:
            closed.append(True)

    told.worker.begin(1, "fast", steps)
    assert begun.wait(10)
    with pytest.raises(UsageError, match="a run is in progress"):
        told.worker.begin(2, "fast", steps)
    told.worker.stop()
    told.worker.wait(10)
    assert closed == [True]
    assert told.done == []
    assert told.worker.now.state == "stopped"


def test_a_stop_at_or_after_the_end_changes_nothing(told):
    def steps():
        yield STEP
        told.worker.stop()

    told.run(steps)
    told.worker.stop()
    assert told.worker.now.state == "idle"
    told.run(one_step, number=2)
    assert told.done == [1, 2]


@pytest.mark.parametrize(
    ("error", "words"),
    [(DataError("the data are gone"), "the data are gone"), (KeyError("x"), "this is a bug in")],
)
def test_a_failure_is_told_and_does_not_block(told, error, words):
    def steps():
        yield STEP
        raise error

    told.run(steps)
    assert told.worker.now.state == "failed"
    assert words in told.worker.now.error
    told.run(one_step, number=2)
    assert told.done == [2]


@pytest.mark.parametrize("end", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_ended_from_outside_has_stopped_and_can_be_gone_on_with(told, end):
    def steps():
        yield STEP
        raise end

    told.run(steps)
    assert told.worker.status().state == "stopped"
    assert told.seen[-1].state == "stopped"
    told.run(one_step)
    assert told.done == [1]


def test_a_thread_that_is_gone_without_a_word_is_noticed(told):
    """Nothing was told of its end: whoever looks finds out, and so does whoever begins anew."""
    told.run(one_step)
    told.worker.now = replace(told.worker.now, state="working")  # its last word was lost
    assert told.worker.status().state == "stopped"
    assert told.seen[-1].state == "stopped"
    told.worker.now = replace(told.worker.now, state="stopping")
    told.run(one_step, number=2)
    assert told.worker.status().state == "idle"


# ---- The live chart: a line for each fold, beside its own linear probe.


def begin(**values):
    return Event(stage="fine_tune", kind="begin", values={"trainings": 3, "folds": 2, **values})


def step(n, job, epoch, **values):
    values = {"loss": 0.5, "job": job, "epoch": epoch, **values}
    return Event(stage="fine_tune", kind="step", step=n, of=300, values=values)


def curves(*events):
    tracker = ProgressTracker(1, "balanced")
    for event in events:
        tracker.update(event)
    return {one.fold: (one.points, one.probe) for one in tracker.now.curves}


def test_two_folds_are_two_lines_over_their_own_epochs():
    result = curves(
        begin(),
        step(10, 1, 1.0, val=0.9, head=0.8),
        step(20, 1, 2.0, val=0.95, head=0.8),
        step(110, 2, 1.0, val=0.7, head=0.6),
        step(115, 2, 1.5),
        step(210, 3, 1.0),
    )
    assert result == {"fold 1": (((1.0, 0.9), (2.0, 0.95)), 0.8), "fold 2": (((1.0, 0.7),), 0.6)}


def test_a_training_that_begins_anew_is_drawn_anew():
    result = curves(
        begin(),
        step(10, 1, 1.0, val=0.9, head=0.8),
        step(20, 1, 2.0, val=0.1, head=0.8),
        step(10, 1, 1.0, val=0.85, head=0.8),
    )
    assert result == {"fold 1": (((1.0, 0.85),), 0.8)}


def test_what_is_made_only_to_compare_with_is_not_drawn():
    assert curves(begin(**{BESIDE: "scratch"}), step(10, 1, 1.0, val=0.9)) == {}
