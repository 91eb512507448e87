"""--minutes: the plan is cut until it fits, training ends in time, and both are said."""

from __future__ import annotations

import math
import time

import pytest

from tiny import fit
from warmstart.errors import UsageError
from warmstart.planning.forecast import Allowance
from warmstart.run import forecast

SETTINGS = {"training.batch_size": 8}


@pytest.fixture
def speeds(monkeypatch):
    """Says how long a step takes, instead of measuring it."""

    def say(seconds):
        monkeypatch.setattr(forecast, "_time_training", lambda bench, plan: seconds)

    return say


def run(data, minutes, **options):
    events = []
    made = fit(
        data,
        strategy="last:1",
        budget="balanced",
        settings=SETTINGS,
        minutes=minutes,
        on_event=events.append,
        **options,
    )
    return made, events


def steps(seen):
    return [e for e in seen if e.kind == "step" and "job" in e.values]


def test_minutes_enough_change_nothing(pictures, speeds, tmp_path):
    speeds(1e-4)
    made, seen = run(pictures, 100.0)
    training = made.plan.training
    assert (training.folds.value, made.plan.samples_seen) == (5, 1000)
    assert training.epochs.source == "rule"
    # Five hold out 7 or 8 of 36 pictures each, the last learns from all.
    assert len(steps(seen)) == 4 * 101 + 97 + 125
    assert not [e for e in seen if "fit your minutes" in str(e.values.get("text"))]


def test_few_minutes_cut_the_plan_and_say_so(pictures, speeds):
    speeds(0.1)  # 626 steps of six trainings: 63 seconds; of two, as below: 19
    made, seen = run(pictures, 0.4)
    training = made.plan.training
    assert training.folds.value == 1
    assert made.plan.samples_seen < 1000
    assert (training.epochs.source, training.epochs.rule) == ("measured", 27.7778)
    assert training.epochs.because.endswith("to fit --minutes 0.4")
    assert training.augmentations.value <= max(math.ceil(training.epochs.value), 1)
    (told,) = [e.values["text"] for e in seen if e.values.get("title") == "Plan"]
    assert told.splitlines()[1] == (
        "to fit your minutes: trainings that hold images out 1 instead of 5; epochs "
        f"{training.epochs.value:.4g} instead of 27.78"
    )
    assert made.summary.shipped.strategy == "last:1"


def test_where_no_training_fits_the_output_alone_ships(pictures, speeds):
    speeds(100.0)
    made, seen = run(pictures, 0.001)
    assert made.summary.shipped.strategy == "head"
    assert "last:1 was given up, the minutes leave no time for it" in made.summary.shipped.why
    assert not steps(seen)
    (told,) = [e.values["text"] for e in seen if e.values.get("title") == "Plan"]
    assert "last:1 was given up: the minutes leave no time for it" in told


def test_few_minutes_leave_the_close_checks_out_and_say_so(pictures, monkeypatch):
    monkeypatch.setattr(forecast, "skips_controls", lambda minutes, network, n: True)
    events = []
    made = fit(pictures, budget="balanced", minutes=5.0, on_event=events.append)
    (hurry,) = [e.values["text"] for e in events if e.values.get("title") == "Hurry"]
    assert "--budget fast" in hurry
    assert "transfer_gain" not in {one.name for one in made.verdict.evidence}
    events.clear()
    made = fit(pictures, budget="balanced", on_event=events.append)
    assert not [e for e in events if e.values.get("title") == "Hurry"]
    assert "transfer_gain" in {one.name for one in made.verdict.evidence}


def test_where_the_forecast_was_too_low_training_ends_when_the_minutes_do(
    pictures, speeds, monkeypatch
):
    speeds(1e-9)
    monkeypatch.setattr(forecast, "DELIVERY", 100.0)  # nothing is left for training
    made, seen = run(pictures, 0.5)
    notes = [e.values["text"] for e in seen if e.values.get("title") == "Stopped"]
    assert len(notes) == len(steps(seen))
    assert notes[0] == "after 1 of 101 updates: out of time"
    assert made.summary.guards == ()
    assert made.summary.shipped.strategy == "last:1"


def test_minutes_do_not_matter_to_a_head(pictures, monkeypatch):
    monkeypatch.setattr(forecast, "make_forecaster", None)  # nothing is measured
    made = fit(pictures, strategy="head", minutes=0.001)
    assert made.summary.shipped.strategy == "head"


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan"), float("inf")])
def test_minutes_are_a_number_above_0(pictures, minutes):
    with pytest.raises(UsageError, match=r"--minutes .*: it needs a number above 0, such as 5"):
        fit(pictures, minutes=minutes)


def test_what_is_left_is_shared_among_the_trainings_that_are_left():
    now = time.perf_counter()
    allowance = Allowance(now + 100.0)
    shares = [allowance.share(block) - now for block in (0.25, 0.5, 1.0)]
    assert shares == pytest.approx([25.0, 50.0, 100.0], abs=1.0)
    assert Allowance(now - 5.0).share(0.3) == pytest.approx(now, abs=1.0)  # over: as soon as it can
    assert Allowance().share(0.3) is None
