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

import numpy as np
import pytest
import torch
from PIL import Image

import tables
import warmstart
from browser_checks import CHROMIUM
from server_client import Live, live
from test_errors_raised import Code, bomb
from tiny import KINDS, PREP, network
from warmstart import errors
from warmstart.errors import RunFolderError, ServeError
from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.partition import cut
from warmstart.network.surgery import assemble
from warmstart.run.predictor import load
from warmstart.serving import running
from warmstart.serving import serve as serving_serve
from warmstart.serving.model import ServerLimits
from warmstart.serving.serve import ServeOptions, application, cells_for, covers, occlusion, serve


@pytest.fixture(scope="module")
def server(finished):
    with live(application(finished.path, ServeOptions(), ServerLimits())) as running_one:
        yield running_one


@pytest.fixture(scope="module")
def files(finished):
    data = json.loads((finished.path / "request.json").read_text())["request"]["data"]
    return sorted(Path(data.get("path", data) if isinstance(data, dict) else data).rglob("*.png"))


# ---- Answers.


def test_its_answers_are_those_of_predict(server, finished, files):
    predicted = load(finished.path).predict(files[:40])
    text = []
    for start in range(0, 40, 20):
        sent = [(path.name, path.read_bytes()) for path in files[start : start + 20]]
        text += server.send(*sent).json["answers"]
    for one, other in zip(text, predicted, strict=True):
        assert [one[key] for key in ("label", "confident", "ood")] == [
            *(other.label, other.confident, other.ood)
        ]
        assert one["probability"] == pytest.approx(other.probability, abs=1e-4)
        assert next(iter(one["scores"])) == one["label"]
        assert sum(one["scores"].values()) == pytest.approx(1)
        assert len(one["nearest"]) == len(other.nearest)


def test_many_at_once_are_answered_as_each_alone(server, files):
    sent = [("a.png", path.read_bytes()) for path in files[:30]]
    with ThreadPoolExecutor(16) as many:
        answers = [got.json["answers"][0]["label"] for got in many.map(server.send, sent)]
    assert answers == [server.send(one).json["answers"][0]["label"] for one in sent]


def test_what_it_says_of_itself(server, finished):
    content = server.ask("GET", "/metadata").json
    labels = server.ask("GET", "/labels").json["labels"]
    assert content["labels"] == labels == ["blue", "green", "red"]
    assert content["estimate"]["value"] == finished.estimate.value
    assert content["pictures"] is True
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


def test_a_map_of_what_mattered_in_the_middle_of_an_oblong_picture(server):
    output = io.BytesIO()
    Image.new("RGB", (400, 200), (200, 30, 30)).save(output, "PNG")
    sent = ("a.png", output.getvalue())
    heat = server.send(sent, path="/explain").json
    rows = heat["grid"]
    assert 3 <= len(rows) == len(rows[0]) <= 8
    assert all(0 <= value <= 1 for row in rows for value in row)
    assert heat["label"] == server.send(sent).json["answers"][0]["label"]
    left, top, right, bottom = heat["box"]
    assert (left + right) / 2 == pytest.approx(0.5, abs=0.01)
    assert (bottom - top) / (right - left) == pytest.approx(2, abs=0.05)


# ---- What a stranger may send.


def pickled():
    output = io.BytesIO()
    torch.save(Code(), output)
    return output.getvalue()


def slipping():
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        archive.writestr("../../escaped.png", b"x")
    return output.getvalue()


ARRAY = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HOSTILE = {
    "a pickle": (pickled(), 422, "is not an image"),
    "a zip that climbs out": (slipping(), 422, "is not an image"),
    "a picture of 2,500 megapixels": (bomb(50_000, 50_000), 413, "2,500 megapixels"),
    "a drawing with a script": (SVG, 422, "SVG"),
    "a page called photo.jpg": (b"<!doctype html><script>alert(1)</script>", 422, "web page"),
    "nothing": (b"", 422, "empty"),
    "a torn picture": (bomb(40, 40), 422, ""),
    "an array with objects": (ARRAY + b" " * 60 + b"\n", 422, ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_and_the_server_lives(server, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    payload, status, says = HOSTILE[name]
    text = json.dumps({"image": base64.b64encode(payload).decode()})
    for got in (
        server.send(("photo.jpg", payload)),
        server.send(("../../photo.jpg", payload), path="/explain"),
        server.ask("POST", "/predict", text, content_type="application/json"),
    ):
        assert got.status == status
        assert got.headers["content-type"] == "application/problem+json"
        assert says in got.json["detail"]
        assert ".." not in got.json["detail"]
    assert server.ask("GET", "/ready").status == 200
    assert not list(tmp_path.iterdir())


# ---- The verb.


def started(run, *options, env=None):
    """`warmstart serve` in a process of its own; returns it and its server."""
    words = [sys.executable, "-m", "warmstart", "serve", str(run), "--port", "0", "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    job = subprocess.Popen([*words, *options], env=os.environ | (env or {}), **pipes)
    line = job.stdout.readline()
    assert line, job.stderr.read()
    return job, Live(int(re.search(r":(\d+)/", json.loads(line)["url"])[1]), None)


@pytest.mark.parametrize(
    ("number", "token"), [(signal.SIGTERM, ""), (signal.SIGINT, "secret")], ids=["term", "int"]
)
def test_a_signal_lets_it_answer_what_has_come(finished, files, number, token):
    """And where others reach it, a token from the environment spares the warning."""
    env = {"WARMSTART_TOKEN": token} if token else {}
    job, server = started(finished.path, "--host", "0.0.0.0", env=env)
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
    with pytest.raises((ServeError, RunFolderError)) as caught:
        serve(run, ServeOptions(**options), lambda where: None, lambda: None)
    return str(caught.value)


def test_a_port_in_use_is_named_with_its_cure(finished):
    taken = running.bind("127.0.0.1", 0)
    port = taken.getsockname()[1]
    text = refuse(finished.path, port=port)
    taken.close()
    assert f"port {port} on 127.0.0.1 cannot be used" in text
    assert "choose another with --port" in text


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "a" * 70])
def test_what_is_not_a_host_of_this_computer_is_refused(host):
    with pytest.raises(ServeError, match=r"use 127\.0\.0\.1 or 0\.0\.0\.0"):
        running.bind(host, 0)


def test_a_token_that_no_header_can_carry_is_refused(finished):
    for token in ("", "  ", "sécret", "a\nb"):
        assert "no header can carry" in refuse(finished.path, token=token, port=0)
    assert "begins or ends with a space" in refuse(finished.path, token="secret ", port=0)


def test_without_its_packages_what_to_install_is_said(finished, monkeypatch):
    monkeypatch.setattr(serving_serve, "NEEDED", ("no_such_package",))
    monkeypatch.setattr(errors, "installed_version", lambda package: None)
    text = refuse(finished.path)
    assert "serving needs no-such-package, which is not installed" in text
    assert "`pip install fastapi uvicorn prometheus-client python-multipart`" in text


def test_a_folder_that_is_no_run_is_an_error(tmp_path):
    assert "is not a finished run folder" in refuse(tmp_path, port=0)


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


# ---- Heat maps: equal to covering parts one by one, and lying where the evidence lies.

GREY = np.uint8([128, 128, 128])


def model_of(kind, depths):
    """A random network under a random head on its last, or on all its feature layers."""
    parted = cut(network(kind), PREP)
    layers = feature_layers(parted.record)[0 if depths == "many" else -1 :]
    width = sum(layer_width(parted.record, layer) for layer in layers)
    weight = torch.randn(4, width, generator=torch.Generator().manual_seed(0)) / width**0.5
    return assemble(parted, layers, weight, torch.zeros(4))


def asker(model):
    def ask(images):
        values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            return model((values - 0.5) / 0.5).double().softmax(dim=1).numpy()

    return ask


@pytest.mark.parametrize("depths", ["last", "many"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_covering_one_part_after_the_other(kind, depths):
    ask = asker(model_of(kind, depths))
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    best, probability, grid, least = occlusion(ask, pixels, 4, GREY)
    before = ask(pixels[None])[0]
    falls, left = np.zeros((4, 4)), []
    for row in range(4):
        for column in range(4):
            covered = pixels.copy()
            rows = slice(max(8 * row - 4, 0), 8 * row + 12)
            covered[rows, max(8 * column - 4, 0) : 8 * column + 12] = GREY
            p = ask(covered[None])[0, best]
            left.append(p)
            odds = np.log(before[best] / (1 - before[best])) - np.log(p / (1 - p))
            falls[row, column] = max(odds, 0)
    assert best == before.argmax()
    assert probability == pytest.approx(before.max(), abs=1e-5)
    assert least == pytest.approx(min(left), abs=1e-5)
    np.testing.assert_allclose(grid, falls / max(falls.max(), 1.0), atol=1e-3)


def test_where_nothing_matters_nothing_glows():
    _, _, grid, least = occlusion(
        lambda images: np.full((len(images), 2), 0.5), np.zeros((8, 8, 3), np.uint8), 3, GREY
    )
    assert not grid.any()
    assert least == 0.5


@pytest.mark.parametrize(("size", "cells"), [((32, 32), 4), ((30, 50), 7), ((8, 8), 8)])
def test_covers_hide_every_pixel_and_never_all_and_a_slow_network_gets_few(size, cells):
    masks = covers(size, cells)
    assert masks.shape == (cells**2, *size)
    assert masks.any(axis=0).all()
    assert masks.any(axis=(1, 2)).all()
    assert not masks.all(axis=(1, 2)).any()
    assert [cells_for(s) for s in (0.001, 0.02, 0.04, 1.0)] == [8, 5, 4, 3]


# ---- Rows of a table.

ROW = {"age": 62, "dose": None, "site": "south"}
CSV = b"site;age;dose\nsouth;62;\nnorth;40;2.5\nsouth;old;1\n"


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    root = tmp_path_factory.mktemp("clinic")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        path = tables.table(root / "clinic.csv", 60)
        return warmstart.fit(path, strategy="head", budget="fast", out=root / "run")


@pytest.fixture(scope="module")
def rows_server(clinic):
    with live(application(clinic.path, ServeOptions(), ServerLimits())) as running:
        yield running


def posted(server, body, kind="application/json"):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.ask("POST", "/predict", body, Content_Type=kind)


def test_a_row_is_answered_by_column_name_as_predict_answers(rows_server, clinic):
    (answer,) = clinic.predictor.predict([ROW])
    (text,) = posted(rows_server, {"row": ROW}).json["answers"]
    assert (text["label"], text["probability"]) == (answer.label, answer.probability)
    answers = posted(rows_server, {"rows": [ROW, ROW]}).json["answers"]
    assert [one["label"] for one in answers] == [answer.label] * 2


def test_a_csv_file_is_answered_row_by_row(rows_server):
    for result in (
        posted(rows_server, CSV, "text/csv").json,
        rows_server.send(("new.csv", CSV)).json,
    ):
        first, second, third = result["answers"]
        assert (first["label"], second["label"], third["label"]) == ("ill", "well", None)
        assert "\"age\" is 'old', and it holds numbers" in third["error"]
        assert third["words"] == "not a row"
    assert first["name"] == "new.csv line 2"


BAD = [
    ({"row": {"age": 62}}, "application/json", 422, 'has no column "dose"'),
    ({"rows": []}, "application/json", 400, "no row was sent; send application/json"),
    ({"row": ROW, "image": ""}, "application/json", 422, "image: Extra inputs are not permitted"),
    ({"row": {"age": [1]}}, "application/json", 422, "row.age"),
    (b"age,site\n1,2,3\n", "text/csv", 422, "line 2 has another number of cells"),
    (b"age,dose,site\n\xff,1,2\n", "text/csv", 422, "is not a table: it is not UTF-8"),
    (b"age,dose,site\n", "text/csv", 400, "no row was sent"),
    (b"age\n" + b"1\n" * 201, "text/csv", 413, "more than 200 rows in one request"),
    (b"\x89PNG", "image/png", 415, "send application/json such as"),
]


@pytest.mark.parametrize(("body", "kind", "status", "says"), BAD, ids=[b[3] for b in BAD])
def test_what_is_no_row_is_one_sentence(rows_server, body, kind, status, says):
    result = posted(rows_server, body, kind)
    assert result.status == status
    assert says in result.json["detail"]
    assert "image" not in result.json["detail"].removeprefix("image: ")


def test_it_tells_its_columns_and_what_it_accepts(rows_server):
    content = rows_server.ask("GET", "/metadata").json
    assert content["kind"] == "table"
    assert content["accept"] == ".csv,.tsv,text/csv"
    columns = {one["name"]: one for one in content["input"]["columns"]}
    assert columns["site"]["values"] == ["north", "south"]
    assert "on new rows" in content["promise"]
    row = {"body": b'{"row": {}}', "Content_Type": "application/json"}
    assert (
        "only answers to images can be" in rows_server.ask("POST", "/explain", **row).json["detail"]
    )


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"{CHROMIUM} is not installed")
def test_the_page_takes_a_csv_file_and_shows_an_answer_a_row(browser, rows_server, tmp_path):
    (tmp_path / "new.csv").write_bytes(CSV)
    page = browser.new_page()
    page.goto(rows_server.url)
    page.wait_for_selector("#summary:not(:empty)")
    assert page.get_attribute("#file", "accept") == ".csv,.tsv,text/csv"
    assert page.text_content("label[for=file]") == "Choose a table"
    assert not page.is_visible("#photograph")
    page.set_input_files("#file", str(tmp_path / "new.csv"))
    page.wait_for_selector("#rows tr:nth-child(3)")
    assert page.text_content("#words") == "3 rows"
    assert "ill" in page.text_content("#rows tr:first-child")
    assert "it holds numbers" in page.text_content("#rows tr:nth-child(3)")
    page.close()
