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
from drawing import fill
from warmstart.training import checkpoint

DYING = Path(__file__).with_name("dying.py")
CLOCKED = ("seconds", "peak_rss_mb")
# What a run is named by and when; everything else must be equal byte for byte.
OWN = {"progress.jsonl", "summary.json", "request.json"}
SMALL = {"settings": ["training.passes=160", "training.folds=2"]}
STRATEGIES: dict[str, dict[str, object]] = {
    "head": {},
    "last:1": SMALL,
    "full": SMALL,
    "full+gradual": SMALL,
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
        "data": str(root / "split"), "start": str(tiny.weights(root)), "arch": tiny.ARCH,
        "budget": "fast",
    }  # fmt: skip


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
        env=os.environ | {"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert job.returncode == -signal.SIGKILL, job.stderr
    assert not [name for name in ("DONE", "FAILED", "INTERRUPTED") if (out / name).exists()]


def places(whole: Whole, *marks: tuple[str, str]) -> list[int]:
    """The numbers, from 1, of the first events of these stages and kinds."""
    return [whole.events.index(mark) + 1 for mark in marks]


class Stop(BaseException):
    """Somebody closes the run: Ctrl-C, or a notebook."""


def stop_after(number: int, whole: Whole, out: Path) -> None:
    """The same run in this process, closed after some event."""
    left = [number]

    def see(_):
        left[0] -= 1
        if not left[0]:
            raise Stop

    with pytest.raises(Stop):
        warmstart.fit(**whole.asked, out=out, on_event=see)
    assert (out / "INTERRUPTED").exists()


# ---- the head ----------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [("look", "step"), ("check", "step"), ("head", "step")])
def test_killed_at_an_event(wholes, tmp_path, mark):
    whole = wholes("head")
    (number,) = places(whole, mark)
    die(whole, tmp_path / "run", event=number + 1)
    run = warmstart.resume(tmp_path / "run")
    assert differences(run.path, whole) == []


@pytest.mark.parametrize("number", [1, 4, 7, 12])
def test_killed_before_a_file_is_renamed(wholes, tmp_path, number):
    """What was on disk under its own name is whole, what was not is written again."""
    whole = wholes("head")
    die(whole, tmp_path / "run", rename=number)
    assert list((tmp_path / "run").rglob("*.partial"))
    if not (tmp_path / "run" / "request.json").exists():  # nothing was promised yet
        assert number == 1
        return
    run = warmstart.resume(tmp_path / "run")
    assert differences(run.path, whole) == []


def test_stopped_after_any_event(wholes, tmp_path):
    whole = wholes("head")
    first = whole.events.index(("look", "begin"))
    for number in range(first + 1, len(whole.events) + 1):
        out = tmp_path / str(number) / "run"
        stop_after(number, whole, out)
        run = warmstart.resume(out)
        assert differences(run.path, whole) == [], f"after event {number}"


def test_killed_again_and_again(wholes, tmp_path):
    """A run that is resumed may be killed as well."""
    whole = wholes("head")
    out = tmp_path / "run"
    die(whole, out, event=places(whole, ("look", "step"))[0])
    for number in (8, 14, 20):
        left = [number]

        def see(_, left=left):
            left[0] -= 1
            if not left[0]:
                raise Stop

        with pytest.raises(Stop):
            warmstart.resume(out, on_event=see)
    run = warmstart.resume(out)
    assert differences(run.path, whole) == []
    told = [line["values"] for line in tiny.lines(out, "progress.jsonl")]
    assert sum("folder" in values for values in told) == 5
    assert sum(values.get("title") == "Resumed" for values in told) == 4
