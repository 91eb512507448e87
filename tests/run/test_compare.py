"""Finished runs on the same examples: what is compared, what it says, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from plans import typed_request
from tiny import PREP, bytes_of, lines, network
from warmstart.api.run import Run
from warmstart.errors import DataError, PlanError, RunFolderError, TrainingError, UsageError
from warmstart.events import Event, drain, follow
from warmstart.planning import fine_tuning
from warmstart.planning.strategy import AUTO, parse
from warmstart.run import fit as recipe
from warmstart.run.compare import compare, compare_strategies
from warmstart.run.deliver import Finished
from warmstart.run.fit import fit

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture
def copy(finished, tmp_path):
    """Makes copies of the finished run, each with its files edited."""

    def make(name, *, summary=None, data=None, said=None):
        path = Path(shutil.copytree(finished.path, tmp_path / "runs" / name))
        for file, edit in (("summary.json", summary), ("data.json", data)):
            if edit is not None:
                plain = json.loads((path / file).read_text("utf-8"))
                edit(plain)
                (path / file).write_text(json.dumps(plain), "utf-8")
        if said is not None:
            lines = (path / "predictions.jsonl").read_text("utf-8").splitlines()
            kept = [said(json.loads(line)) for line in lines]
            text = "".join(json.dumps(line) + "\n" for line in kept if line is not None)
            (path / "predictions.jsonl").write_text(text, "utf-8")
        return path

    return make


def blind(line):
    """Always the same answer."""
    return {**line, "label": "blue"}


def without_test(line):
    return None if line["split"] == "test" else line


def as_run_of(strategy):
    return lambda summary: summary["shipped"].update(strategy=strategy)


def test_the_test_set_scores_as_it_did_in_the_run(finished, copy):
    result, test = compare(finished, copy("blind", said=blind)), finished.test
    assert (result.metric, result.rows, result.n) == ("accuracy", "test", 15)
    first, (pair,) = result.runs[0], result.pairs
    assert (first.name, first.path) == ("split", str(finished.path))
    assert (first.value, first.low, first.high) == (test.accuracy, test.low, test.high)
    assert (pair.a, pair.b, pair.winner, pair.n) == ("split", "blind", "split", 15)
    assert pair.difference == pytest.approx(test.accuracy - 1 / 3)
    assert pair.low <= pair.difference <= pair.high


def test_without_a_common_test_set_held_out_examples_are_compared(finished, copy):
    result = compare(finished.path, str(copy("again", said=without_test)))
    assert (result.rows, result.n) == ("held-out", 36)
    estimate, (pair,) = finished.estimate, result.pairs
    assert (result.runs[0].value, result.runs[0].low) == (estimate.value, estimate.low)
    assert (pair.difference, pair.winner, pair.p) == (0.0, None, 1.0)
    assert pair.low < -0.02 < 0.02 < pair.high  # a tie is not called equal


def test_what_a_run_had_seen_before_is_left_out(finished, copy):
    def leaky(data):
        tests = [e["id"] for e in data["examples"] if e["split"] == "test"]
        data["problems"].append({"kind": "leakage", "sentence": "so", "items": tests[:4]})
        data["examples"].remove(next(e for e in data["examples"] if e["split"] == "train"))

    result = compare(finished, copy("leaky", data=leaky))
    assert (result.n, result.rows, result.leaked) == (11, "test", 4)
    assert {run.name: run.n_train for run in result.runs} == {"split": 36, "leaky": 35}
    assert result.n_common_train == 35


def test_a_closed_form_head_is_there_when_it_is_fitted(finished, copy):
    result = compare(finished, copy("again"))
    seconds = finished.summary.seconds
    for run in result.runs:
        assert (run.updates, run.updates_to_95) == (0, 0)
        assert run.seconds == seconds["total"]
        own = sum(seconds[stage] for stage in ("read", "features", "checks", "plan", "head"))
        assert run.seconds_to_95 == pytest.approx(own, abs=0.001)
        assert not run.features_cached


def test_runs_go_by_their_folder_or_by_their_path(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, _ = copy("one"), copy("two")
    (tmp_path / "runs" / "latest").symlink_to("two")
    result = compare("runs/one/", "runs/latest")
    assert [(run.name, run.path) for run in result.runs] == [
        ("one", "runs/one"),
        ("two", "runs/two"),
    ]
    shutil.copytree(one, tmp_path / "elsewhere" / "one")
    result = compare("runs/one", "elsewhere/one")
    assert {run.name for run in result.runs} == {"runs/one", "elsewhere/one"}
    monkeypatch.chdir(one)
    assert [run.name for run in compare(".", "../two").runs] == ["one", "two"]


def test_fewer_than_two_runs_or_the_same_twice(finished, tmp_path, monkeypatch):
    for runs in ((), (finished,)):
        with pytest.raises(UsageError, match="at least two runs"):
            compare(*runs)
    with pytest.raises(UsageError, match="are the same run; name another one"):
        compare(finished, finished.path / ".." / finished.path.name)
    with pytest.raises(UsageError, match="wants paths of run folders"):
        compare(finished, 7)


def test_what_is_no_finished_run(finished, copy, tmp_path, pictures):
    with pytest.raises(RunFolderError, match="nowhere does not exist"):
        compare(finished, tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match=r"holds no summary\.json.*--strategies head,full"):
        compare(finished, pictures)
    waiting = copy("waiting")
    for name in ("summary.json", "DONE"):
        (waiting / name).unlink()
    with pytest.raises(RunFolderError, match=r"has not finished.*warmstart resume"):
        compare(finished, waiting)
    (waiting / "FAILED").write_text("the disk is full.\n")
    with pytest.raises(RunFolderError, match=r"failed \(the disk is full\); fix that"):
        compare(finished, waiting)


def test_a_run_without_a_model_or_without_predictions(finished, copy):
    with pytest.raises(RunFolderError, match="shipped no model"):
        compare(finished, copy("none", summary=as_run_of("none")))
    lost = copy("lost")
    for damage in (lambda path: path.write_text('{"id": 1}\n'), Path.unlink):
        damage(lost / "predictions.jsonl")
        with pytest.raises(RunFolderError, match=r"predictions\.jsonl cannot be read"):
            compare(finished, lost)


def strangers(data):
    for example in data["examples"]:
        example["sha256"] = example["sha256"][::-1]


def all_leaks(data):
    items = [e["id"] for e in data["examples"]]
    data["problems"].append({"kind": "leakage", "sentence": "so", "items": items})


def relabelled(line):
    return {**line, "target": "red" if line["target"] == "blue" else "blue"}


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        ({"data": lambda data: data["classes"].append("violet")}, r"\('violet' only in .*other"),
        ({"data": lambda data: data["classes"].remove("red")}, r"\('red' only in .*split"),
        ({"data": strangers}, "held out no image in common"),
        ({"data": all_leaks}, "51 images in common, but one of them was trained on"),
        ({"said": relabelled}, "51 images in common, all with other labels"),
    ],
)
def test_what_cannot_be_compared_says_why(finished, copy, edits, says):
    with pytest.raises(DataError, match=says):
        compare(finished, copy("other", **edits))


def request_with(**options):
    given = {"data": None, "base": network(), "preprocessing": PREP, "budget": "fast", **options}
    return typed_request(**given)


@pytest.fixture
def stand_in(finished, monkeypatch):
    """In place of `fit`: hands out copies of the finished run, and records its requests."""

    def copy(request):
        if request.strategy.count in (40, 400):
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
    monkeypatch.setattr(fine_tuning, "samples_from_scratch", lambda n: 320)  # short enough here
    steps = compare_strategies(["split"], ["head", "full", "head", "scratch"], request_with())
    result = follow(steps, lambda event: texts.append(event.values.get("text")))
    names = ["full", "head", "scratch"]
    assert folders() == ["latest", *(f"split-{name}" for name in names)]
    assert Path("runs/latest").resolve().name == "split-scratch"
    runs = {run.name: run for run in result.runs}
    assert {name: runs[name].path for name in names} == {n: f"runs/split-{n}" for n in names}
    assert (result.rows, result.n, result.failed) == ("test", 15, ())
    assert [runs[name].features_cached for name in names] == [True, False, True]
    assert {"head, 1 of 3", "full, 2 of 3", "scratch, 3 of 3"} <= {*texts}
    assert (runs["head"].updates, runs["head"].updates_to_95) == (0, 0)
    for name in ("full", "scratch"):
        events = lines(Path(runs[name].path), "progress.jsonl")
        steps = [e for e in events if (e["stage"], e["kind"]) == ("fine_tune", "step")]
        assert runs[name].updates == len(steps)
    assert all(Run.open(run.path).plan.strategy.source == "user" for run in result.runs)
    drain(fit(request_with(data="split", strategy="head", out=Path("alone"))))
    one, other = bytes_of(Path("runs/split-head/model")), bytes_of(Path("alone/model"))
    assert one == other


def test_a_run_may_stand_beside_data_and_a_second_call_takes_the_next_folder(pictures, stand_in):
    compared(["pictures"], ["head", "full"])
    result = compared(["runs/pictures-head", "pictures"], ["head"], seed=1)
    paths = {run.name: run.path for run in result.runs}
    assert paths == {"pictures-head": "runs/pictures-head", "head": "runs/pictures-head-2"}
    requests = [(str(one.strategy), one.seed) for one in stand_in.requests]
    assert requests == [("head", 0), ("full", 0), ("head", 1)]


def test_strategies_that_fail_are_reported_and_the_others_compared(
    pictures, stand_in, finished, monkeypatch
):
    def broken(request):
        if request.strategy == parse("full"):
            raise TrainingError("the disk is full; make room")
        done = yield from stand_in(request)
        if request.strategy == AUTO:
            summary = json.loads((done.path / "summary.json").read_text("utf-8"))
            summary["shipped"]["strategy"] = "none"
            (done.path / "summary.json").write_text(json.dumps(summary), "utf-8")
        return done

    monkeypatch.setattr(recipe, "fit", broken)
    result = compared(["pictures"], ["head", "full", "last:40", "scratch", "auto"])
    assert {run.name for run in result.runs} == {"head", "scratch"}
    assert [one.name for one in result.failed] == ["full", "last:40", "auto"]
    assert result.failed[0].error == "the disk is full; make room"
    assert "shipped no model" in result.failed[2].error
    assert not {"pictures-full", "pictures-last:40"} & {*folders()}
    with pytest.raises(TrainingError, match=r"only head has finished \(runs/pictures-head-2\)"):
        compared(["pictures"], ["head", "last:40"])
    with pytest.raises(PlanError, match="last:40"):
        compared(["pictures"], ["last:40", "last:400"])


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
