"""A real run behind a real server: its answers, and what a stranger may send."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import rmtree

import pytest
import torch
from PIL import Image

from server_client import Live, live
from test_errors_raised import Code, bomb
from warmstart import errors
from warmstart.errors import RunFolderError, ServeError
from warmstart.run.predictor import load
from warmstart.serving import running
from warmstart.serving import serve as serving_serve
from warmstart.serving.model import ServerLimits
from warmstart.serving.serve import ServeOptions, application, check_token, serve


@pytest.fixture(scope="module")
def server(finished):
    with live(application(finished.path, ServeOptions(), ServerLimits())) as running_one:
        yield running_one


@pytest.fixture(scope="module")
def files(finished):
    data = json.loads((finished.path / "request.json").read_text())["request"]["data"]
    return sorted(Path(data.get("path", data) if isinstance(data, dict) else data).rglob("*.png"))


# ---- answers -----------------------------------------------------------------------------


def test_its_answers_are_those_of_predict(server, finished, files):
    predicted = load(finished.path).predict(files[:40])
    text = []
    for start in range(0, 40, 20):
        sent = [(path.name, path.read_bytes()) for path in files[start : start + 20]]
        text += server.send(*sent).json["answers"]
    for one, other in zip(text, predicted, strict=True):
        assert (one["label"], one["confident"], one["ood"]) == (
            other.label,
            other.confident,
            other.ood,
        )
        assert one["probability"] == pytest.approx(other.probability, abs=1e-4)
        assert next(iter(one["scores"])) == one["label"]
        assert sum(one["scores"].values()) == pytest.approx(1)
        assert len(one["nearest"]) == len(other.nearest)


def test_many_at_once_are_answered_as_each_alone(server, files):
    payloads = [path.read_bytes() for path in files[:30]]
    alone = [server.send(("a.png", payload)).json["answers"][0]["label"] for payload in payloads]
    with ThreadPoolExecutor(16) as many:
        result = list(many.map(lambda payload: server.send(("a.png", payload)), payloads))
    assert [got.json["answers"][0]["label"] for got in result] == alone


def test_base64_and_plain_bytes_say_the_same(server, files):
    payload = files[0].read_bytes()
    text = json.dumps({"image": base64.b64encode(payload).decode()})
    form = server.send(("#0", payload)).json
    assert server.ask("POST", "/predict", text, content_type="application/json").json == form
    plain = server.ask("POST", "/predict", payload, content_type="image/png").json
    assert plain["answers"][0] | {"name": "#0"} == form["answers"][0]


def test_what_it_says_of_itself(server, finished):
    content = server.ask("GET", "/metadata").json
    assert (
        content["labels"] == server.ask("GET", "/labels").json["labels"] == ["blue", "green", "red"]
    )
    assert content["estimate"]["value"] == finished.estimate.value
    assert content["promise"].startswith("Right ")
    assert content["pictures"] is True
    assert content["limits"]["images"] == 32
    assert content["base"] == "start.safetensors"
    assert str(finished.path.parents[1]) not in json.dumps(content)


def test_the_nearest_training_images_can_be_seen(server, files):
    training = [path for path in files if path.parts[-3] == "train"]
    answer = server.send(("a.png", training[0].read_bytes())).json["answers"][0]
    first = answer["nearest"][0]
    assert first["label"] == training[0].parent.name
    got = server.ask("GET", f"/examples/{first['index']}/thumbnail")
    assert got.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(got.body)) as small:
        assert small.size == (40, 40)


def test_a_map_of_what_mattered(server, files):
    got = server.send(("a.png", files[0].read_bytes()), path="/explain").json
    rows = got["grid"]
    assert 3 <= len(rows) == len(rows[0]) <= 8
    assert all(0 <= value <= 1 for row in rows for value in row)
    assert got["label"] == server.send(("a.png", files[0].read_bytes())).json["answers"][0]["label"]
    assert len(got["box"]) == 4


def test_an_oblong_picture_is_seen_in_its_middle(server):
    output = io.BytesIO()
    Image.new("RGB", (400, 200), (200, 30, 30)).save(output, "PNG")
    left, top, right, bottom = server.send(("a.png", output.getvalue()), path="/explain").json[
        "box"
    ]
    assert (left + right) / 2 == pytest.approx(0.5, abs=0.01)
    assert (bottom - top) / (right - left) == pytest.approx(2, abs=0.05)


# ---- what a stranger may send ------------------------------------------------------------


def pickled():
    output = io.BytesIO()
    torch.save(Code(), output)
    return output.getvalue()


def slipping():
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        archive.writestr("../../escaped.png", b"x")
    return output.getvalue()


HOSTILE = {
    "a pickle": (pickled(), 422, "is not an image"),
    "a zip that climbs out": (slipping(), 422, "is not an image"),
    "a picture of 2,500 megapixels": (bomb(50_000, 50_000), 413, "2,500 megapixels"),
    "a drawing with a script": (
        b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        422,
        "SVG",
    ),
    "a page called photo.jpg": (b"<!doctype html><script>alert(1)</script>", 422, "web page"),
    "nothing": (b"", 422, "empty"),
    "a torn picture": (bomb(40, 40), 422, ""),
    "an array with objects": (
        b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, "
        b"'shape': (1,), }" + b" " * 60 + b"\n",
        422,
        "",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_and_the_server_lives(server, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    payload, status, says = HOSTILE[name]
    for got in (
        server.send(("photo.jpg", payload)),
        server.send(("../../photo.jpg", payload), path="/explain"),
        server.ask(
            "POST",
            "/predict",
            json.dumps({"image": base64.b64encode(payload).decode()}),
            content_type="application/json",
        ),
    ):
        assert got.status == status
        assert got.headers["content-type"] == "application/problem+json"
        assert says in got.json["detail"]
        assert ".." not in got.json["detail"]
    assert server.ask("GET", "/ready").status == 200
    assert not list(tmp_path.iterdir())


def test_one_bad_picture_among_good_ones_is_named(server, files):
    good = files[0].read_bytes()
    got = server.send(("a.png", good), ("b.png", b"dear"), ("c.png", good))
    first, second, third = got.json["answers"]
    assert first["scores"] == third["scores"]
    assert (second["label"], second["error"]) == (None, "b.png is not an image")


# ---- the verb ----------------------------------------------------------------------------


def base(run, *options, env=None):
    """`warmstart serve` in a process of its own; returns it and its server."""
    words = [
        sys.executable,
        "-m",
        "warmstart",
        "serve",
        str(run),
        "--port",
        "0",
        "--json",
        *options,
    ]
    job = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (env or {}),
    )
    line = job.stdout.readline()
    assert line, job.stderr.read()
    return job, Live(int(re.search(r":(\d+)/", json.loads(line)["url"])[1]), None)


@pytest.mark.parametrize(
    ("number", "token"), [(signal.SIGTERM, ""), (signal.SIGINT, "secret")], ids=["term", "int"]
)
def test_a_signal_lets_it_answer_what_has_come(finished, files, number, token):
    """And where others reach it, a token from the environment spares the warning."""
    env = {"WARMSTART_TOKEN": token} if token else {}
    job, server = base(finished.path, "--host", "0.0.0.0", env=env)
    known = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        assert server.ask("GET", "/labels").status == (401 if token else 200)
        payload = files[0].read_bytes()
        with ThreadPoolExecutor(24) as many:
            eight = [("a.png", payload)] * 8
            waiting = [many.submit(server.send, *eight, **known) for _ in range(24)]
            # Until much of it waits; a machine that answers faster than that has answered all.
            while server.number("warmstart_queue_images ", **known) < 50:
                if all(one.done() for one in waiting):
                    break
            job.send_signal(number)
            assert [one.result().status for one in waiting] == [200] * 24
        assert job.wait(60) == 0
        content = job.stderr.read()
        assert "Answering the open requests" in content
        assert "Traceback" not in content
        assert ("anyone who can reach 0.0.0.0 can use this model" in content) == (not token)
    finally:
        job.kill()


def refuse(run, **options):
    with pytest.raises((ServeError, RunFolderError)) as content:
        serve(run, ServeOptions(**options), lambda where: None, lambda: None)
    return str(content.value)


def test_a_port_in_use_is_named_with_its_cure(finished):
    taken = running.bind("127.0.0.1", 0)
    port = taken.getsockname()[1]
    text = refuse(finished.path, port=port)
    taken.close()
    assert f"port {port} on 127.0.0.1 cannot be used" in text
    assert "choose another with --port" in text


def test_a_host_of_someone_else_is_an_error(finished):
    assert "use 127.0.0.1 or 0.0.0.0" in refuse(finished.path, host="no-such-host.invalid", port=0)


@pytest.mark.parametrize("token", ["", "  ", "sécret", "a\nb"])
def test_a_token_that_no_header_can_carry_is_refused(finished, token):
    assert "holds letters that no header can carry" in refuse(finished.path, token=token, port=0)


def test_a_token_with_a_space_at_its_end_is_refused():
    with pytest.raises(ServeError, match="begins or ends with a space"):
        check_token("secret ")
    check_token("secret")
    check_token(None)


def test_without_its_packages_what_to_install_is_said(finished, monkeypatch):
    monkeypatch.setattr(serving_serve, "NEEDED", ("no_such_package",))
    monkeypatch.setattr(errors, "installed_version", lambda package: None)
    text = refuse(finished.path)
    assert text == (
        "serving needs no-such-package, which is not installed; run `pip install fastapi uvicorn "
        "prometheus-client python-multipart`."
    )


def test_a_folder_that_is_no_run_is_an_error_and_the_port_is_free_again(tmp_path):
    assert "is not a finished run folder" in refuse(tmp_path, port=0)


@pytest.mark.parametrize("host", ["a..b", "a" * 70])
def test_what_cannot_be_a_host_is_refused(host):
    with pytest.raises(ServeError, match=r"use 127\.0\.0\.1 or 0\.0\.0\.0"):
        running.bind(host, 0)


def test_a_server_that_cannot_start_says_so(finished):
    async def broken(scope, receive, send):
        raise RuntimeError

    taken = running.bind("127.0.0.1", 0)
    server = running.Server(broken, ServerLimits(), lambda: None, lambda: None)
    with pytest.raises(ServeError, match="the server did not start"):
        running.run(server, taken)
    taken.close()


def test_a_model_alone_still_answers(own_run, files):
    for entry in own_run.iterdir():
        if entry.name != "model":
            rmtree(entry) if entry.is_dir() else entry.unlink()
    with live(application(own_run, ServeOptions(), ServerLimits())) as server:
        content = server.ask("GET", "/metadata").json
        assert (content["name"], content["pictures"]) == ("own_run", False)
        assert content["promise"] == "Its accuracy was not measured."
        answer = server.send(("a.png", files[0].read_bytes())).json["answers"][0]
        assert answer["label"]
        assert answer["nearest"] == []
        assert server.ask("GET", "/examples/0/thumbnail").status == 404


def test_the_address_is_one_that_a_browser_takes():
    for host, shown in (("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")):
        taken = running.bind(host, 0)
        assert running.address(taken) == f"http://{shown}:{taken.getsockname()[1]}/"
        taken.close()
