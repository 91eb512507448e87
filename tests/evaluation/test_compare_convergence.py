"""How soon a training was near its end, from the events of runs of every kind."""

from __future__ import annotations

import pytest

from warmstart.evaluation.compare import Convergence, Point, convergence
from warmstart.events import Event

BEGIN = Event(stage="read", kind="note", values={"folder": "runs/a", "read": 2.0}, t=100.0)


def training(number, vals, *, t, each=10, trainings=3, head=None):
    """The updates of one training, a second each, with a look at every second one."""
    for update in range(1, each + 1):
        values = {"loss": 1.0, "job": number}
        if update % 2 == 0 and vals:
            values["val"] = vals[update // 2 - 1]
            if head is not None:
                values["head"] = head
        step = each * (number - 1) + update
        yield Event(
            stage="fine_tune",
            kind="step",
            step=step,
            of=each * trainings,
            values=values,
            t=t + update,
        )


def tuned(*trainings, t=100.0):
    return [BEGIN, Event(stage="fine_tune", kind="begin", values={"trainings": 3}, t=t), *trainings]


def test_the_mean_of_the_trainings_that_hold_rows_out():
    events = tuned(
        *training(1, [0.2, 0.4, 0.8, 0.8, 0.8], t=100.0),
        *training(2, [0.4, 0.6, 0.6, 0.8, 0.8], t=110.0),
        *training(3, [], t=120.0),
    )
    course = convergence(events, None)
    assert course.updates == 30
    assert [(p.updates, p.value) for p in course.points] == [
        (2, pytest.approx(0.3)),
        (4, pytest.approx(0.5)),
        (6, pytest.approx(0.7)),
        (8, pytest.approx(0.8)),
        (10, pytest.approx(0.8)),
    ]
    near = course.near_end()
    assert (near.updates, near.seconds) == (8, 2.0 + 8.0)  # of the first training


def test_trainings_that_hold_rows_out_make_fewer_updates_than_the_last():
    """Two halves of 6 updates, then 12: looks after as many updates belong together."""
    events = [BEGIN, Event(stage="fine_tune", kind="begin", values={"trainings": 3}, t=100.0)]
    for number, before, count in ((1, 0, 6), (2, 6, 6), (3, 12, 12)):
        for update in range(1, count + 1):
            values = {"loss": 1.0, "job": number}
            if number < 3 and update % 3 == 0:
                values["val"] = 0.2 * number + 0.1 * update
            step = before + update
            events.append(
                Event(stage="fine_tune", kind="step", step=step, of=24, values=values, t=1.0)
            )
    course = convergence(events, None)
    assert course.updates == 24
    assert [(p.updates, round(p.value, 2)) for p in course.points] == [(3, 0.6), (6, 0.9)]


def test_trainings_made_to_compare_with_are_no_part_of_it():
    """Those of `thorough` from nothing have numbers of their own, which begin at 1 again."""
    events = tuned(*training(1, [0.2, 0.4, 0.8, 0.8, 0.8], t=100.0))
    begin = Event(stage="fine_tune", kind="begin", values={"trainings": 9, "beside": "scratch"})
    beside = [begin, *training(1, [0.9] * 5, t=200.0), *training(2, [0.1] * 5, t=210.0)]
    assert convergence([*events, *beside], None) == convergence(events, None)


def test_a_fitted_output_is_where_training_began():
    events = tuned(*training(1, [0.8] * 5, t=100.0, head=0.79))
    assert convergence(events, 1.5).points[0] == Point(0, 0.79, 1.5)
    assert convergence(events, 1.5).near_end() == Point(0, 0.79, 1.5)
    assert convergence(events, None).near_end().updates == 2  # from nothing: it knew nothing
    poor = tuned(*training(1, [0.8] * 5, t=100.0, head=0.5))
    assert convergence(poor, 1.5).near_end().updates == 2


def test_a_training_that_began_anew_counts_from_its_new_beginning():
    guard = Event(stage="fine_tune", kind="guard", values={"guard": "diverged"}, t=111.0)
    events = tuned(
        *training(1, [0.9] * 5, t=100.0), guard, *training(1, [0.1, 0.2, 0.6, 0.6, 0.6], t=111.0)
    )
    course = convergence(events, None)
    assert course.updates == 20
    assert course.near_end().updates == 6
    # A guard of the next training says nothing of the one before.
    events = tuned(*training(1, [0.9] * 5, t=100.0), guard, *training(2, [0.9] * 5, t=111.0))
    assert [point.value for point in convergence(events, None).points] == [0.9] * 5


def test_a_guard_that_tells_of_the_end_changes_nothing():
    overfit = Event(stage="fine_tune", kind="guard", values={"guard": "overfit"}, t=111.0)
    events = tuned(*training(1, [0.5] * 5, t=100.0), overfit, *training(1, [0.9] * 5, t=120.0))
    assert [point.value for point in convergence(events, None).points] == [0.5] * 5


def test_a_break_takes_no_time_and_updates_told_twice_count_once():
    first = list(training(1, [0.2, 0.4, 0.6, 0.8, 0.8], t=100.0))
    again = Event(stage="read", kind="note", values={"folder": "runs/a", "read": 3.0}, t=9000.0)
    later = [
        Event(stage=e.stage, kind=e.kind, step=e.step, of=e.of, values=e.values, t=e.t + 8900)
        for e in first[4:]
    ]
    whole, broken = (convergence(tuned(*e), None) for e in (first, [*first[:6], again, *later]))
    assert broken.updates == whole.updates == 10
    assert [(p.updates, p.value) for p in broken.points] == [
        (p.updates, p.value) for p in whole.points
    ]
    # 2 s before the folder, 6 s up to the break, 3 s of reading again, 8 s from 9000 to 9008.
    assert (whole.near_end().seconds, broken.near_end().seconds) == (2.0 + 8, 2.0 + 6 + 3 + 8)


def test_trainings_that_the_minutes_cut_short_are_met_where_all_were_looked_at():
    events = tuned(
        *training(1, [0.2, 0.4, 0.8, 0.8, 0.8], t=100.0),
        *list(training(2, [0.2, 0.4, 0.6, 0.8, 0.8], t=110.0))[:4],
    )
    assert [point.updates for point in convergence(events, None).points] == [2, 4]


@pytest.mark.parametrize("events", [[], [BEGIN], tuned(*training(1, [], t=100.0))])
def test_where_nobody_looked_nothing_is_said(events):
    assert convergence(events, 1.0).near_end() is None
    assert convergence(events, 1.0).points == ()


def test_the_last_point_is_always_near_the_end():
    assert Convergence(5, (Point(5, 0.0, 1.0),)).near_end() == Point(5, 0.0, 1.0)
