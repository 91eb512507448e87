"""The studio with several labels a picture, and with numbers: open, learn, correct, compare."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from server_client import form
from studio_client import nothing, open_as
from warmstart.errors import DataError
from warmstart.studio.studio import StudioOptions, open_project

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


def row(page, **wanted):
    return next(one for one in page.get("board")["pictures"] if one["label"] in wanted.values())


@pytest.mark.parametrize("task", TASKS)
def test_it_opens_learns_and_answers_in_the_words_of_the_task(tmp_path, tables, task):
    with open_as(tmp_path / "s", data=str(tables[task]), **TASKS[task]) as page:
        board = page.get("board")
        assert (board["task"], len(board["pictures"]), board["problem"]) == (task, N, "")
        page.learn()
        content = page.get("result")
        assert content["task"] == task
        assert "classes" not in json.dumps(content["headline"] + content["verdict"]["sentence"])
        assert (
            content["score_words"]
            == {"multilabel": "mean average precision", "regress": "of the variance explained"}[
                task
            ]
        )
        assert f"--task {task}" in content["command"]
        assert (len(content["labels"]) == 2) == (task == "multilabel")
        assert (len(content["numbers"]) == N) == (task == "regress")
        body, kind = form([("0.png", (tables[task].parent / "0.png").read_bytes())])
        status, text = page.ask("POST", "/api/predict", body, kind)
        own = {"multilabel": {"labels"}, "regress": {"value", "low", "high"}}[task]
        assert status == 200
        assert own <= text.keys()
        assert page.ask("GET", "/api/downloads/model.zip")[0] == 200


def test_labels_are_given_and_taken_one_by_one(tmp_path, tables):
    with open_as(tmp_path / "s", data=str(tables["multilabel"]), task="multilabel") as page:
        red = row(page, label="red")["id"]
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
        assert (status, content["detail"]) == (
            422,
            "a label cannot contain the character |; remove it.",
        )


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
        assert (status, content["detail"]) == (
            422,
            "All numbers are equal: there is nothing to learn.",
        )
    (tmp_path / "t.csv").write_text(
        "text,label\nsome words to learn from,1.5\nand others,2.5\n" * 9
    )
    with pytest.raises(DataError, match="holds texts, and the studio shows pictures"):
        open_project(StudioOptions(data=str(tmp_path / "t.csv"), out=tmp_path / "t"), nothing)
