"""The studio with the real flow behind it: learn, correct, learn again, take home, kill -9."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import signal
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import warmstart
from hue_images import fill
from server_client import form, png
from studio_client import entered, nothing, open_as, open_studio, predicted
from tiny import weights
from warmstart.errors import DataError, RunFolderError, UsageError
from warmstart.events import BESIDE, Event, follow
from warmstart_studio import project as studio_project
from warmstart_studio import result
from warmstart_studio.studio import ProgressTracker, StudioOptions, Worker, open_project

COUNTS = {"blue": 16, "green": 16, "red": 16}


@pytest.fixture
def data(tmp_path):
    """48 pictures; two blue ones lie among the red ones."""
    root = fill(tmp_path / "pictures", COUNTS)
    for name in ("000.png", "001.png"):
        (root / "blue" / name).rename(root / "red" / f"wrong-{name}")
    return root


def test_learn_correct_learn_again_take_home(tmp_path, data):
    before = digests(data)
    with open_studio(tmp_path / "studio", data) as page:
        content = page.get("board")
        assert content["classes"] == ["blue", "green", "red"]
        assert len(content["pictures"]) == 48
        work = page.learn()
        assert [note["title"] for note in work["notes"]][:2] == ["Data", "Base"]
        first = page.get("result")
        assert (first["number"], first["n_changes"], first["comparison"]) == (1, 0, None)
        names = {one["id"]: one["name"] for one in content["pictures"]}
        doubted = {names[one["id"]] for one in first["label_issues"] if one["suggested"] == "blue"}
        assert doubted >= {"wrong-000.png", "wrong-001.png"}
        assert {names[id] for id in first["mistakes"]} >= {"wrong-000.png", "wrong-001.png"}
        wrong = [id for id, name in names.items() if name.startswith("wrong")]
        page.post("label", {"ids": wrong, "label": "blue"})
        assert page.get("result")["n_changes"] == 2
        page.learn()
        second = page.get("result")
        assert (second["number"], second["n_changes"]) == (2, 0)
        assert second["comparison"]["number"] == 1
        assert second["comparison"]["kind"] in ("better", "same")
        assert second["estimate"]["value"] >= first["estimate"]["value"]
        assert second["command"].startswith("warmstart fit ")
        taken = page.get("downloads/model.zip")
        answer = page.tried((data / "green" / "000.png").read_bytes())
        assert answer["label"] == "green"
        assert {one["label"] for one in answer["nearest"]} <= set(COUNTS)
    assert digests(data) == before
    assert predicted(tmp_path, io.BytesIO(taken), data / "green" / "000.png") == "green"


def digests(root):
    """Every file below a folder and its content."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_learning_that_was_stopped_goes_on(tmp_path, data):
    with open_studio(tmp_path / "studio", data) as page:
        page.post("fit", {"budget": "balanced", "settings": ["strategy=last:1"]})
        page.until(lambda content: content["work"]["stage"] == "Fine-tune")
        page.post("stop")
        assert page.wait("stopped")["number"] == 1
        assert page.ask("GET", "/api/result")[0] == 404
    with open_studio(tmp_path / "studio") as page:
        assert page.get("board")["work"]["state"] == "stopped"
        page.post("resume")
        page.wait("idle")
        assert page.get("result")["number"] == 1


def test_a_name_that_changes_is_no_change_of_what_was_learnt(tmp_path, data):
    with open_studio(tmp_path / "studio", data) as page:
        page.learn()
        before = page.get("result")
        page.post("classes", {"rename": ["red", "crimson"]})
        after = page.get("result")
        assert after["n_changes"] == 0
        assert {one["name"] for one in after["classes"]} == {"blue", "green", "crimson"}
        assert {one["label"] for one in after["label_issues"]} <= {"blue", "green", "crimson"}
        assert after["mistakes"].keys() == before["mistakes"].keys()
        answer = page.tried((data / "red" / "005.png").read_bytes())
        assert answer["label"] == "crimson"
        page.learn()
        assert page.get("result")["comparison"]["kind"] == "same"
        page.post("undo")
        assert page.get("result")["n_changes"] == 0


def test_pictures_of_one_group_count_once_in_the_comparison(tmp_path, data, monkeypatch):
    """What moves one group of four is no four independent pictures."""
    seen = []
    real = result.hits_difference
    monkeypatch.setattr(result, "hits_difference", lambda *a: seen.append(a[2]) or real(*a))
    rows = ["path,label,visit"]
    for path in sorted(data.rglob("*.png")):
        number = int(path.stem.rpartition("-")[2])
        rows.append(f"{path.relative_to(data)},{path.parent.name},{path.parent.name}{number // 4}")
    (data / "t.csv").write_text("\n".join(rows))
    asked = StudioOptions(data=str(data / "t.csv"), out=tmp_path / "studio", group="visit")
    project, _ = open_project(asked, nothing)
    project.close()
    with open_studio(tmp_path / "studio") as page:
        page.learn()
        page.learn()
        assert page.get("result")["comparison"]["kind"] == "same"
    assert 2 <= len(set(seen[0].tolist())) <= 14  # of 48 pictures


def test_a_taking_in_that_was_cut_off_is_done_again_without_doubles(tmp_path, data, monkeypatch):
    asked = StudioOptions(data=str(data), out=tmp_path / "studio")
    monkeypatch.setattr(studio_project, "CHUNK", 10)
    with monkeypatch.context() as patched:
        patched.setattr(studio_project.os, "sync", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            open_project(asked, nothing)
    project, n_lost = open_project(asked, nothing)
    assert (len(project.board.labels), n_lost) == (48, 0)
    assert len(list((project.path / "pictures").iterdir())) == 48
    project.close()
    project, n_lost = open_project(asked, nothing)
    assert n_lost is None  # it is there already
    project.close()


def test_the_labels_taken_home_name_the_users_files_and_correct_them(tmp_path, data):
    with open_studio(tmp_path / "studio", data) as page:
        shown = {one["source"]: one["id"] for one in page.get("board")["pictures"]}
        page.post("label", {"ids": [shown["red/002.png"]], "label": "blue"})
        page.post("label", {"ids": [shown["red/003.png"]], "label": None})
        page.add("red", ("mine.png", png()))
        page.post("undo")
        _, table = page.ask("GET", "/api/downloads/labels.csv")
    (tmp_path / "labels.csv").write_bytes(table)
    run = warmstart.fit(
        data,
        relabel=tmp_path / "labels.csv",
        budget="fast",
        out=tmp_path / "run",
        base=weights(tmp_path),
        arch="timm:lcnet_035",
    )
    learnt = json.loads((run.path / "data.json").read_text())["examples"]
    labels = {one["id"]: one["label"] for one in learnt}
    assert labels["red/002.png"] == "blue"
    assert "red/003.png" not in labels
    assert labels["red/004.png"] == "red"
    assert len(labels) == len(shown) - 1


def test_without_a_signal_there_is_a_result_and_no_model(tmp_path):
    root = fill(tmp_path / "pictures", {"blue": 160})
    (root / "other").mkdir()
    for number in range(0, 160, 2):
        (root / "blue" / f"{number:03}.png").rename(root / "other" / f"{number:03}.png")
    with open_studio(tmp_path / "studio", root) as page:
        page.learn()
        content = page.get("result")
        assert (content["verdict"]["kind"], content["ships"]) == ("no-signal", False)
        assert content["headline"].startswith("Not ready: no signal: ")
        assert page.ask("GET", "/api/downloads/model.zip")[0] == 409
        body, kind = form([("new.png", png())])
        assert page.ask("POST", "/api/predict", body, kind)[0] == 409
        assert page.ask("GET", "/api/downloads/report.html")[0] == 200
        assert page.ask("GET", "/api/downloads/labels.csv")[0] == 200


def test_what_a_setting_cannot_be_is_said_in_the_forecast(tmp_path, data):
    with open_studio(tmp_path / "studio", data) as page:
        result = page.get("forecast?budget=fast&settings=training.epochs=none")
        assert "training.epochs" in result["problem"]
        result = page.get("forecast?budget=balanced&settings=strategy=last:2")
        assert result["problem"] is None
        rows = {row["name"]: row for row in result["rows"]}
        assert (rows["strategy"]["value"], rows["strategy"]["source"]) == ("last:2", "user")
        assert rows["epochs"]["path"] == "training.epochs"


def test_data_that_cannot_be_read_leave_no_half_project(tmp_path):
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(DataError):
        open_project(StudioOptions(data=str(tmp_path / "empty"), out=tmp_path / "studio"), nothing)
    assert not (tmp_path / "studio").exists()
    with pytest.raises(RunFolderError, match="holds something else"):
        open_project(StudioOptions(out=tmp_path), nothing)


def test_kill_9_in_the_middle_loses_nothing(tmp_path, data):
    place = tmp_path / "studio"
    process, page = entered(place, str(data))
    some = [one["id"] for one in page.get("board")["pictures"][:3]]
    page.post("label", {"ids": some, "label": "green"})
    page.post("fit", {"budget": "balanced", "settings": ["strategy=last:1", "input.size=64"]})
    page.until(lambda content: content["work"]["stage"] == "Fine-tune")
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process, page = entered(place)
    content = page.get("board")
    assert (content["work"]["state"], content["work"]["number"]) == ("stopped", 1)
    labels = {one["id"]: one["label"] for one in content["pictures"]}
    assert len(labels) == 48
    assert {labels[id] for id in some} == {"green"}
    assert content["undo"] == "moved 3 pictures to green"
    page.post("resume")
    page.wait("idle")
    assert page.get("result")["number"] == 1
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert (Path(place) / "runs" / "1" / "DONE").exists()


# ---- Several labels a picture, and numbers.

N = 40
TASKS = {"multilabel": {"task": "multilabel"}, "regress": {"label": "light"}}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Noise whose colour has two labels and whose light is a number; a table for each."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    has, light = rng.random((N, 2)) < 0.5, rng.uniform(60, 180, size=N)
    pixels = light[:, None, None, None] + rng.normal(0, 12, (N, 32, 32, 3))
    pixels[..., 0] += 60 * has[:, :1, None]
    pixels[..., 2] += 60 * has[:, 1:, None]
    sets, numbers = ["path,label"], ["path,light"]
    for n, one in enumerate(np.clip(pixels, 0, 255).astype(np.uint8)):
        Image.fromarray(one).save(root / f"{n}.png")
        sets.append(f"{n}.png,{'|'.join(np.array(['red', 'blue'])[has[n]])}")
        numbers.append(f"{n}.png,{light[n] / 10:.3f}")
    (root / "sets.csv").write_text("\n".join(sets))
    (root / "numbers.csv").write_text("\n".join(numbers))
    return {"multilabel": root / "sets.csv", "regress": root / "numbers.csv"}


@pytest.mark.parametrize("task", TASKS)
def test_it_opens_learns_and_answers_in_the_words_of_the_task(tmp_path, tables, task):
    with open_as(tmp_path / "s", data=str(tables[task]), **TASKS[task]) as page:
        board = page.get("board")
        assert (board["task"], len(board["pictures"]), board["problem"]) == (task, N, "")
        page.learn()
        content = page.get("result")
        assert content["task"] == task
        assert "classes" not in json.dumps(content["headline"] + content["verdict"]["sentence"])
        assert ("variance" in content["score_words"]) == (task == "regress")
        assert f"--task {task}" in content["command"]
        assert (len(content["labels"]) == 2) == (task == "multilabel")
        assert (len(content["numbers"]) == N) == (task == "regress")
        answer = page.tried((tables[task].parent / "0.png").read_bytes())
        assert {"labels"} <= answer.keys() or {"value", "low", "high"} <= answer.keys()
        assert page.ask("GET", "/api/downloads/model.zip")[0] == 200


def test_labels_are_given_and_taken_one_by_one(tmp_path, tables):
    with open_as(tmp_path / "s", data=str(tables["multilabel"]), task="multilabel") as page:
        red = next(one["id"] for one in page.get("board")["pictures"] if one["label"] == "red")
        page.post("label", {"ids": [red], "label": "blue", "on": True})
        assert page.project.board.labels[red] == "blue|red"
        assert page.get("board")["undo"] == "added the label blue to 1 picture"
        page.post("label", {"ids": [red], "label": "blue", "on": False})
        page.post("label", {"ids": [red], "label": "red", "on": False})
        assert page.project.board.labels[red] == ""
        page.post("undo")
        page.post("classes", {"rename": ["blue", "azure"]})
        assert not any("blue" in label for label in page.project.board.labels.values())
        page.post("classes", {"remove": "azure"})
        assert page.get("board")["problem"].startswith("Two labels")
        assert len(page.get("board")["pictures"]) == N
        status, content = page.ask("POST", "/api/label", {"ids": [red], "label": "a|b", "on": True})
        assert (status, "cannot contain the character |" in content["detail"]) == (422, True)


def test_numbers_are_set_and_what_is_for_classes_is_refused(tmp_path, tables):
    with open_as(tmp_path / "s", data=str(tables["regress"]), label="light") as page:
        id = page.get("board")["pictures"][0]["id"]
        page.post("label", {"ids": [id], "label": " 12.50 "})
        assert page.project.board.labels[id] == "12.5"
        for path, value, part in (
            ("label", {"ids": [id], "label": "warm"}, "warm is not a number"),
            ("label", {"ids": [id], "label": "nan"}, "nan is not a number"),
            ("label", {"ids": [id], "label": "5", "on": True}, "a picture has one label here"),
            ("classes", {"add": "cat"}, "pictures have numbers here"),
        ):
            status, content = page.ask("POST", f"/api/{path}", value)
            assert (status, "\n" in content["detail"]) == (422, False)
            assert part in content["detail"]
        table = page.ask("GET", "/api/downloads/labels.csv")[1].decode()
        assert next(csv.reader(table.splitlines())) == ["path", "label", "split"]


def test_learning_again_is_compared_and_another_session_knows_the_task(tmp_path, tables):
    with open_as(tmp_path / "s", data=str(tables["regress"]), label="light") as page:
        page.learn()
        id = page.get("board")["pictures"][0]["id"]
        page.post("label", {"ids": [id], "label": "12"})
        page.learn()
        assert "points" in page.get("result")["comparison"]["words"]
    with open_as(tmp_path / "s") as page:
        assert page.get("board")["task"] == "regress"
        assert page.project.board.labels[id] == "12"


def test_equal_numbers_and_texts_are_refused(tmp_path, tables):
    with open_as(tmp_path / "s", data=str(tables["regress"]), label="light") as page:
        ids = [one["id"] for one in page.get("board")["pictures"]]
        page.post("label", {"ids": ids, "label": "5"})
        status, content = page.ask("POST", "/api/fit", {})
        assert (status, "All numbers are equal" in content["detail"]) == (422, True)
    texts = "text,label\nsome words to learn from,1.5\nand others,2.5\n" * 9
    (tmp_path / "t.csv").write_text(texts)
    with pytest.raises(DataError, match="holds texts, and the studio shows pictures"):
        open_project(StudioOptions(data=str(tmp_path / "t.csv"), out=tmp_path / "t"), nothing)


# ---- One run at a time: how it ends, whatever a stop meets.


STEP = Event(stage="features", kind="step", step=1, of=2)


class Told:
    """A worker, and what it told."""

    def __init__(self):
        self.seen, self.done = [], []
        self.worker = Worker(self.seen.append, self.done.append)

    def run(self, steps, number=1):
        self.worker.begin(number, "fast", partial(follow_steps, steps))
        self.worker.wait(10)


def follow_steps(steps, on_event):
    """A job of these events."""
    return follow(steps(), on_event)


def one_step():
    yield STEP


@pytest.fixture
def told():
    return Told()


def test_a_run_that_ends_is_told_of_once_and_another_may_begin(told):
    told.run(one_step)
    told.run(one_step, number=2)
    assert told.done == [1, 2]
    assert told.worker.now.state == "idle"
    turns = [one.turn for one in told.seen]
    assert turns == sorted(set(turns))


def test_a_stop_in_the_middle_closes_the_work(told):
    closed, begun = [], threading.Event()

    def steps():
        try:
            while True:
                begun.set()
                yield STEP
        finally:
            closed.append(True)

    told.worker.begin(1, "fast", partial(follow_steps, steps))
    assert begun.wait(10)
    with pytest.raises(UsageError, match="a run is in progress"):
        told.worker.begin(2, "fast", partial(follow_steps, steps))
    told.worker.stop()
    told.worker.wait(10)
    assert closed == [True]
    assert told.done == []
    assert told.worker.now.state == "stopped"


def test_a_stop_at_or_after_the_end_changes_nothing(told):
    def steps():
        yield STEP
        told.worker.stop()

    told.run(steps)
    told.worker.stop()
    assert told.worker.now.state == "idle"
    told.run(one_step, number=2)
    assert told.done == [1, 2]


@pytest.mark.parametrize(
    ("error", "words"),
    [(DataError("the data are gone"), "the data are gone"), (KeyError("x"), "this is a bug in")],
)
def test_a_failure_is_told_and_does_not_block(told, error, words):
    def steps():
        yield STEP
        raise error

    told.run(steps)
    assert told.worker.now.state == "failed"
    assert words in told.worker.now.error
    told.run(one_step, number=2)
    assert told.done == [2]


@pytest.mark.parametrize("end", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_ended_from_outside_has_stopped_and_can_be_gone_on_with(told, end):
    def steps():
        yield STEP
        raise end

    told.run(steps)
    assert told.worker.status().state == "stopped"
    assert told.seen[-1].state == "stopped"
    told.run(one_step)
    assert told.done == [1]


def test_a_thread_that_is_gone_without_a_word_is_noticed(told):
    """Nothing was told of its end: whoever looks finds out, and so does whoever begins anew."""
    told.run(one_step)
    told.worker.now = replace(told.worker.now, state="working")  # its last word was lost
    assert told.worker.status().state == "stopped"
    assert told.seen[-1].state == "stopped"
    told.worker.now = replace(told.worker.now, state="stopping")
    told.run(one_step, number=2)
    assert told.worker.status().state == "idle"


# ---- The live chart: a line for each fold, beside its own linear probe.


def begin(**values):
    return Event(stage="fine_tune", kind="begin", values={"trainings": 3, "folds": 2, **values})


def step(n, job, epoch, **values):
    values = {"loss": 0.5, "job": job, "epoch": epoch, **values}
    return Event(stage="fine_tune", kind="step", step=n, of=300, values=values)


def curves(*events):
    tracker = ProgressTracker(1, "balanced")
    for event in events:
        tracker.update(event)
    return {one.fold: (one.points, one.probe) for one in tracker.now.curves}


def test_two_folds_are_two_lines_over_their_own_epochs():
    result = curves(
        begin(),
        step(10, 1, 1.0, val=0.9, head=0.8),
        step(20, 1, 2.0, val=0.95, head=0.8),
        step(110, 2, 1.0, val=0.7, head=0.6),
        step(115, 2, 1.5),
        step(210, 3, 1.0),
    )
    assert result == {"fold 1": (((1.0, 0.9), (2.0, 0.95)), 0.8), "fold 2": (((1.0, 0.7),), 0.6)}


def test_a_training_that_begins_anew_is_drawn_anew():
    result = curves(
        begin(),
        step(10, 1, 1.0, val=0.9, head=0.8),
        step(20, 1, 2.0, val=0.1, head=0.8),
        step(10, 1, 1.0, val=0.85, head=0.8),
    )
    assert result == {"fold 1": (((1.0, 0.85),), 0.8)}


def test_what_is_made_only_to_compare_with_is_not_drawn():
    assert curves(begin(**{BESIDE: "scratch"}), step(10, 1, 1.0, val=0.9)) == {}
