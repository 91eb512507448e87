"""A stage from its events: count, scores and line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.events import Event
from warmstart.terminal.progress import Stage, title_of

NUMBERS = st.one_of(st.floats(), st.integers(-(10**30), 10**30))
VALUES = st.dictionaries(
    st.sampled_from(["loss", "val", "head", "per_second", "job", "missing", "total"]),
    st.one_of(NUMBERS, st.just("many")),
)


def any_event():
    return st.builds(
        Event,
        stage=st.sampled_from(["features", "fine_tune", "head"]),
        kind=st.sampled_from(["begin", "step", "end"]),
        step=st.integers(0, 10**15),
        of=st.one_of(st.none(), st.integers(1, 10**15)),
        t=st.floats(0, 1e10),
        values=VALUES,
    )


def tune(t, step, of=6000, **values):
    return Event(stage="fine_tune", kind="step", step=step, of=of, t=t, values=values)


def after(*events, name="fine_tune", title="Fine-tune"):
    stage = Stage(name, title, began=events[0].t, latest=events[0].t)
    for event in events:
        stage.see(event)
    return stage


@given(
    events=st.lists(any_event(), min_size=1, max_size=8),
    width=st.integers(1, 120),
    bar_end=st.sampled_from([0, 51]),
)
def test_no_line_is_wider_than_allowed(events, width, bar_end):
    stage = after(*events)
    finished, running = stage.line(bar_end, width) or "", stage.running_line(events[-1].t)
    assert len(finished) <= width
    assert len(running) <= 80
    assert (finished + running).isprintable()


def test_a_training_reports_its_speed_and_score():
    stage = after(
        tune(0.0, 1, 1500, job=1, loss=0.9),
        tune(41.0, 1500, 1500, job=1, loss=0.3, per_second=64.2, val=0.861, head=0.832),
    )
    assert stage.line() == "Fine-tune 1,500/1,500  41 s  64 images/s  val 86 % (linear probe 83 %)"
    assert stage.line(51) == (
        "Fine-tune 1,500/1,500 " + "━" * 9 + "  41 s  64 images/s  val 86 % (linear probe 83 %)"
    )


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (80, "Fine-tune 1,500/1,500  41 s  64 images/s  val 86 % (linear probe 83 %)"),
        (61, "Fine-tune 1,500/1,500  41 s  val 86 % (linear probe 83 %)"),
        (52, "Fine-tune 1,500/1,500  val 86 % (linear probe 83 %)"),
        (31, "Fine-tune 1,500/1,500"),
        (12, "Fine-tune"),
    ],
)
def test_a_narrow_terminal_shows_the_important(width, text):
    stage = after(
        tune(0.0, 1, 1500, job=1),
        tune(41.0, 1500, 1500, job=1, per_second=64.2, val=0.861, head=0.832),
    )
    assert stage.line(0, width) == text


def test_the_loss_is_that_of_the_current_training():
    first = [tune(t, t + 1, job=1, loss=1.0) for t in range(10)]
    assert after(*first).loss == "loss 1.00"
    assert after(*first, tune(10, 11, job=1, loss=0.0)).loss == "loss 0.85"  # smoothed
    assert after(*first, tune(10, 3001, job=2, loss=0.25)).loss == "loss 0.25"
    assert after(*first, tune(10, 1, job=1, loss=0.25)).loss == "loss 0.25"  # it began anew
    assert after(*first, tune(10, 11, job=1, loss=float("nan"))).loss == "loss 1.00"


def test_validation_scores_are_averaged_over_folds():
    one = tune(1, 10, job=1, val=0.80, head=0.70)
    two = tune(2, 20, job=1, val=0.90, head=0.70)
    three = tune(3, 3010, job=2, val=0.60, head=0.70)
    assert after(one).val == "val 80 % (linear probe 70 %)"
    assert after(one, two).val == "val 90 % (linear probe 70 %)"
    assert after(one, two, three).val == "val 75 % (linear probe 70 %)"
    assert after(three).val == "val 60 % (linear probe 70 %)"
    assert after(tune(1, 10, job=1, val=0.8)).val == "val 80 %"


def test_a_running_training_shows_its_fold_epoch_and_score():
    begin = Event(stage="fine_tune", kind="begin", values={"trainings": 3, "folds": 2}, t=0.0)
    first = tune(1, 10, 6000, job=1, epoch=0.2, val=0.80, head=0.70)
    second = tune(2, 3010, 6000, job=2, epoch=0.1)
    third = tune(3, 3500, 6000, job=2, epoch=2.34, val=0.60, head=0.55)
    last = tune(4, 6000, 6000, job=3, epoch=4.0)
    assert after(begin, first).position == "fold 1/2 epoch 0.2"
    assert after(begin, first, second).running_line(2.0).startswith("Fine-tune fold 2/2 epoch 0.1")
    assert "val" not in after(begin, first, second).running_line(2.0)  # that was another fold
    now = after(begin, first, second, third)
    assert now.running_line(3.0).endswith("val 60 % (linear probe 55 %)")
    done = after(begin, first, second, third, last)
    assert done.fold == "all images"
    assert done.line() == "Fine-tune 6,000/6,000  4.0 s  val 70 % (linear probe 62 %)"


def test_the_time_left_ignores_pauses_between_trainings():
    events = [tune(float(t), 10 * t, job=1) for t in range(1, 51)]
    events += [tune(100.0 + t, 3000 + 10 * t, job=2) for t in range(51)]
    assert after(*events).pace.left(150.0) == pytest.approx(250, rel=0.02)


def test_speed_names_its_unit_in_trainings_only():
    extracted = Event(
        stage="features", kind="step", step=64, of=300, t=1.0, values={"per_second": 8.25}
    )
    assert after(extracted, name="features", title="Features").speed == "8.2/s"
    assert after(tune(1.0, 64, job=1, per_second=73.0)).speed == "73 images/s"


def test_the_speed_of_a_training_is_that_of_all_its_updates():
    events = [tune(float(t), t, job=1, per_second=speed) for t, speed in enumerate((20.0, 60.0))]
    assert after(*events).speed == "30 images/s"  # as many images at each: 2 / (1/20 + 1/60)
    assert after(*events, tune(3.0, 3, job=1, per_second=0.0)).speed == "30 images/s"


@pytest.mark.parametrize(
    ("kind", "values", "title"),
    [
        ("begin", {"title": "Augment"}, "Augment"),
        ("begin", {}, "Fine-tune"),
        ("step", {}, "Augment"),
        ("step", {"job": 1}, "Fine-tune"),
        ("end", {}, "Augment"),
        ("note", {"title": "Guard"}, "Augment"),
    ],
)
def test_work_inside_a_stage_may_have_its_own_title(kind, values, title):
    current = Stage("fine_tune", "Augment", began=0.0, latest=0.0)
    assert title_of(Event(stage="fine_tune", kind=kind, values=values), current) == title


def test_another_stage_begins_with_its_own_title():
    current = Stage("fine_tune", "Augment", began=0.0, latest=0.0)
    assert title_of(Event(stage="deliver", kind="note", values={"title": "Proof"}), current) == (
        "Deliver"
    )
