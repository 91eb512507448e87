"""Strategies on the same data: run first, then compared; one that fails stops no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tiny import PREP, bytes_of, lines, network
from warmstart.api.run import Run
from warmstart.errors import DataError, PlanError, RunFolderError, TrainingError, UsageError
from warmstart.events import Event, drain, follow
from warmstart.planning import fine_tuning
from warmstart.request import Request
from warmstart.run import fit as recipe
from warmstart.run.compare import compare_strategies, is_run
from warmstart.run.deliver import Finished
from warmstart.run.fit import fit


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def request_with(**options):
    given = {"data": None, "base": network(), "preprocessing": PREP, "budget": "fast", **options}
    return Request(**given)


@pytest.fixture
def stand_in(finished, monkeypatch):
    """In place of `fit`: hands out copies of the finished run, and records its requests."""

    def copy(request):
        if "40" in request.strategy:
            raise PlanError(f"--strategy {request.strategy}: the network has 2 blocks")
        copy.requests.append(request)
        yield Event(stage="read", kind="note", values={"folder": str(request.out)})
        shutil.copytree(finished.path, request.out, dirs_exist_ok=True)
        return Finished(path=request.out, summary=finished.summary)

    copy.requests = []
    monkeypatch.setattr(recipe, "fit", copy)
    return copy


def compared(places, words, **options):
    return drain(compare_strategies(places, words, request_with(**options)))


def folders():
    return sorted(path.name for path in Path("runs").iterdir()) if Path("runs").exists() else []


def test_each_strategy_has_its_own_folder_and_all_share_one_extraction(split_pictures, monkeypatch):
    texts = []
    monkeypatch.setattr(
        fine_tuning, "samples_from_scratch", lambda n: 320
    )  # as long as a test may be
    steps = compare_strategies(["split"], ["head", "full", "head", "scratch"], request_with())
    result = follow(steps, lambda event: texts.append(event.values.get("text")))
    assert folders() == ["latest", "split-full", "split-head", "split-scratch"]
    assert Path("runs/latest").resolve().name == "split-scratch"
    assert {run.name: run.path for run in result.runs} == {
        "head": "runs/split-head",
        "full": "runs/split-full",
        "scratch": "runs/split-scratch",
    }
    assert (result.rows, result.n, result.failed) == ("test", 15, ())
    assert {run.name: run.features_cached for run in result.runs} == {
        "head": False,
        "full": True,
        "scratch": True,
    }
    assert [text for text in texts if text and " of 3" in str(text) and "," in str(text)] == [
        "head, 1 of 3",
        "full, 2 of 3",
        "scratch, 3 of 3",
    ]
    runs = {run.name: run for run in result.runs}
    assert (runs["head"].updates, runs["head"].updates_to_95) == (0, 0)
    for name in ("full", "scratch"):
        told = [
            e
            for e in lines(Path(runs[name].path), "progress.jsonl")
            if (e["stage"], e["kind"]) == ("fine_tune", "step")
        ]
        assert runs[name].updates == len(told)
    assert all(Run.open(run.path).plan.strategy.source == "user" for run in result.runs)
    drain(fit(request_with(data="split", strategy="head", out=Path("alone"))))
    one, other = bytes_of(Path("runs/split-head")), bytes_of(Path("alone"))
    assert one.keys() == other.keys()
    for name in ("plan.toml", "predictions.jsonl", "data.json", "model/model.safetensors"):
        assert one[name] == other[name], name


def test_a_run_may_stand_beside_data_and_a_second_call_takes_the_next_folder(
    pictures, stand_in, finished
):
    compared(["pictures"], ["head", "full"])
    result = compared(["runs/pictures-head", "pictures"], ["head"], seed=1)
    assert {run.name: run.path for run in result.runs} == {
        "pictures-head": "runs/pictures-head",
        "head": "runs/pictures-head-2",
    }
    assert [(one.strategy, one.seed) for one in stand_in.requests] == [
        ("head", 0),
        ("full", 0),
        ("head", 1),
    ]


def test_a_run_that_is_called_like_a_strategy_goes_by_its_path(pictures, stand_in, finished):
    shutil.copytree(finished.path, "old/head")
    result = compared(["old/head", "pictures"], ["head"])
    assert {run.name for run in result.runs} == {"old/head", "runs/pictures-head"}


def test_one_that_fails_is_reported_and_leaves_nothing(pictures, stand_in):
    texts = []
    steps = compare_strategies(["pictures"], ["head", "last:40", "full"], request_with())
    result = follow(steps, lambda event: texts.append(str(event.values.get("text"))))
    assert {run.name for run in result.runs} == {"head", "full"}
    (failed,) = result.failed
    assert failed.name == "last:40"
    assert f"last:40: {failed.error}" in texts
    assert folders() == ["latest", "pictures-full", "pictures-head"]


def test_where_fewer_than_two_are_left_that_is_an_error(pictures, stand_in):
    with pytest.raises(TrainingError, match=r"only head has finished \(runs/pictures-head\)"):
        compared(["pictures"], ["head", "last:40"])
    with pytest.raises(PlanError, match="last:40"):
        compared(["pictures"], ["last:40", "last:400"])


def test_a_failure_amid_the_work_and_a_run_without_a_model_are_reported_too(
    pictures, stand_in, finished, monkeypatch
):
    def broken(request):
        if request.strategy == "full":
            raise TrainingError("the disk is full; make room")
        done = yield from stand_in(request)
        if request.strategy == "auto":
            summary = json.loads((done.path / "summary.json").read_text("utf-8"))
            summary["shipped"]["strategy"] = "none"
            (done.path / "summary.json").write_text(json.dumps(summary), "utf-8")
        return done

    monkeypatch.setattr(recipe, "fit", broken)
    words = ["head", "full", "scratch", "auto"]
    result = compared(["pictures"], words)
    assert {run.name for run in result.runs} == {"head", "scratch"}
    assert [one.name for one in result.failed] == ["full", "auto"]
    assert result.failed[0].error == "the disk is full; make room"
    assert "shipped no model" in result.failed[1].error


def test_an_interruption_leaves_what_is_finished(pictures):
    steps = compare_strategies(["pictures"], ["head", "full", "scratch"], request_with())
    for event in steps:
        if event.stage == "fine_tune" and event.kind == "step":
            break
    steps.close()
    assert folders() == ["latest", "pictures-full", "pictures-head"]
    assert Path("runs/pictures-head/DONE").exists()
    assert Path("runs/pictures-full/INTERRUPTED").exists()
    assert Path("runs/latest").resolve().name == "pictures-head"


def test_minutes_are_shared_out_equally(pictures, stand_in):
    whole = {"minutes": 8.0, "elapsed": 60.0, "given": frozenset({"budget"})}
    compared(["pictures"], ["head", "full"], **whole)
    assert [(one.minutes, one.elapsed) for one in stand_in.requests] == [(3.5, 0.0), (3.5, 0.0)]
    assert all(one.given == {"budget", "strategy"} for one in stand_in.requests)


def test_bad_words_are_refused_before_anything_is_run(pictures, finished, stand_in):
    with pytest.raises(PlanError, match="deep is not a word of it"):
        compared(["pictures"], ["head", "deep"])
    with pytest.raises(UsageError, match="at least two runs or strategies"):
        compared(["pictures"], ["head", "last:0"])
    with pytest.raises(UsageError, match="neither is a run"):
        compared(["pictures", "others"], ["head", "full"])
    with pytest.raises(UsageError, match="needs data to run them on"):
        compared([str(finished.path)], ["head", "full"])
    with pytest.raises(DataError, match="nowhere does not exist"):
        compared(["nowhere"], ["head", "full"])
    Path("stopped").mkdir()
    Path("stopped/request.json").write_text("{}")
    with pytest.raises(RunFolderError, match="has not finished"):
        compared(["stopped", "pictures"], ["head"])
    assert folders() == []
    assert stand_in.requests == []


def test_a_bad_option_is_no_failed_strategy(pictures):
    with pytest.raises(UsageError, match="--seed"):
        compared(["pictures"], ["head", "full"], seed=-1)
    assert folders() == []


def test_a_run_differs_from_data(finished, pictures, tmp_path):
    assert is_run(finished.path)
    assert not is_run(pictures)
    assert not is_run("sample:digits")
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped" / "request.json").write_text("{}")
    assert is_run(tmp_path / "stopped")
