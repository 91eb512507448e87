"""A server for rows of a table, and for clips: what it takes, what it says of what it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tables
import warmstart
from browser_checks import CHROMIUM
from server_client import live
from warmstart.serving.model import ServerLimits
from warmstart.serving.serve import ServeOptions, application

ROW = {"age": 62, "dose": None, "site": "south"}
CSV = b"site;age;dose\nsouth;62;\nnorth;40;2.5\nsouth;old;1\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("clinic")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        path = tables.table(root / "clinic.csv", 60)
        return warmstart.fit(path, strategy="head", budget="fast", out=root / "run")


@pytest.fixture(scope="module")
def server(run):
    with live(application(run.path, ServeOptions(), ServerLimits())) as running:
        yield running


def posted(server, body, kind="application/json"):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.ask("POST", "/predict", body, Content_Type=kind)


def test_a_row_is_answered_by_column_name_as_predict_answers(server, run):
    (answer,) = run.predictor.predict([ROW])
    (text,) = posted(server, {"row": ROW}).json["answers"]
    assert (text["label"], text["probability"]) == (answer.label, answer.probability)
    assert [one["label"] for one in posted(server, {"rows": [ROW, ROW]}).json["answers"]] == [
        answer.label
    ] * 2


def test_a_csv_file_is_answered_row_by_row(server):
    for result in (posted(server, CSV, "text/csv").json, server.send(("new.csv", CSV)).json):
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
def test_what_is_no_row_is_one_sentence(server, body, kind, status, says):
    result = posted(server, body, kind)
    assert result.status == status
    assert says in result.json["detail"]
    assert "image" not in result.json["detail"].removeprefix("image: ")


def test_it_tells_its_columns_and_what_it_accepts(server):
    content = server.ask("GET", "/metadata").json
    assert content["kind"] == "table"
    assert content["accept"] == ".csv,.tsv,text/csv"
    assert content["input"]["columns"][2] == {
        "name": "site",
        "kind": "category",
        "values": ["north", "south"],
    }
    assert "on new rows" in content["promise"]
    assert (
        server.ask("POST", "/explain", b'{"row": {}}', Content_Type="application/json").json[
            "detail"
        ]
        == "only answers to images can be explained, and this model takes rows"
    )


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"{CHROMIUM} is not installed")
def test_the_page_takes_a_csv_file_and_shows_an_answer_a_row(browser, server, tmp_path):
    (tmp_path / "new.csv").write_bytes(CSV)
    page = browser.new_page()
    page.goto(server.url)
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
