"""Events to trackers: what TensorBoard holds in the end, and what a failure does to a run."""

from __future__ import annotations

import io
import sys
import time
from dataclasses import replace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tiny
import warmstart
from warmstart.errors import UsageError
from warmstart.events import Event, drain, follow
from warmstart.records.run_folder import write_json
from warmstart.records.summary import (
    DataCounts,
    Estimate,
    FrozenProof,
    Readiness,
    Scores,
    ShippedCandidate,
    Summary,
    TensorCounts,
    Verdict,
)
from warmstart.run import journal as track
from warmstart.run.journal import tracked

PLAN = """
[base]
value = "lite0"
[training.lr]
value = 3e-4
[[block]]
name = "blocks.0"
action = { value = "tuned" }
"""
SUMMARY = Summary(
    task="classify",
    verdict=Verdict(kind="fine-tune", sentence="Tuning pays."),
    readiness=Readiness(level="review", reasons=("1 in 7 predictions is wrong",)),
    shipped=ShippedCandidate(strategy="last:4", why="you asked for it"),
    estimate=Estimate(
        metric="accuracy", value=0.86, low=0.82, high=0.89, n=300, method="nested-cv"
    ),
    linear_probe=Estimate(
        metric="accuracy", value=0.8, low=0.75, high=0.84, n=300, method="nested-cv"
    ),
    fine_tuning_gain=None,
    test=Scores(
        n=200,
        accuracy=0.84,
        low=0.78,
        high=0.88,
        balanced_accuracy=0.83,
        macro_f1=0.82,
        log_loss=0.45,
        ece=0.03,
    ),
    data=DataCounts(
        train=300, test=0, classes=10, unreadable=0, near_duplicates=0, leaks=0, label_issues=0
    ),
    base=TensorCounts(name="lite0", sha256="00", parameters=4_652_008),
    frozen=FrozenProof(parameters=10, buffers=2, identical=True),
    guards=(),
    findings=(),
    seconds={"total": 1.0},
    peak_rss_mb=100.0,
)
N = 20  # updates a training


def training(gap=60.0):
    """Three trainings, the first of which begins anew after a guard; `gap` seconds an update."""
    at, made = 100.0, 0
    yield Event(stage="fine_tune", kind="begin", values={"trainings": 3}, t=at)
    for job, first, n in ((1, 1, 5), (1, 1, N), (2, N + 1, N), (3, 2 * N + 1, N)):
        for step in range(first, first + n):
            at, made = at + gap, made + 1
            values = {"loss": 1 / made, "factor": 0.5, "job": job, "per_second": 64.0}
            if step % 10 == 0 and job < 3:
                values |= {"val": 0.8, "val_loss": 0.4, "head": 0.75}
            yield Event(stage="fine_tune", kind="step", step=step, of=3 * N, values=values, t=at)
        if n == 5:
            yield Event(stage="fine_tune", kind="guard", values={"guard": "stuck"}, t=at)
    yield Event(stage="fine_tune", kind="end", t=at)


def steps(run, events=None, result=None):
    """The events of a run in a folder, whose plan and summary are written as a flow does."""
    yield Event(stage="read", kind="note", values={"folder": str(run)}, t=90.0)
    (run / "plan.toml").write_text(PLAN)
    yield Event(stage="plan", kind="note", values={"title": "Plan", "text": "…"}, t=95.0)
    yield from training() if events is None else events
    if result is not None:
        write_json(run / "summary.json", result)
    return 7


@pytest.fixture
def run(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def notes(seen):
    return [e.values["text"] for e in seen if e.values.get("title") == "Track"]


def curves(run):
    board = EventAccumulator(str(run / "track" / "photos"), size_guidance={"scalars": 0})
    board.Reload()
    return {tag: [(s.step, s.value) for s in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_tensorboard_holds_every_curve(run):
    events = []
    assert follow(tracked(steps(run, result=SUMMARY), ["tensorboard"]), events.append) == 7
    assert [e for e in events if e.values.get("title") != "Track"] == list(steps(run))
    assert notes(events) == [f"tensorboard --logdir {run}/track"]
    result = curves(run)
    assert set(result) == {
        *(f"{g}/{n}" for g in ("fold1", "fold2", "final") for n in ("loss", "lr")),
        *(f"fold{k}/{n}" for k in (1, 2) for n in ("val_accuracy", "val_loss", "head_accuracy")),
        "speed/images_per_second",
        "guard/stuck",
        "result/accuracy",
        "result/low",
        "result/high",
        "result/test_accuracy",
    }
    axis = [n for tag in ("fold1/loss", "fold2/loss", "final/loss") for n, _ in result[tag]]
    assert axis == list(range(1, 5 + 3 * N + 1))
    assert result["fold1/loss"][2] == (3, pytest.approx(1 / 3))
    assert result["fold2/lr"][0] == (26, pytest.approx(1.5e-4))
    assert [n for n, _ in result["fold1/val_accuracy"]] == [15, 25]
    assert result["guard/stuck"] == [(5, 1.0)]
    assert result["result/accuracy"] == [(65, pytest.approx(0.86))]
    (table,) = (run / "track").rglob("hparams.yml")
    assert "block.blocks.0.action: tuned" in table.read_text()


def test_without_trackers_nothing_is_done(run):
    assert list(tracked(steps(run), [])) == list(steps(run))
    assert drain(tracked(steps(run), ())) == 7
    assert not (run / "track").exists()


def test_a_run_that_trains_nothing_is_worth_a_line_too(run):
    drain(tracked(steps(run, events=[], result=SUMMARY), ["tensorboard"]))
    assert set(curves(run)) == {f"result/{n}" for n in ("accuracy", "low", "high", "test_accuracy")}


def test_where_nothing_ships_there_is_no_result(run):
    drain(
        tracked(
            steps(run, events=[], result=replace(SUMMARY, estimate=None, test=None)),
            ["tensorboard"],
        )
    )
    assert curves(run) == {}


# ---- trackers that fail, are slow, or talk -----------------------------------------------


class Fake:
    """Keeps what it is sent; fails or waits where it is told to."""

    def __init__(self, fails="", waits=0.0):
        self.fails, self.waits = fails, waits
        self.sent, self.calls = [], []

    def _do(self, what):
        self.calls.append(what)
        print("a library that talks")
        if what == self.fails:
            raise ConnectionError(f"no network\nin {what}")

    def store_init_configuration(self, values):
        self._do("store")

    def log(self, values, step):
        self._do("log")
        time.sleep(self.waits)
        self.sent.append((step, values))

    def finish(self):
        self._do("finish")

    @property
    def tracker(self):
        return self


@pytest.fixture
def fakes(monkeypatch):
    """Trackers by name, for `tracked` to find; one named "down" cannot even be begun."""
    known = {}

    def opened(name, folder):
        if name == "down":
            raise ConnectionError("no network\nat all")
        return known[name]

    monkeypatch.setattr(track, "open_tracker", opened)
    return known


@pytest.mark.parametrize("fails", ["store", "log", "finish"])
def test_a_tracker_that_fails_is_out_and_the_run_goes_on(run, fakes, fails):
    fakes |= {"bad": Fake(fails), "good": Fake()}
    events = []
    assert follow(tracked(steps(run), ["bad", "good"]), events.append) == 7
    text = f"bad is off from here on, the run goes on: no network in {fails}"
    assert notes(events).count(text) == 1
    assert fakes["bad"].calls.count(fails) == 1
    assert len(fakes["good"].sent) == 5 + 3 * N + 1
    assert fakes["good"].calls[-1] == "finish"


def test_one_that_cannot_begin_is_out(run, fakes):
    fakes["good"] = Fake()
    events = []
    assert follow(tracked(steps(run), ["down", "good"]), events.append) == 7
    assert notes(events)[0] == "down is off from here on, the run goes on: no network at all"
    assert fakes["good"].sent


def test_a_name_given_twice_is_one_tracker(run, fakes):
    fakes["good"] = Fake()
    drain(tracked(steps(run), ["good", "good"]))
    assert fakes["good"].calls.count("store") == 1


def test_a_slow_tracker_gets_validations_and_what_its_share_of_the_time_allows(run, fakes):
    fakes |= {"slow": Fake(waits=0.02), "quick": Fake()}
    events = list(training(gap=0.01))  # 0.65 s in all, of which a tracker may take 0.03
    drain(tracked(steps(run, events=events), ["slow", "quick"]))
    looks = [e.step for e in events if "val" in e.values]
    sent = fakes["slow"].sent
    assert [
        values for _, values in sent if "fold1/val_loss" in values or "fold2/val_loss" in values
    ] == [
        values
        for _, values in fakes["quick"].sent
        if "fold1/val_loss" in values or "fold2/val_loss" in values
    ]
    assert len(looks) < len(sent) < 5 + 3 * N


def test_what_trackers_print_stays_off_stdout(run, fakes, capsys):
    fakes["good"] = Fake()
    drain(tracked(steps(run), ["good"]))
    out, err = capsys.readouterr()
    assert not out
    assert "a library that talks" in err


def test_trackers_may_ask_nobody(run, fakes, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))

    class Asking(Fake):
        def store_init_configuration(self, values):
            input("Who are you? ")

    fakes["asking"] = Asking()
    events = []
    assert follow(tracked(steps(run), ["asking"]), events.append) == 7
    assert notes(events)[-1].startswith("asking is off from here on, the run goes on: EOF")
    assert sys.stdin.read() == "yes\n"


@pytest.mark.parametrize("fails", ["", "finish"])
def test_a_run_that_breaks_closes_its_trackers(run, fakes, fails):
    fakes["good"] = Fake(fails)

    def broken():
        yield from training()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        drain(tracked(steps(run, events=broken()), ["good"]))
    assert fakes["good"].calls[-1] == "finish"


def test_a_run_that_is_stopped_closes_its_work_first(run, fakes):
    fakes["good"] = Fake()
    order = []

    def work():
        try:
            yield from steps(run)
        finally:
            order.append(list(fakes["good"].calls))

    working = tracked(work(), ["good"])
    for _ in range(10):
        next(working)
    working.close()
    assert "finish" not in order[0]
    assert fakes["good"].calls[-1] == "finish"


def test_before_there_is_a_folder_nothing_begins(fakes):
    fakes["good"] = Fake()
    drain(tracked(iter_steps(training()), ["good"]))
    assert not fakes["good"].calls


def iter_steps(events):
    yield from events


# ---- with real runs ----------------------------------------------------------------------


@pytest.mark.parametrize("names", ["tensorbord", ["tensorboard", "tensorbord"]])
def test_a_name_from_python_is_checked_before_anything_is_made(pictures, tmp_path, names):
    with pytest.raises(UsageError, match="--track tensorbord is not one of"):
        tiny.fit(pictures, out=tmp_path / "run", track=names)
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_is_tracked_further(pictures, tmp_path):
    """The same names without being asked again, the same folder, and nothing done anew."""

    def stopped(event):
        if event.stage == "fine_tune" and event.values.get("job") == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.fit(
            pictures,
            out=tmp_path / "photos",
            strategy="last:1",
            on_event=stopped,
            settings=["training.epochs=4.4444", "training.folds=2"],
            track="tensorboard",
        )
    first = curves(tmp_path / "photos")
    assert [n for n, _ in first["fold1/loss"]][:1] == [1]
    events = []
    run = warmstart.resume(tmp_path / "photos", base=tiny.network(), on_event=events.append)
    assert notes(events) == [f"tensorboard --logdir {tmp_path}/photos/track"]
    both = curves(run.path)
    assert {n for n, _ in first["fold1/loss"]} <= {n for n, _ in both["fold1/loss"]}
    assert both["result/accuracy"][0][1] == pytest.approx(run.estimate.value)
