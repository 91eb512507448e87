"""Going on with a run: what is done again, what is not, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
import warmstart
from tiny import bytes_of
from warmstart.errors import DataError, ModelError, RunFolderError, UsageError
from warmstart.features.machine import n_processors
from warmstart.records.run_folder import RunFolder, open_log
from warmstart.run import journal
from warmstart.run.resume import as_before, check_same

CLOCKED = {"progress.jsonl", "summary.json", "request.json", "report.html"}


class Stop(BaseException):
    """Somebody closes the run."""


def stop_at(stage, kind):
    def see(event):
        if (event.stage, event.kind) == (stage, kind):
            raise Stop

    return see


@pytest.fixture
def place(pictures, tmp_path, monkeypatch):
    """The folder that paths are typed from: pictures/ and start.safetensors lie there."""
    monkeypatch.chdir(tmp_path)
    tiny.weights(tmp_path)
    return tmp_path


def fit(out="run", **options):
    """A run whose every path is relative."""
    options = {"base": "start.safetensors", "arch": tiny.ARCH, "budget": "fast", **options}
    return warmstart.fit(options.pop("data", "pictures"), out=out, **options)


def stopped(at=("head", "step"), out="run", **options):
    with pytest.raises(Stop):
        fit(out, on_event=stop_at(*at), **options)
    return Path(out)


def resumed(run, **options):
    """The run, and the stages and kinds of all events."""
    events = []
    finished = warmstart.resume(run, on_event=lambda e: events.append((e.stage, e.kind)), **options)
    return finished, events


def equal(run, whole):
    ours, theirs = bytes_of(run), bytes_of(whole)
    return {n for n in {*ours, *theirs} if ours.get(n) != theirs.get(n)} <= CLOCKED


def test_a_run_goes_on_from_another_working_directory(place, monkeypatch):
    run = stopped()
    whole = fit("whole/run").path
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    events = []
    finished = warmstart.resume("../run", on_event=lambda event: events.append(Path.cwd()))
    assert finished.path == Path("../run")  # as it was typed
    assert set(events) == {place / "elsewhere"}  # the caller's own place stays what it was
    assert equal(place / run, place / whole)
    assert not (place / "run" / "checkpoints").exists()
    assert (place / "run" / "request.json").exists()


def test_a_project_that_was_moved_goes_on_where_it_is_now(place, tmp_path_factory, monkeypatch):
    stopped()
    moved = tmp_path_factory.mktemp("moved") / "project"
    monkeypatch.chdir(moved.parent)
    shutil.move(place, moved)
    with pytest.raises(DataError, match="pictures does not exist"):
        warmstart.resume("project/run")
    monkeypatch.chdir(moved)
    monkeypatch.setenv("WARMSTART_CACHE", str(moved / "cache"))
    assert warmstart.resume("run").estimate.n == 36


def test_stages_that_were_done_are_not_done_again(place, monkeypatch):
    run = stopped()
    monkeypatch.setattr("warmstart.evidence.check.check", None)
    monkeypatch.setattr("warmstart.run.plan.make_plan", None)
    finished, seen = resumed(run)
    assert ("checks", "begin") not in seen
    assert ("checks", "note") in seen  # but what was found is told
    assert ("features", "step") not in seen
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert equal(run, fit("whole/run").path)
    assert finished.summary.seconds["checks"] > 0  # it was worked before


def test_time_is_counted_over_all_processes(place):
    run = stopped()
    log = (run / "progress.jsonl").read_text().splitlines()
    first = json.loads(log[0])
    first["values"]["read"] = 100.0
    (run / "progress.jsonl").write_text("\n".join([json.dumps(first), *log[1:]]) + "\n")
    summary = warmstart.resume(run).summary
    assert 100 < summary.seconds["read"] < 160
    blocks = sum(value for name, value in summary.seconds.items() if name != "total")
    assert blocks <= summary.seconds["total"] + 0.01
    assert summary.seconds["total"] < 200


def test_the_engine_is_the_one_that_the_run_began_with(place):
    """Whatever the clock or the store would choose now: another engine rounds differently."""
    run = stopped(at=("features", "begin"))
    path = run / "checkpoints" / "journal.json"
    notes = json.loads(path.read_text())
    assert notes.keys() == {"engine"}  # written before an image was passed
    assert notes["engine"]["value"] == "torch"
    other = {"value": "onnxruntime", "because": "of yesterday", "source": "rule", "rule": "torch"}
    path.write_text(json.dumps({"engine": other}))
    engine = warmstart.resume(run).plan.training.engine
    assert (engine.value, engine.because) == ("onnxruntime", "of yesterday")


def test_a_run_that_is_done_is_handed_back(place, monkeypatch):
    whole = fit()
    (place / "run" / "checkpoints").mkdir()  # killed before they were removed
    before = bytes_of(whole.path)
    monkeypatch.setattr("warmstart.run.resume.fit", None)
    again = warmstart.resume("run")
    assert again == whole
    assert bytes_of(again.path) == before
    assert not (place / "run" / "checkpoints").exists()


def test_what_is_damaged_or_gone_is_made_again(place):
    whole = fit("whole/run").path
    run = stopped()
    sound = (run / "inspection.json").read_bytes()
    (run / "inspection.json").write_bytes(sound[:100])
    _, seen = resumed(run)
    assert ("checks", "begin") in seen
    assert equal(run, whole)
    other = stopped(out="other/run")
    shutil.rmtree(other / "checkpoints")
    resumed(other)
    assert equal(other, whole)


def test_python_objects_are_given_again(place):
    files = sorted((place / "pictures").rglob("*.png"))
    images = np.stack([np.asarray(Image.open(path)) for path in files])
    data = (images, [path.parent.name for path in files])
    module = {"base": tiny.network(), "preprocessing": tiny.PREP, "arch": None}
    run = stopped(data=data, **module)
    with pytest.raises(UsageError, match=r"began in Python from objects \(data, base\)"):
        warmstart.resume(run)
    other = tiny.network()
    other.first.weight.data += 1
    with pytest.raises(ModelError, match=r"the weights of .* are not those that .* began with"):
        warmstart.resume(run, data=data, base=other)
    with pytest.raises(DataError, match=r"have changed since it began: .* has changed"):
        warmstart.resume(run, data=(images[::-1], data[1]), base=tiny.network())
    finished = warmstart.resume(run, data=data, base=tiny.network())
    assert finished.predict(images[:2])[0].label in data[1]
    assert equal(run, fit("whole/run", data=data, **module).path)


def repaint(place):
    Image.new("RGB", (32, 32), "white").save(place / "pictures" / "red" / "003.png")


def reweigh(place):
    other = tiny.timm.create_model("lcnet_035", num_classes=7)
    tiny.save_file(other.state_dict(), place / "start.safetensors")


def relabel(place):
    (place / "fix.csv").write_text("path,label\nred/003.png,green\n")


def fail(place):
    RunFolder(place / "run").mark("FAILED", "red holds no image that can be read.")


REFUSED = {
    "an image": (repaint, DataError, r"red/003\.png has changed; put them back, or begin a new"),
    "a label": (relabel, DataError, r"red/003\.png has another label, group or split; put them"),
    "a link": (
        lambda place: (place / "pictures" / "red" / "zz.png").symlink_to("/nowhere.png"),
        DataError,
        "its list of unreadable files differs",
    ),
    "weights": (
        reweigh,
        ModelError,
        r"the weights of start\.safetensors are not those that .* began",
    ),
    "no weights": (
        lambda place: (place / "start.safetensors").write_bytes(b""),
        ModelError,
        "start",
    ),
    "no plan": (
        lambda place: (place / "run" / "plan.toml").unlink(),
        RunFolderError,
        r"plan\.toml was changed or removed after its run",
    ),
    "a plan": (
        lambda place: (place / "run" / "plan.toml").write_text("format = 1\n"),
        RunFolderError,
        r"plan\.toml was changed or removed after its run",
    ),
    "a failure": (fail, RunFolderError, r"would again: red holds no image that can be read\."),
}


def test_what_has_changed_is_refused_and_nothing_is_touched(place, tmp_path_factory):
    (place / "fix.csv").write_text("path,label\nred/003.png,blue\n")
    stopped(relabel="fix.csv")
    sound = shutil.copytree(place, tmp_path_factory.mktemp("sound") / "place")
    for name, (change, error, says) in REFUSED.items():
        change(place)
        before = bytes_of(place / "run")
        with pytest.raises(error, match=says):
            warmstart.resume("run")
        assert bytes_of(place / "run") == before, name
        shutil.rmtree(place)
        shutil.copytree(sound, place)
        os.chdir(place)  # the folder of that name is another one now
    assert warmstart.resume("run").estimate.n == 36


def test_what_is_no_run_is_refused(place):
    for path in ("nowhere", "start.safetensors"):
        with pytest.raises(RunFolderError, match=r"does not exist; name the folder of a run"):
            warmstart.resume(path)
    with pytest.raises(RunFolderError, match=r"pictures has no request\.json"):
        warmstart.resume("pictures")
    with pytest.raises(UsageError, match=r"resume\(\) wants the path of a run folder"):
        warmstart.resume(3)
    assert not (place / "pictures" / "progress.jsonl").exists()


def test_a_run_at_work_is_left_alone(place):
    run = stopped()
    before = bytes_of(run)
    with open_log(RunFolder(run)), pytest.raises(RunFolderError, match="another process works on"):
        warmstart.resume(run)
    with pytest.raises(RunFolderError, match="Run `warmstart resume run` to continue it"):
        fit()
    assert bytes_of(run) == before
    assert warmstart.resume(run).estimate.n == 36


RUN = Path("runs/a")


def changed(**values):
    return {**journal.environment(), **values}


@pytest.mark.parametrize(
    ("name", "state"), [("torch", " is installed"), ("gone", "it is not inst")]
)
def test_another_version_is_refused(name, state):
    before = journal.environment()
    assert check_same(RUN, before) == ""
    assert before["packages"].keys() >= {"warmstart", "torch", "numpy", "timm"}
    packages = {n: v for n, v in before["packages"].items() if n != "timm"}
    assert check_same(RUN, changed(packages=packages)) == ""  # timm came since
    with pytest.raises(RunFolderError, match=rf"{name} 9\.9.*{state}.*install {name}==9\.9 again"):
        check_same(RUN, changed(packages={**packages, name: "9.9"}))


def test_fewer_processors_are_refused_and_other_ones_reported():
    n = n_processors()  # OMP_NUM_THREADS does not count: a run that goes on has its own number
    with pytest.raises(
        RunFolderError, match=rf"on {n + 2} processors, and this process may use {n}"
    ):
        check_same(RUN, changed(processors=n + 2))
    for name in ("cpu", "gpu", "arithmetic"):
        says = "another processor than before: last digits may differ"
        assert check_same(RUN, changed(**{name: "another"})) == says


def test_as_many_processors_and_threads_as_before_and_then_as_many_as_now():
    threads = torch.get_num_threads()
    before = changed(processors=1, threads=threads + 1)
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with as_before(before):
        assert torch.get_num_threads() == threads + 1
        assert own is None or journal.environment()["processors"] == 1
    assert torch.get_num_threads() == threads
    assert own is None or os.sched_getaffinity(0) == own
