"""The studio's routes over a real socket, with tools that do next to nothing."""

from __future__ import annotations

import http.client
import itertools
import json
import select
import socket
import threading
from contextlib import contextmanager

import pytest

from server_client import ODD_HEADS, form, live, png, wait_until
from warmstart.errors import UsageError
from warmstart_studio import app
from warmstart_studio.app import Hub, Keys, make_app
from warmstart_studio.project import Project, table_of
from warmstart_studio.studio import Working

KEYS = Keys("a-token", "a-secret")
JPEG = b"\xff\xd8\xff"


class Desk:
    """Work that notes what was asked of it; it is its own worker."""

    def __init__(self, place):
        self.place, self.worker = place, self
        self.now, self.begun = Working(), []

    def status(self):
        return self.now

    def stop(self):
        pass

    def begin(self, number, table, budget, settings):
        self.begun.append((number, table, budget, settings))
        self.now = Working(state="working", number=number)

    def resume(self):
        raise UsageError("nothing to go on with")

    def forecast(self, table, budget, settings):
        return {"seconds": 1.0}

    def answer(self, number, payload, name):
        return {"label": "cat", "number": number}

    def download(self, number, name):
        return self.place / name


class Client:
    """Talks to a studio as its page does."""

    def __init__(self, server, project, desk):
        self.server, self.project, self.desk = server, project, desk
        self.cookie = f"studio-1={KEYS.session}"

    def get(self, path, **headers):
        return self.server.ask("GET", path, **{"cookie": self.cookie, **headers})

    def post(self, path, value=None, **headers):
        content = {"cookie": self.cookie, "content_type": "application/json", **headers}
        return self.server.ask("POST", path, json.dumps(value or {}), **content)

    def send(self, *files, path="pictures?label=cat", **query):
        body, kind = form(files)
        path = "/api/" + "&".join([path, *(f"{key}={value}" for key, value in query.items())])
        return self.server.ask("POST", path, body, content_type=kind, cookie=self.cookie)


@pytest.fixture
def studio(tmp_path, monkeypatch):
    project, desk = Project.open(tmp_path / "p", "p"), Desk(tmp_path)
    monkeypatch.setattr(app, "result_of", lambda project, number: {"number": number})
    hub = Hub()
    gate = make_app(project, desk, hub, KEYS, 1)
    with live(gate) as server:
        client = Client(server, project, desk)
        client.app = gate.app
        client.hub = hub
        yield client
        hub.close()
    project.close()


def pair(studio):
    """Two classes of two pictures each; their ids."""
    result = []
    for label in ("cat", "dog"):
        files = [(f"{label}{n}.png", png((n, len(result), 9))) for n in range(2)]
        result += studio.send(*files, path=f"pictures?label={label}").json["added"]
    return result


# ---- Who may ask.


def test_the_token_in_the_address_becomes_a_cookie_that_no_script_reads(studio):
    got = studio.server.ask("GET", f"/?token={KEYS.entry}")
    assert got.status == 303
    assert got.headers["location"] == "/"
    cookie = got.headers["set-cookie"]
    assert cookie.startswith(f"studio-1={KEYS.session}; ")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "set-cookie" not in studio.server.ask("GET", "/?token=wrong").headers
    assert studio.server.ask("GET", "/").status == 200


def test_nothing_is_told_without_it(studio):
    wrong = ("wrong", KEYS.entry, "")
    cookies = ("", f"studio-2={KEYS.session}", *(f"studio-1={one}" for one in wrong))
    for path in ("/api/board", "/api/events", "/api/downloads/model.zip", "/api/x"):
        assert {studio.get(path, cookie=one).status for one in cookies} == {401}, path


def test_pages_and_names_of_others_may_not_write_even_with_the_cookie(studio):
    own = f"http://127.0.0.1:{studio.server.port}"
    others = ("https://evil.example", "http://localhost:3000", "http://127.0.0.1:3000", "null")
    hosts = ("evil.example", "10.0.0.1:80", "127.0.0.1.evil.example")
    refused = [({"origin": one}, 403) for one in others] + [({"host": one}, 421) for one in hosts]
    for headers, status in refused:
        assert studio.post("/api/undo", **headers).status == status
        assert studio.post("/api/classes", {"add": "cat"}, **headers).status == status
    for head, path in itertools.product(ODD_HEADS, ("/", "/api/board")):
        asked = f"GET {path} HTTP/1.1\r\n{head}\r\nCookie: {studio.cookie}\r\n"
        answer = studio.server.raw((asked + "Connection: close\r\n\r\n").encode("latin-1"))
        assert answer[:13] in (b"HTTP/1.1 400 ", b"HTTP/1.1 421 "), head
    assert studio.project.history.version == 0
    assert studio.post("/api/classes", {"add": "cat"}, origin=own).status == 200


# ---- Pictures.


def test_pictures_come_in_and_bad_files_are_named_with_the_reason(studio):
    got = studio.send(("a.png", png()), ("b.png", b"text"), ("c.png", png()))
    (id,) = got.json["added"]
    ((name, why),) = (one.values() for one in got.json["refused"])
    assert (name, "b.png" in why) == ("b.png", True)
    assert got.json["known"] == [{"name": "c.png", "id": id, "label": "cat"}]
    content = studio.get("/api/board").json
    assert content["classes"] == ["cat"]
    (picture,) = content["pictures"]
    assert (picture["id"], picture["name"], picture["label"]) == (id, "a.png", "cat")
    assert content["undo"] == "added 1 picture to cat"
    assert studio.get(f"/api/pictures/{id}").body == png()
    assert studio.get(f"/api/thumbnails/{id}").body.startswith(JPEG)


def test_what_was_taken_off_comes_back_where_it_is_put_now(studio):
    (id,) = studio.send(("a.png", png())).json["added"]
    assert studio.post("/api/label", {"ids": [id], "label": None}).status == 200
    assert studio.get("/api/board").json["pictures"] == []
    dog = "pictures?label=dog"
    assert studio.send(("a.png", png()), path=dog, split="test").json["added"] == [id]
    assert studio.project.board.labels == {id: "dog"}
    assert studio.project.pictures[id].split == "test"
    known = studio.send(("b.png", png())).json["known"]
    assert known == [{"name": "b.png", "id": id, "label": "dog"}]
    assert len(list((studio.project.path / "pictures").iterdir())) == 1


@pytest.mark.parametrize("id", ["../project.json", "%2e%2e%2fproject.json", "x", ""])
def test_no_path_leads_out_of_the_pictures(studio, id):
    assert studio.get(f"/api/pictures/{id}").status in (404, 405)
    assert studio.get(f"/api/thumbnails/{id}").status in (404, 405)


def test_one_drop_is_one_step_back_however_many_requests_it_took(studio):
    for number, label in enumerate(("cat", "cat", "dog")):
        picture = (f"{number}.png", png((number, 0, 0)))
        studio.send(picture, path=f"pictures?label={label}", batch="one")
    studio.send(("other.png", png((99, 0, 0))))
    assert studio.get("/api/board").json["undo"] == "added 1 picture to cat"
    studio.post("/api/undo")
    assert studio.get("/api/board").json["undo"] == "added 3 pictures"
    studio.post("/api/undo")
    board = studio.get("/api/board").json
    assert (board["pictures"], board["classes"]) == ([], [])
    studio.post("/api/redo")
    assert len(studio.get("/api/board").json["pictures"]) == 3


def test_a_class_needs_a_name(studio):
    got = studio.send(("a.png", png()), path="pictures?label=%20")
    assert (got.status, "needs a name" in got.json["detail"]) == (422, True)


def test_lost_thumbnails_are_made_again_and_lost_pictures_are_said_to_be(studio):
    (id,) = studio.send(("a.png", png())).json["added"]
    studio.project.thumbnail_path(id).unlink()
    assert studio.get(f"/api/thumbnails/{id}").body.startswith(JPEG)
    studio.project.thumbnail_path(id).unlink()
    studio.project.picture_path(id).write_bytes(b"text")
    assert studio.get(f"/api/thumbnails/{id}").status == 404
    studio.project.picture_path(id).unlink()
    assert studio.get(f"/api/thumbnails/{id}").status == 404
    assert studio.get(f"/api/pictures/{id}").status == 404


# ---- Bodies.

PICTURES = ("/api/pictures?label=cat", "/api/predict")  # what takes files; all others take JSON
HUGE = 300_000_000


def posts(studio):
    """The address of every route that is posted to; none is forgotten."""
    routes = [one.path for one in studio.app.routes if "POST" in getattr(one, "methods", ())]
    assert len(routes) == 11
    return [next((one for one in PICTURES if one.startswith(path)), path) for path in routes]


def head_of(studio, path, *lines):
    content = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Cookie: {studio.cookie}", *lines]
    return ("\r\n".join([*content, "", ""])).encode()


def finished_run(studio):
    run = studio.project.run(1)
    (run / "model").mkdir(parents=True)
    (run / "DONE").touch()


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "application/json", "x"])
def test_a_body_of_300_mb_is_refused_by_its_head_on_every_route(studio, kind):
    """Nothing of it is sent: who waited for it would not answer."""
    finished_run(studio)
    for path in posts(studio):
        head = head_of(studio, path, f"Content-Type: {kind}", f"Content-Length: {HUGE}")
        with socket.create_connection(("127.0.0.1", studio.server.port), timeout=20) as link:
            link.sendall(head)
            assert int(link.recv(65536).split()[1]) in (413, 415), path


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "application/json"])
def test_a_body_that_does_not_tell_its_length_is_not_read_without_end(studio, kind):
    finished_run(studio)
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    for path in posts(studio):
        sent, answer = 0, b""
        head = head_of(studio, path, f"Content-Type: {kind}", "Transfer-Encoding: chunked")
        with socket.create_connection(("127.0.0.1", studio.server.port), timeout=20) as link:
            link.sendall(head)
            while sent < HUGE and not answer:
                try:
                    link.sendall(piece)
                except (BrokenPipeError, ConnectionResetError):
                    break
                sent += len(piece)
                if select.select([link], [], [], 0)[0]:
                    answer = link.recv(65536)
            answer = answer or link.recv(65536)
        assert int(answer.split()[1]) in (411, 413, 415), (path, answer)
        assert sent < 60_000_000, path


OTHER = (
    *("text/plain", "application/x-www-form-urlencoded", "application/jsonx", "x", ""),
    *("application/xml", "multipart/mixed; boundary=x", "text/plain; application/json"),
)


def test_bodies_of_another_kind_are_refused_on_every_route(studio):
    finished_run(studio)
    packed = {"content_type": "application/json", "content_encoding": "gzip"}
    body, form_kind = form([("a.png", png())])
    for path in posts(studio):
        for content in ({}, packed, *({"content_type": kind} for kind in OTHER)):
            sent = b'{"add": "cat"}'
            got = studio.server.ask("POST", path, sent, cookie=studio.cookie, **content)
            assert got.status == 415, (path, content)
            assert got.headers["content-type"] == "application/problem+json"
        if path not in PICTURES:
            got = studio.server.ask(
                "POST", path, body, content_type=form_kind, cookie=studio.cookie
            )
            assert (got.status, got.json["detail"]) == (415, "send application/json")
    assert studio.project.history.version == 0
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        assert studio.post("/api/classes", {"add": kind}, content_type=kind).status == 200


def test_a_step_needs_no_body(studio):
    studio.post("/api/classes", {"add": "cat"})
    assert studio.server.ask("POST", "/api/undo", cookie=studio.cookie).status == 200


def test_large_bodies_are_refused_by_their_length(studio):
    big = b'{"ids": ["' + b"a" * 5_000_000 + b'"], "label": null}'
    content = {"cookie": studio.cookie, "content_type": "application/json"}
    assert studio.server.ask("POST", "/api/label", big, **content).status == 413
    long = {"ids": ["a" * 41], "label": None}
    assert studio.post("/api/label", long).status == 422
    sent = iter([b'{"ids": []'])  # in chunks, whose length nobody tells
    assert studio.server.ask("POST", "/api/label", sent, **content).status == 411


# ---- Changes.


def test_relabel_undo_redo_and_classes(studio):
    a, b, *_ = pair(studio)
    assert studio.post("/api/label", {"ids": [a, b], "label": "dog"}).status == 200
    assert studio.get("/api/board").json["undo"] == "moved 2 pictures to dog"
    assert studio.post("/api/undo").status == 200
    assert studio.project.board.labels[a] == "cat"
    assert studio.post("/api/redo").status == 200
    assert studio.project.board.labels[a] == "dog"
    assert studio.post("/api/redo").status == 409
    assert studio.post("/api/classes", {"rename": ["dog", "hound"]}).status == 200
    assert studio.post("/api/classes", {"remove": "hound"}).status == 200
    assert studio.get("/api/board").json["pictures"] == []


SENSELESS = {
    "label": [{"ids": ["nobody"], "label": "cat"}, {"ids": "x", "label": None}, {}],
    "classes": [{}, {"rename": ["a"]}, {"x": 1}, {"remove": "bird"}],
    "fit": [{"budget": "huge"}, {"x": 1}],
}


def test_what_makes_no_sense_is_refused_and_changes_nothing(studio):
    for path, value in ((path, one) for path, values in SENSELESS.items() for one in values):
        got = studio.post(f"/api/{path}", value)
        assert (got.status, bool(got.json["detail"])) == (422, True), (path, value)
    assert studio.project.history.version == 0


def test_labels_are_confirmed_and_that_can_be_undone(studio):
    a, *_ = pair(studio)
    assert studio.post("/api/confirm", {"ids": [a]}).status == 200
    content = studio.get("/api/board").json
    assert content["confirmed"] == {a: "cat"}
    assert content["undo"] == "confirmed the label of 1 picture"
    assert studio.post("/api/confirm", {"ids": [a, "nobody"]}).status == 200
    assert studio.project.history.version == 3  # nothing new was said
    studio.project.close()
    again = Project.open(studio.project.path, "p")
    assert again.board.confirmed == {a: "cat"}
    assert again.undo().confirmed == {a: None}
    assert again.board.confirmed == {}
    again.close()


@pytest.mark.parametrize(("split", "expected"), [("test", "test"), ("holdout", "val")])
def test_pictures_may_be_held_out(studio, split, expected):
    got = studio.send(("a.png", png()), split=split)
    assert studio.project.pictures[got.json["added"][0]].split == split
    table = table_of(studio.project.board, studio.project.pictures)
    assert table.splitlines()[1].endswith(f",cat,{expected}")
    assert studio.send(("a.png", png()), split="other").status == 422


# ---- Learning.


def test_learning_begins_from_a_table_of_its_own(studio):
    pair(studio)
    got = studio.post("/api/fit", {"budget": "balanced", "settings": ["training.epochs=10"]})
    assert (got.status, got.json) == (202, {"number": 1})
    table = studio.project.path / "board-1.csv"
    assert studio.desk.begun == [(1, table, "balanced", ["training.epochs=10"])]
    assert studio.post("/api/fit").status == 409
    assert studio.get("/api/board").json["work"]["state"] == "working"


def test_what_cannot_be_learnt_is_said_before(studio):
    studio.send(("a.png", png()))
    got = studio.post("/api/fit")
    assert got.status == 422
    assert "Two classes" in got.json["detail"]
    assert studio.get("/api/forecast").status == 422
    assert studio.get("/api/board").json["problem"] == got.json["detail"]


def test_a_forecast_leaves_no_run(studio):
    pair(studio)
    assert studio.get("/api/forecast?budget=thorough&settings=a=1").json == {"seconds": 1.0}
    assert studio.project.numbers() == []


def test_results_are_those_of_the_newest_finished_run(studio):
    assert studio.get("/api/result").status == 404
    assert studio.get("/api/downloads/model.zip").status == 409
    assert studio.send(("a.png", png()), path="predict").status == 409
    assert studio.post("/api/resume").status == 422
    for number, mark in ((1, "DONE"), (2, "DONE"), (3, "FAILED")):
        studio.project.run(number).mkdir(parents=True)
        (studio.project.run(number) / mark).touch()
    assert studio.get("/api/result").json == {"number": 2}
    assert studio.post("/api/downloads/onnx").status == 409  # run 2 shipped nothing
    (studio.project.run(1) / "model").mkdir()
    (studio.desk.place / "model.zip").write_bytes(b"zip")
    got = studio.get("/api/downloads/model.zip")
    assert got.body == b"zip"
    assert 'filename="p-model.zip"' in got.headers["content-disposition"]
    assert studio.get("/api/downloads/board-1.csv").status == 404
    got = studio.send(("a.png", png()), path="predict")
    assert got.json == {"label": "cat", "number": 1}


# ---- Events.


@contextmanager
def listening(studio):
    """Events as they come, (name, value)."""
    result = []
    link = http.client.HTTPConnection("127.0.0.1", studio.server.port, timeout=30)
    link.request("GET", "/api/events", headers={"cookie": studio.cookie})
    answer = link.getresponse()
    assert answer.getheader("content-type").startswith("text/event-stream")

    def read():
        name = ""
        while line := answer.readline().decode():
            if line.startswith("event: "):
                name = line[7:].strip()
            elif line.startswith("data: "):
                result.append((name, json.loads(line[6:])))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield result
    finally:
        studio.hub.close()
        thread.join(10)
        assert not thread.is_alive()
        link.close()


def test_every_page_hears_of_every_change(studio):
    with listening(studio) as first, listening(studio) as second:
        ids = pair(studio)
        studio.post("/api/label", {"ids": ids[:1], "label": "dog"})
        studio.hub.send_working(Working(state="working", number=1, stage="Features", done=3, of=9))
        studio.hub.send_result(1)
        wait_until(lambda: len(first) == len(second) == 5)
    assert first == second
    assert [name for name, _ in first] == ["board", "board", "board", "work", "result"]
    added, _, moved, work, result = (value for _, value in first)
    assert added["labels"] == dict.fromkeys(ids[:2], "cat")
    assert [one["id"] for one in added["pictures"]] == ids[:2]
    assert (moved["version"], moved["labels"]) == (3, {ids[0]: "dog"})
    assert moved["undo"] == "moved 1 picture to dog"
    assert (work["stage"], work["done"], work["of"]) == ("Features", 3, 9)
    assert result == {"number": 1}


def test_a_page_that_does_not_keep_up_is_cut_off_and_asks_anew(studio, monkeypatch):
    with listening(studio) as heard:
        for number in range(2000):
            studio.hub.send_result(number)
        studio.post("/api/classes", {"add": "cat"})
        wait_until(lambda: not studio.hub._streams or ("board" in dict(heard)))
