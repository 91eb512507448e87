"""Runs on the same examples: who wins, on which rows, and how soon each was near its end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.events import Event
from warmstart.records.data import DataRecord, Example
from warmstart.records.findings import Finding
from warmstart.records.summary import Estimate
from warmstart.run.compare import (
    Convergence,
    HeldOutAnswers,
    Point,
    RunAnswer,
    accuracies,
    common,
    convergence,
    inflation_of,
    means,
    pairs,
)
from warmstart.stats.metrics import MODEL_VARIANCE, accuracy_estimate

# ---- pairs of runs: who wins, for how many pairs together ----


def claim(method, value=0.5):
    return Estimate(metric="accuracy", value=value, low=0.0, high=1.0, n=10, method=method)


def test_every_pair_stands_once_in_the_order_of_the_names():
    hits = (np.random.default_rng(0).random((4, 50)) < 0.7).astype(float)
    found = pairs(["d", "c", "b", "a"], hits, np.arange(50))
    assert [pair.a + pair.b for pair in found] == ["dc", "db", "da", "cb", "ca", "ba"]
    for pair in found:
        i, j = ("dcba".index(name) for name in (pair.a, pair.b))
        assert pair.difference == pytest.approx(hits[i].mean() - hits[j].mean())
        assert pair.n == 50
    (pair,) = pairs(["a", "b"], np.stack([np.zeros(40), np.ones(40)]), np.arange(40))
    assert (pair.winner, pair.difference) == ("b", -1.0)


@given(st.integers(2, 6), st.integers(0, 1000))
def test_more_pairs_ask_for_more(n_runs, seed):
    rng = np.random.default_rng(seed)
    hits = (rng.random((n_runs, 80)) < np.linspace(0.5, 0.9, n_runs)[:, None]).astype(float)
    names = [str(i) for i in range(n_runs)]
    together = {(p.a, p.b): p for p in pairs(names, hits, np.arange(80))}
    for (a, b), pair in together.items():
        (alone,) = pairs([a, b], hits[[int(a), int(b)]], np.arange(80))
        assert pair.p >= alone.p - 1e-12
        assert pair.winner in (None, alone.winner)
        assert (pair.low, pair.high) == (alone.low, alone.high)
        assert (pair.winner is None) == (pair.p >= 0.05)


def test_equal_runs_have_no_winner_in_19_of_20_comparisons_of_six_pairs():
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(300):
        hits = (rng.random((4, 60)) < 0.8).astype(float)
        wrong += any(pair.winner for pair in pairs(["a", "b", "c", "d"], hits, np.arange(60)))
    assert wrong <= 25


def test_models_that_learnt_without_a_row_are_less_sure_than_finished_ones():
    folds, held = [claim("nested-cv"), claim("nested-cv")], [claim("holdout"), claim("holdout")]
    assert inflation_of("test", folds) == 1.0
    assert inflation_of("held-out", folds) == MODEL_VARIANCE
    assert inflation_of("held-out", held) == 1.0
    assert inflation_of("held-out", [claim("holdout"), None]) == MODEL_VARIANCE
    hits = (np.random.default_rng(2).random((2, 60)) < 0.8).astype(float)
    narrow, wide = (pairs(["a", "b"], hits, np.arange(60), x)[0] for x in (1.0, MODEL_VARIANCE))
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(1.7**0.5)


def test_accuracies_are_those_of_an_estimate():
    rng = np.random.default_rng(3)
    labels, groups = rng.integers(0, 2, 60), np.arange(60) // 2
    p = rng.random((60, 2))
    whole = accuracy_estimate(p, labels, groups, "nested-cv")
    hits = (p.argmax(axis=1) == labels).astype(float)[None]
    assert accuracies(hits, groups, MODEL_VARIANCE) == [(whole.value, whole.low, whole.high)]
    # Other scores than 0 and 1 have an interval about the mean, wider by the same factor.
    ((mean, low, high),) = means(hits, groups, MODEL_VARIANCE)
    ((_, least, most),) = means(hits, groups)
    assert mean == hits.mean()
    assert (high - low) / (most - least) == pytest.approx(MODEL_VARIANCE**0.5)


# ---- rows that several runs held out: by bytes and label, never by name ----


def run(examples, *, near_duplicates=(), leaks=(), answer=lambda id, target: target):
    """A run over (id, content, label, split[, group]) that held out all of them."""
    rows = [(*row, None)[:5] for row in examples]
    problems = (Finding(kind="leakage", sentence="so", items=tuple(leaks)),) if leaks else ()
    record = DataRecord(
        name="d",
        kind="image",
        task="classify",
        layout="folders",
        classes=tuple(sorted({row[2] for row in rows})),
        examples=tuple(
            Example(id=i, sha256=c, label=k, split=s, group=g) for i, c, k, s, g in rows
        ),
        problems=problems,
        near_duplicates=tuple(near_duplicates),
    )
    said = tuple(RunAnswer(i, s == "test", k, answer(i, k)) for i, _, k, s, _ in rows)
    return HeldOutAnswers(record, said)


def rows(prefix, n, split="train", first=0):
    """n examples of two classes whose content is their number."""
    return [(f"{prefix}{i}.jpg", f"c{i}", "ab"[i % 2], split) for i in range(first, first + n)]


TEN = [*rows("x", 6), *rows("x", 4, "test", 10)]


@pytest.mark.parametrize(
    ("one", "other", "which", "n"),
    [
        (TEN, [*rows("y", 5), *rows("z", 4, "test", 10)], "test", 4),  # equal under any name
        (TEN, [*rows("y", 6), *rows("y", 3, "test", 10)], "held-out", 9),  # another test set
        (TEN, [*rows("y", 6, first=20), *rows("y", 3, "test", 10)], "test", 3),  # nothing else
        (rows("x", 6, "test"), rows("y", 6), "held-out", 6),  # test set of one, folds of the other
        (rows("x", 6), [(i, c + "!", k, s) for i, c, k, s in rows("x", 6)], "held-out", 0),
    ],
)
def test_rows_are_matched_by_their_bytes(one, other, which, n):
    found = common([run(one), run(other)])
    assert (found.rows, found.hits.shape) == (which, (2, n))
    assert (found.hits == 1).all()
    assert (found.links, found.leaked, found.relabelled) == ((), 0, 0)
    tests = [{row[1] for row in rows_ if row[3] == "test"} for rows_ in (one, other)]
    if which == "held-out":
        shared = {row[1] for row in one} & {row[1] for row in other}
        assert found.is_test.sum(axis=1).tolist() == [len(shared & test) for test in tests]


def test_another_label_leaves_an_image_out_and_is_counted():
    other = [*rows("x", 5), ("x5.jpg", "c5", "a", "train")]
    found = common([run(rows("x", 6)), run(other)])
    assert (found.hits.shape[1], found.relabelled) == (5, 1)


def test_what_a_run_had_seen_before_is_left_out_for_all():
    data = [*rows("x", 6), *rows("x", 4, "test", 10)]
    found = common([run(data), run(data, leaks=["x11.jpg", "x12.jpg"])])
    assert (found.rows, found.hits.shape[1], found.leaked) == ("test", 2, 2)
    gone = common([run(data), run(data, leaks=[f"x{i}.jpg" for i in range(10, 14)])])
    assert (gone.rows, gone.hits.shape[1]) == ("held-out", 6)


def test_several_copies_of_one_content_keep_their_number_and_belong_together():
    data, other = (
        [*((name, "c", "a", "train") for name in names), ("z.jpg", "d", "b", "train")]
        for names in (("a.jpg", "b.jpg"), ("k.jpg", "l.jpg"))
    )
    found = common([run(data), run(other)])
    assert found.hits.shape == (2, 3)
    assert len(found.links) == 1


def test_near_copies_and_groups_of_any_run_are_links():
    data = rows("x", 6)
    grouped = [(*row, "g" if row[0] in ("x4.jpg", "x5.jpg") else None) for row in data]
    found = common(
        [run(data, near_duplicates=[("x0.jpg", "x1.jpg"), ("x2.jpg", "far.jpg")]), run(grouped)]
    )
    assert set(found.links) == {(0, 1), (4, 5)}


@given(st.lists(st.booleans(), min_size=2, max_size=25), st.randoms(use_true_random=False))
def test_hits_are_those_of_each_image_whatever_the_order(right, random):
    data = rows("x", len(right))
    wrong = {row[0] for row, good in zip(data, right, strict=True) if not good}
    one = run(data, answer=lambda id, target: "none" if id in wrong else target)
    names = random.sample(range(100), len(data))
    mixed = [(f"{name}", c, k, s) for name, (_, c, k, s) in zip(names, data, strict=True)]
    random.shuffle(mixed)
    found = common([one, run(mixed)])
    assert found.hits[0].sum() == sum(right)
    assert (found.hits[1] == 1).all()
    by_content = dict(zip(sorted(c for _, c, _, _ in data), found.hits[0], strict=True))
    for row, good in zip(data, right, strict=True):
        assert by_content[row[1]] == good


def test_three_runs_are_compared_on_what_all_share():
    found = common([run(rows("x", 9)), run(rows("x", 6)), run(rows("x", 7, first=2))])
    assert found.hits.shape == (3, 4)
    assert np.array_equal(found.hits, np.ones((3, 4)))


# ---- how soon a training was near its end ----

BEGIN = Event(stage="read", kind="note", values={"folder": "runs/a", "read": 2.0}, t=100.0)


def training(number, vals, *, t, each=10, trainings=3, head=None):
    """The updates of one training, a second each, with a look at every second one."""
    for update in range(1, each + 1):
        values = {"loss": 1.0, "job": number}
        if update % 2 == 0 and vals:
            values["val"] = vals[update // 2 - 1]
            if head is not None:
                values["head"] = head
        step, of = each * (number - 1) + update, each * trainings
        yield Event(stage="fine_tune", kind="step", step=step, of=of, values=values, t=t + update)


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
    later = [replace(event, t=event.t + 8900) for event in first[4:]]
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
