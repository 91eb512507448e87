"""The journal of a run: stages that are not run again, and trackers that follow it."""

from __future__ import annotations

import io
import json
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import plans
from issues import issues
from tiny import fit, network
from warmstart import resume
from warmstart.errors import DataError
from warmstart.events import Event, drain, follow
from warmstart.planning.plan_file import write_plan
from warmstart.records.data import DataRecord, Example
from warmstart.records.findings import Finding
from warmstart.records.run_folder import RunFolder, write_json
from warmstart.records.summary import Inspection
from warmstart.run import journal as track
from warmstart.run.journal import Journal, check_same_data, tracked

EXAMPLES = tuple(
    Example(id=f"{label}/{n}.png", label=label, split="train", sha256=f"{label}{n}" * 4)
    for label in ("cat", "dog")
    for n in range(3)
)
DATA = DataRecord(
    name="pets", kind="image", task="classify", layout="", classes=("cat", "dog"), examples=EXAMPLES
)


def journal(path: Path, about: str = "about", notes: dict | None = None) -> Journal:
    (path / "checkpoints").mkdir(parents=True, exist_ok=True)
    return Journal(RunFolder(path), io.StringIO(), about, {} if notes is None else notes)


FIRST, *REST = EXAMPLES
DIFFERENCES = {
    "gone": (REST, "cat/0.png is gone"),
    "new": ([*EXAMPLES, replace(FIRST, id="cat/9.png")], "cat/9.png is new"),
    "bytes": ([replace(FIRST, sha256="f" * 64), *REST], "cat/0.png has changed"),
    **{
        name: ([replace(FIRST, **{name: value}), *REST], "has another label, group or split")
        for name, value in (("label", "dog"), ("split", "test"), ("group", "rex"))
    },
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_the_first_difference_is_named(case):
    examples, says = DIFFERENCES[case]
    check_same_data(Path("runs/a"), DATA, replace(DATA))
    with pytest.raises(DataError, match=rf"^the data of runs/a have changed since .*{says}; put"):
        check_same_data(Path("runs/a"), DATA, replace(DATA, examples=tuple(examples)))
    problems = (Finding(kind="unreadable", sentence="x"),)
    with pytest.raises(DataError, match="its list of unreadable files differs"):
        check_same_data(Path("runs/a"), DATA, replace(DATA, problems=problems))


def test_stages_are_done_once_for_the_same_request_data_and_evidence(tmp_path, monkeypatch):
    done, notes = [], {}
    findings = (Finding(kind="distribution-shift", sentence="another"),)
    inspections = {
        "few": Inspection(evidence=(), label_issues=issues()),
        "more": Inspection(evidence=(), label_issues=issues(), findings=findings),
    }

    def check(inspection):
        done.append("checks")
        yield from ()
        return inspections[inspection]

    def make():
        done.append("plan")
        return plans.plan_for("full")

    monkeypatch.setattr("warmstart.evidence.check.check", check)
    keys = []
    for about, data, inspection, stages in (
        ("a", DATA, "few", ["checks", "plan"]),
        ("a", DATA, "few", []),
        ("b", DATA, "few", ["checks", "plan"]),
        ("b", replace(DATA, examples=EXAMPLES[:4]), "few", ["checks"]),
        ("b", DATA, "more", ["checks", "plan"]),
    ):
        done.clear()
        at_work = journal(tmp_path, about, notes)
        write_json(tmp_path / "data.json", data)
        assert drain(at_work.inspect(inspection)) == inspections[inspection]
        assert at_work.plan(make) == plans.plan_for("full")
        assert done == stages
        keys.append(at_work.checkpoints.key)
        notes = json.loads((tmp_path / "checkpoints" / "journal.json").read_text())
    assert keys[0] == keys[1]  # of the states of trainings
    assert len(set(keys)) == 4
    assert (tmp_path / "plan.toml").read_text() == write_plan(plans.plan_for("full"))
    assert (tmp_path / "label_issues.csv").exists()


def test_a_damaged_journal_is_done_without(pictures, tmp_path, monkeypatch):
    def stop(event):
        if (event.stage, event.kind) == ("head", "step"):
            raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    for number, text in enumerate(["{", "[]", '{"engine": {}, "plan": [1, 2], "inspection": 3}']):
        with pytest.raises(KeyboardInterrupt):
            fit(pictures, out=f"run{number}", kind="layers", on_event=stop)
        plan = Path(f"run{number}/plan.toml").read_bytes()
        Path(f"run{number}/checkpoints/journal.json").write_text(text)
        assert resume(f"run{number}", base=network("layers")).estimate.n == 36
        assert Path(f"run{number}/plan.toml").read_bytes() == plan


PLAN = """
base = {value = "lite0"}
training.lr = {value = 3e-4}
block = [{name = "blocks.0", action = {value = "tuned"}}]
"""
N = 20  # updates a training


def training(gap=60.0):
    """Three trainings, the first of which begins anew after a guard; `gap` seconds an update."""
    at, made = 100.0, 0
    event = partial(Event, stage="fine_tune")
    yield event(kind="begin", values={"trainings": 3}, t=at)
    for job, first, n in ((1, 1, 5), (1, 1, N), (2, N + 1, N), (3, 2 * N + 1, N)):
        for step in range(first, first + n):
            at, made = at + gap, made + 1
            values = {"loss": 1 / made, "factor": 0.5, "job": job, "per_second": 64.0}
            if step % 10 == 0 and job < 3:
                values |= {"val": 0.8, "val_loss": 0.4, "head": 0.75}
            yield event(kind="step", step=step, of=3 * N, values=values, t=at)
        if n == 5:
            yield event(kind="guard", values={"guard": "stuck"}, t=at)
    yield event(kind="end", t=at)


NOTHING = SimpleNamespace(estimate=None, test=None)  # a summary of a run that ships nothing


def steps(run, events=None, result=None):
    """The events of a run in a folder, whose plan is written as a flow does."""
    yield Event(stage="read", kind="note", values={"folder": str(run)}, t=90.0)
    (run / "plan.toml").write_text(PLAN)
    yield Event(stage="plan", kind="note", values={"title": "Plan", "text": "…"}, t=95.0)
    yield from training() if events is None else events
    return SimpleNamespace(summary=result or NOTHING)


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


def test_tensorboard_holds_every_curve(run, finished):
    events = []
    done = follow(tracked(steps(run, result=finished.summary), ["tensorboard"]), events.append)
    assert done.summary is finished.summary
    assert [e for e in events if e.values.get("title") != "Track"] == list(steps(run))
    assert notes(events) == [f"tensorboard --logdir {run}/track"]
    result = curves(run)
    assert set(result) == {
        *(f"{g}/{n}" for g in ("fold1", "fold2", "final") for n in ("loss", "lr")),
        *(f"fold{k}/{n}" for k in (1, 2) for n in ("val_accuracy", "val_loss", "head_accuracy")),
        *("speed/images_per_second", "guard/stuck"),
        *(f"result/{n}" for n in ("accuracy", "low", "high", "test_accuracy")),
    }
    axis = [n for tag in ("fold1/loss", "fold2/loss", "final/loss") for n, _ in result[tag]]
    assert axis == list(range(1, 5 + 3 * N + 1))
    assert result["fold1/loss"][2] == (3, pytest.approx(1 / 3))
    assert result["fold2/lr"][0] == (26, pytest.approx(1.5e-4))
    assert [n for n, _ in result["fold1/val_accuracy"]] == [15, 25]
    assert result["guard/stuck"] == [(5, 1.0)]
    assert result["result/accuracy"] == [(65, pytest.approx(finished.estimate.value))]
    (table,) = (run / "track").rglob("hparams.yml")
    assert "block.blocks.0.action: tuned" in table.read_text()


def test_without_trackers_or_a_folder_nothing_is_done(run, fakes):
    assert list(tracked(steps(run), [])) == list(steps(run))
    assert drain(tracked(steps(run), ())).summary is NOTHING
    assert not (run / "track").exists()
    fakes["good"] = Fake()
    next(tracked(training(), ["good"]))  # before there is a folder
    assert not fakes["good"].calls


@pytest.mark.parametrize("ships", [True, False])
def test_a_run_that_trains_nothing_has_its_result_where_it_ships(run, finished, ships):
    summary = finished.summary if ships else replace(finished.summary, estimate=None, test=None)
    drain(tracked(steps(run, events=[], result=summary), ["tensorboard"]))
    names = ("accuracy", "low", "high", "test_accuracy") if ships else ()
    assert set(curves(run)) == {f"result/{name}" for name in names}


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
    """Trackers by name, for `tracked` to find."""
    known = {}

    def opened(name, folder):
        known[name]._do("open")
        return known[name]

    monkeypatch.setattr(track, "open_tracker", opened)
    return known


@pytest.mark.parametrize("fails", ["open", "store", "log", "finish"])
def test_a_tracker_that_fails_is_out_and_the_run_goes_on(run, fakes, capsys, fails):
    fakes |= {"bad": Fake(fails), "good": Fake()}
    events = []
    assert follow(tracked(steps(run), ["bad", "good", "good"]), events.append).summary is NOTHING
    text = f"bad is off from here on, the run goes on: no network in {fails}"
    assert notes(events).count(text) == 1
    assert fakes["bad"].calls.count(fails) == 1
    assert len(fakes["good"].sent) == 5 + 3 * N + 1
    assert fakes["good"].calls.count("store") == 1  # named twice
    assert fakes["good"].calls[-1] == "finish"
    out, err = capsys.readouterr()
    assert not out  # stdout is for results
    assert "a library that talks" in err


def test_a_slow_tracker_gets_validations_and_what_its_share_of_the_time_allows(run, fakes):
    fakes |= {"slow": Fake(waits=0.02), "quick": Fake()}
    events = list(training(gap=0.01))  # 0.65 s in all, of which a tracker may take 0.03
    drain(tracked(steps(run, events=events), ["slow", "quick"]))
    slow, quick = (
        [values for _, values in fakes[name].sent if "val_loss" in str(values)]
        for name in ("slow", "quick")
    )
    assert slow == quick
    assert len(slow) < len(fakes["slow"].sent) < 5 + 3 * N


def test_trackers_may_ask_nobody(run, fakes, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    fakes["asking"] = Fake()
    fakes["asking"].store_init_configuration = lambda values: input("Who are you? ")
    events = []
    assert follow(tracked(steps(run), ["asking"]), events.append).summary is NOTHING
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


def test_a_run_that_goes_on_is_tracked_further(pictures, tmp_path):
    """The same names without being asked again, the same folder, and nothing done anew."""

    def stop(event):
        if event.stage == "fine_tune" and event.values.get("job") == 2:
            raise KeyboardInterrupt

    out, settings = tmp_path / "photos", ["training.epochs=4.4444", "training.folds=2"]
    options = {"strategy": "last:1", "settings": settings, "track": "tensorboard"}
    with pytest.raises(KeyboardInterrupt):
        fit(pictures, out=out, on_event=stop, **options)
    first, events = curves(out), []
    run = resume(out, base=network(), on_event=events.append)
    assert notes(events) == [f"tensorboard --logdir {out}/track"]
    both = curves(out)
    assert {n for n, _ in first["fold1/loss"]} <= {n for n, _ in both["fold1/loss"]}
    assert both["result/accuracy"][0][1] == pytest.approx(run.estimate.value)
