"""Curves from events: their names, their numbers, and the axis under them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.events import Event
from warmstart.reporting.curves import Axis, CurveReader, choices_in

BEGIN = Event(stage="fine_tune", kind="begin", values={"trainings": 3})


def step(n, **values):
    return Event(stage="fine_tune", kind="step", step=n, of=300, values=values)


def read(*events, rate=None):
    reader = CurveReader()
    reader.lr = rate
    return [reader.read(event) for event in events]


@pytest.mark.parametrize(
    ("job", "group"), [(1, "fold1"), (2, "fold2"), (3, "final"), (None, "train")]
)
def test_each_training_has_its_own_curves(job, group):
    values = {
        "loss": 0.5,
        "factor": 0.1,
        "per_second": 64.0,
        "memory_mb": 900,
        "val_loss": 0.7,
        "val": 0.8,
        "head": 0.75,
    }
    if job is not None:
        values["job"] = job
    assert read(BEGIN, step(1, **values), rate=3e-4)[1] == {
        f"{group}/loss": 0.5,
        f"{group}/val_loss": 0.7,
        f"{group}/val_accuracy": 0.8,
        f"{group}/head_accuracy": 0.75,
        f"{group}/lr": pytest.approx(3e-5),
        "speed/images_per_second": 64.0,
        "memory/peak_mb": 900.0,
    }


def test_only_steps_and_guards_of_a_training_are_points():
    only = Event(stage="fine_tune", kind="begin", values={"trainings": 1})
    cached = Event(stage="fine_tune", kind="step", step=3, of=9, values={"per_second": 3.0})
    features = Event(stage="features", kind="step", step=3, of=9, values={"loss": 1.0})
    no_number = step(1, loss=math.nan, job=1, per_second="fast")
    events = (only, step(1, loss=0.5, job=1), cached, features, no_number)
    assert read(*events) == [{}, {"final/loss": 0.5}, {}, {}, {}]
    for name in ("guard", "kind"):
        event = Event(stage="fine_tune", kind="guard", values={name: "stuck", "text": "…"})
        assert read(event) == [{"guard/stuck": 1.0}]


@given(st.lists(st.tuples(st.sampled_from(["step", "guard", "begin"]), st.integers(0, 10**6))))
def test_the_axis_never_goes_back_and_keeps_what_is_in_order(seen):
    axis, last = Axis(), 0
    for kind, n in seen:
        axis.see(Event(stage="fine_tune", kind=kind, step=n))
        assert axis.at >= last
        last = axis.at
    in_order = sorted(n for kind, n in seen if kind == "step")
    axis = Axis()
    for n in in_order:
        axis.see(step(n))
        assert axis.at == n


def test_a_plan_is_a_table_of_paths():
    plan = {
        "format": 1,
        "training": {"flip": {"value": True, "rule": False}},
        "head": {"penalties": {"value": [0.1, 1.0]}},
        "block": [{"name": "blocks.0", "action": {"value": "tuned"}, "lr": {"value": 1e-4}}],
    }
    assert choices_in(plan) == {
        "training.flip": True,
        "head.penalties": "0.1,1.0",
        "block.blocks.0.action": "tuned",
        "block.blocks.0.lr": 1e-4,
    }
