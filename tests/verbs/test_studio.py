"""The studio with the real flow behind it: learn, correct, learn again, take home, kill -9."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import re
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from drawing import fill
from serving import form, live, png
from warmstart.errors import DataError, RunFolderError
from warmstart.flow import fit
from warmstart.verbs.studio import Opening, application, opened

COUNTS = {"blue": 16, "green": 16, "red": 16}


def nothing(event):
    """Shows no event."""


@contextmanager
def open_studio(place, data=None):
    """A studio on `place`, as its page sees it."""
    project, _ = opened(Opening(data=data and str(data), out=place), nothing)
    app, close = application(project, fit, "lite0", "secret", 1)
    try:
        with live(app) as server:
            try:
                yield Page(server.port, "studio-1=secret", project)
            finally:
                close()
    finally:
        project.close()


class Page:
    """Asks a studio as its page does."""

    def __init__(self, port, cookie, project=None):
        self.port, self.cookie, self.project = port, cookie, project

    def ask(self, method, path, body=None, kind="application/json"):
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body)
        link.request(method, path, body, {"cookie": self.cookie, "content-type": kind})
        answer = link.getresponse()
        content = answer.read()
        link.close()
        is_json = "json" in (answer.getheader("content-type") or "")
        return answer.status, json.loads(content) if is_json else content

    def get(self, path):
        status, found = self.ask("GET", f"/api/{path}")
        assert status == 200, found
        return found

    def post(self, path, value=None):
        status, found = self.ask("POST", f"/api/{path}", value or {})
        assert status in (200, 202), found
        return found

    def add(self, label, *files):
        body, kind = form(files)
        return self.ask("POST", f"/api/pictures?label={label}", body, kind)[1]

    def wait(self, *states, seconds=120):
        until = time.monotonic() + seconds
        while (work := self.get("board")["work"])["state"] not in states:
            assert time.monotonic() < until, work
            assert work["state"] != "failed", work
            time.sleep(0.05)
        return work

    def learn(self, **asked):
        self.post("fit", asked)
        return self.wait("idle")


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
        told = page.get("board")
        assert told["classes"] == ["blue", "green", "red"]
        assert len(told["pictures"]) == 48
        work = page.learn()
        assert [note["title"] for note in work["notes"]][:2] == ["Data", "Start"]
        first = page.get("result")
        assert (first["number"], first["changed"], first["compared"]) == (1, 0, None)
        names = {one["id"]: one["name"] for one in told["pictures"]}
        doubted = {names[one["id"]] for one in first["suspects"] if one["suggested"] == "blue"}
        assert doubted >= {"wrong-000.png", "wrong-001.png"}
        assert {names[id] for id in first["wrong"]} >= {"wrong-000.png", "wrong-001.png"}
        wrong = [id for id, name in names.items() if name.startswith("wrong")]
        page.post("label", {"ids": wrong, "label": "blue"})
        assert page.get("result")["changed"] == 2
        page.learn()
        second = page.get("result")
        assert (second["number"], second["changed"]) == (2, 0)
        assert second["compared"]["number"] == 1
        assert second["compared"]["kind"] in ("better", "same")
        assert second["estimate"]["value"] >= first["estimate"]["value"]
        assert second["command"].startswith("warmstart fit ")
        taken = page.get("take/model.zip")
        answer = tried(page, (data / "green" / "000.png").read_bytes())
        assert answer["label"] == "green"
        assert {one["label"] for one in answer["nearest"]} <= set(COUNTS)
    assert digests(data) == before
    assert predicted(tmp_path, taken, data / "green" / "000.png") == "green"


def digests(root):
    """Every file below a folder and its content."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def tried(page, payload):
    body, kind = form([("new.png", payload)])
    status, found = page.ask("POST", "/api/try", body, kind)
    assert status == 200, found
    return found


def predicted(tmp_path, taken, picture):
    """What the downloaded model says in a process of its own."""
    zipfile.ZipFile(io.BytesIO(taken)).extractall(tmp_path / "home")
    (run,) = (tmp_path / "home").iterdir()
    command = [sys.executable, "-m", "warmstart", "predict", str(run), str(picture), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["label"]


def test_a_learning_that_was_stopped_goes_on(tmp_path, data):
    with open_studio(tmp_path / "studio", data) as page:
        page.post("fit", {"budget": "balanced", "settings": ["strategy=last:1"]})
        page.post("stop")
        assert page.wait("stopped")["number"] == 1
        assert page.ask("GET", "/api/result")[0] == 404
    with open_studio(tmp_path / "studio") as page:
        if page.get("board")["work"]["state"] == "idle":  # it was stopped before it had a folder
            return
        page.post("resume")
        page.wait("idle")
        assert page.get("result")["number"] == 1


def test_a_bad_board_is_refused_and_an_unlearnable_one_is_told(tmp_path):
    with open_studio(tmp_path / "studio") as page:
        assert page.ask("POST", "/api/fit", {})[0] == 422
        found = page.add("cat", ("a.png", png()), ("b.txt", b"text"), ("c.svg", b"<svg/>"))
        assert [one["name"] for one in found["refused"]] == ["b.txt", "c.svg"]
        assert "SVG drawing" in found["refused"][1]["why"]
        assert page.ask("GET", "/api/forecast")[0] == 422


def test_what_a_setting_cannot_be_is_said_in_the_forecast(tmp_path, data):
    with open_studio(tmp_path / "studio", data) as page:
        found = page.get("forecast?budget=fast&settings=training.passes=none")
        assert "training.passes" in found["problem"]
        found = page.get("forecast?budget=balanced&settings=strategy=last:2")
        assert found["problem"] is None
        rows = {row["what"]: row for row in found["rows"]}
        assert (rows["how deep"]["value"], rows["how deep"]["source"]) == ("last:2", "user")
        assert rows["passes"]["path"] == "training.passes"


def test_data_that_cannot_be_read_leave_no_half_project(tmp_path):
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(DataError):
        opened(Opening(data=str(tmp_path / "empty"), out=tmp_path / "studio"), nothing)
    with pytest.raises(RunFolderError, match="holds something else"):
        opened(Opening(out=tmp_path), nothing)


def started(place, *words):
    """A studio as a command; the process and its page."""
    command = [sys.executable, "-m", "warmstart", "studio", *words, "--out", str(place)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--no-open", "--json"], stdout=subprocess.PIPE, text=True
    )
    url = json.loads(process.stdout.readline())["url"]
    port, token = re.search(r":(\d+)/\?token=(.+)", url).groups()
    return process, Page(int(port), f"studio-{port}={token}")


def test_kill_9_in_the_middle_loses_nothing(tmp_path, data):
    place = tmp_path / "studio"
    process, page = started(place, str(data))
    some = [one["id"] for one in page.get("board")["pictures"][:3]]
    page.post("label", {"ids": some, "label": "green"})
    page.post("fit", {"budget": "balanced", "settings": ["strategy=last:1"]})
    until = time.monotonic() + 120
    while page.get("board")["work"]["stage"] != "Tune":
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process, page = started(place)
    told = page.get("board")
    assert (told["work"]["state"], told["work"]["number"]) == ("stopped", 1)
    labels = {one["id"]: one["label"] for one in told["pictures"]}
    assert len(labels) == 48
    assert {labels[id] for id in some} == {"green"}
    assert told["undo"] == "moved 3 pictures to green"
    page.post("resume")
    page.wait("idle")
    assert page.get("result")["number"] == 1
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert (Path(place) / "runs" / "1" / "DONE").exists()
