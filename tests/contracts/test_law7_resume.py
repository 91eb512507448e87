"""Law 7: a run that was killed anywhere and resumed is one that was never killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import tiny
import warmstart
from hue_images import fill
from warmstart.errors import RunFolderError
from warmstart.training import checkpoint

pytestmark = pytest.mark.slow

DYING = Path(__file__).with_name("killed_run.py")
CLOCKED = ("seconds", "peak_rss_mb")
# What a run is named by and when; everything else must be equal byte for byte.
OWN = {"progress.jsonl", "summary.json", "request.json", "report.html"}
SMALL = {"settings": ["training.epochs=4.4444", "training.folds=2"]}
STRATEGIES: dict[str, dict[str, object]] = {
    "head": {},
    "last:1": SMALL,
    "full": SMALL,
    "full+gradual": SMALL,
    "head+add": SMALL,
    "last:2": {**SMALL, "lr": 30.0},  # at none of its rates does training work
}


@dataclass(frozen=True)
class Whole:
    """A run that was never stopped, and what it was asked."""

    strategy: str
    path: Path
    asked: dict[str, object]
    events: list[tuple[str, str]]


@pytest.fixture(autouse=True)
def _always_due(monkeypatch):
    """Trainings of a test are over before a checkpoint would be due."""
    monkeypatch.setattr(checkpoint, "FIRST", 0.0)
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """What all runs here are asked, but for the strategy."""
    root = tmp_path_factory.mktemp("asked")
    fill(root / "split" / "train", {"blue": 12, "green": 12, "red": 12})
    fill(root / "split" / "test", {"blue": 5, "green": 5, "red": 5}, seed=1)
    return {
        "data": str(root / "split"),
        "base": str(tiny.weights(root)),
        "arch": tiny.ARCH,
        "budget": "fast",
    }


@pytest.fixture(scope="module")
def wholes(asked, tmp_path_factory):
    """Runs that were never stopped, each made once."""
    made: dict[str, Whole] = {}

    def whole(strategy: str) -> Whole:
        if strategy not in made:
            root = tmp_path_factory.mktemp("whole")
            own = {**asked, "strategy": strategy, **STRATEGIES[strategy]}
            events: list[tuple[str, str]] = []
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("WARMSTART_CACHE", str(root / "cache"))
                run = warmstart.fit(
                    **own, out=root / "run", on_event=lambda e: events.append((e.stage, e.kind))
                )
            made[strategy] = Whole(strategy, run.path, own, events)
        return made[strategy]

    return whole


def contents(run: Path) -> dict[str, object]:
    """All files of a run, without what no two runs share."""
    found: dict[str, object] = {
        name: content for name, content in tiny.bytes_of(run).items() if name not in OWN
    }
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    return {**found, **{name: summary[name] for name in summary if name not in CLOCKED}}


def differences(run: Path, whole: Whole) -> list[str]:
    """Names of what is not the same in two runs."""
    one, other = contents(run), contents(whole.path)
    return sorted(n for n in {*one, *other} if one.get(n) != other.get(n))


def die(whole: Whole, out: Path, **moment: int) -> None:
    """Make the same run in another process, which is killed at some moment."""
    told = {"fit": {**whole.asked, "out": str(out)}, **moment}
    job = subprocess.run(
        [sys.executable, str(DYING), json.dumps(told)],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert job.returncode == -signal.SIGKILL, job.stderr
    assert not [name for name in ("DONE", "FAILED", "INTERRUPTED") if (out / name).exists()]


class Stop(BaseException):
    """Somebody closes the run: Ctrl-C, or a notebook."""


def stop_at(mark: tuple[str, str], nth: int = 1):
    """Closes a run after the nth event of a stage and kind."""
    left = [nth]

    def see(event):
        left[0] -= (event.stage, event.kind) == mark
        if not left[0]:
            raise Stop

    return see


# ---- the head ----------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [("features", "step"), ("checks", "step"), ("head", "step")])
def test_killed_at_an_event(wholes, tmp_path, mark):
    whole = wholes("head")
    die(whole, tmp_path / "run", event=whole.events.index(mark) + 1)
    run = warmstart.resume(tmp_path / "run")
    assert differences(run.path, whole) == []


@pytest.mark.parametrize("number", [2, 4, 7, 12])
def test_killed_before_a_file_is_renamed(wholes, tmp_path, number):
    """What was on disk under its own name is whole, what was not is written again."""
    whole = wholes("head")
    die(whole, tmp_path / "run", rename=number)
    assert list((tmp_path / "run").rglob("*.partial"))
    run = warmstart.resume(tmp_path / "run")
    assert differences(run.path, whole) == []
    assert not list(run.path.rglob("*.partial"))


def test_killed_before_anything_was_written_down(wholes, tmp_path):
    """Nothing is there to go on with, and nothing is in the way of the same command."""
    whole = wholes("head")
    die(whole, tmp_path / "run", rename=1)
    with pytest.raises(
        RunFolderError, match=r"has no request\.json: it is no run that can be resumed"
    ):
        warmstart.resume(tmp_path / "run")
    run = warmstart.fit(**whole.asked, out=tmp_path / "run")
    assert differences(run.path, whole) == []


MARKS = [
    ("features", "begin"),
    ("checks", "end"),
    ("plan", "note"),
    ("head", "end"),
    ("deliver", "note"),
    ("deliver", "end"),
]


@pytest.mark.parametrize("mark", MARKS, ids=" ".join)
def test_closed_after_an_event(wholes, tmp_path, mark):
    whole = wholes("head")
    with pytest.raises(Stop):
        warmstart.fit(**whole.asked, out=tmp_path / "run", on_event=stop_at(mark))
    assert (tmp_path / "run" / "INTERRUPTED").exists()
    run = warmstart.resume(tmp_path / "run")
    assert differences(run.path, whole) == []


def test_killed_again_and_again(wholes, tmp_path):
    """A run that is resumed may be killed as well."""
    whole = wholes("head")
    out = tmp_path / "run"
    die(whole, out, event=whole.events.index(("features", "step")) + 1)
    for mark in (("features", "end"), ("checks", "end"), ("head", "step")):
        with pytest.raises(Stop):
            warmstart.resume(out, on_event=stop_at(mark))
    run = warmstart.resume(out)
    assert differences(run.path, whole) == []
    told = [line["values"] for line in tiny.lines(out, "progress.jsonl")]
    assert sum("folder" in values for values in told) == 5
    assert sum(values.get("title") == "Resumed" for values in told) == 4


# ---- trainings ---------------------------------------------------------------------------

STEP = ("fine_tune", "step")
TRAINED = ("last:1", "full", "full+gradual")
MORE = [strategy for strategy in STRATEGIES if strategy not in ("head", *TRAINED)]


@pytest.mark.parametrize(  # each moment and each strategy once; the other pairs take minutes
    ("share", "strategy"),
    [(0.1, "full+gradual"), (0.5, "last:1"), (0.9, "full"), (0.9, "full+gradual")],
)
def test_killed_while_it_trains(wholes, tmp_path, strategy, share):
    whole = wholes(strategy)
    steps = [n for n, event in enumerate(whole.events, 1) if event == STEP]
    done = int(share * len(steps))
    die(whole, tmp_path / "run", event=steps[done])
    seen: list[tuple[str, str]] = []
    run = warmstart.resume(tmp_path / "run", on_event=lambda e: seen.append((e.stage, e.kind)))
    assert differences(run.path, whole) == []
    assert seen.count(STEP) <= len(steps) - done  # what was kept was not trained again


@pytest.mark.parametrize("strategy", MORE)
def test_any_kind_of_training_goes_on_where_it_was_closed(wholes, tmp_path, strategy):
    """Low-rank updates and new layers: tests/training/test_job_resume.py, where that is quicker."""
    whole = wholes(strategy)
    guards = json.loads((whole.path / "summary.json").read_text("utf-8"))["guards"]
    assert guards or "lr" not in whole.asked
    nth = 2 * whole.events.count(STEP) // 3
    with pytest.raises(Stop):
        warmstart.fit(**whole.asked, out=tmp_path / "run", on_event=stop_at(STEP, nth=nth))
    run = warmstart.resume(tmp_path / "run")
    assert differences(run.path, whole) == []
