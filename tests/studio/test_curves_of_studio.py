"""The live chart of a studio: a line for each fold, beside its own linear probe."""

from __future__ import annotations

from warmstart.events import BESIDE, Event
from warmstart.studio.studio import ProgressTracker


def begin(**values):
    return Event(stage="fine_tune", kind="begin", values={"trainings": 3, "folds": 2, **values})


def step(n, job, epoch, **values):
    values = {"loss": 0.5, "job": job, "epoch": epoch, **values}
    return Event(stage="fine_tune", kind="step", step=n, of=300, values=values)


def content(*events):
    teller = ProgressTracker(1, "balanced")
    for event in events:
        teller.update(event)
    return {one.fold: (one.points, one.probe) for one in teller.now.curves}


def test_two_folds_are_two_lines_over_their_own_epochs():
    result = content(
        begin(),
        step(10, 1, 1.0, val=0.9, head=0.8),
        step(20, 1, 2.0, val=0.95, head=0.8),
        step(110, 2, 1.0, val=0.7, head=0.6),
        step(115, 2, 1.5),
        step(210, 3, 1.0),
    )
    assert result == {
        "fold 1": (((1.0, 0.9), (2.0, 0.95)), 0.8),
        "fold 2": (((1.0, 0.7),), 0.6),
    }


def test_a_training_that_begins_anew_is_drawn_anew():
    result = content(
        begin(),
        step(10, 1, 1.0, val=0.9, head=0.8),
        step(20, 1, 2.0, val=0.1, head=0.8),
        step(10, 1, 1.0, val=0.85, head=0.8),
    )
    assert result == {"fold 1": (((1.0, 0.85),), 0.8)}


def test_what_is_made_only_to_compare_with_is_not_drawn():
    assert content(begin(**{BESIDE: "scratch"}), step(10, 1, 1.0, val=0.9)) == {}
