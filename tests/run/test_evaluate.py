"""Metrics of a finished model on other data, against the slow definition."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import warmstart
from hue_images import fill
from warmstart.errors import DataError, RunFolderError
from warmstart.events import drain, follow
from warmstart.run.predictor import evaluate


def test_the_test_set_scores_as_it_did_in_the_run(finished):
    split = finished.path.parents[1] / "split"
    again = drain(evaluate(finished.path, split))
    for name in ("n", "accuracy", "low", "high", "balanced_accuracy", "macro_f1"):
        assert getattr(again, name) == pytest.approx(getattr(finished.test, name))
    assert again.log_loss == pytest.approx(finished.test.log_loss, abs=0.02)


def test_scores_are_those_of_the_predictions(finished, pictures):
    for number in range(4):  # some wrong labels, or every metric would be 1
        shutil.move(pictures / "red" / f"00{number}.png", pictures / "blue" / f"x{number}.png")
    scores = drain(evaluate(finished.path, pictures))
    files = sorted(pictures.rglob("*.png"))
    answers = warmstart.load(finished.path).predict(files)
    hits = np.array([a.label == p.parent.name for a, p in zip(answers, files, strict=True)])
    truth = np.array([path.parent.name for path in files])
    assert scores.n == 36
    assert scores.accuracy == pytest.approx(hits.mean())
    assert scores.balanced_accuracy == pytest.approx(
        np.mean([hits[truth == name].mean() for name in np.unique(truth)])
    )
    losses = [-np.log(max(a.scores[t], 1e-12)) for a, t in zip(answers, truth, strict=True)]
    assert scores.log_loss == pytest.approx(np.mean(losses), rel=1e-3)
    assert 0 < scores.low < scores.accuracy < scores.high < 1


def test_images_that_it_learnt_from_are_named(finished):
    split, events = finished.path.parents[1] / "split", []
    follow(evaluate(finished.path, split / "train"), events.append)
    (leak,) = [e.values["text"] for e in events if e.values.get("title") == "Leakage"]
    assert leak.startswith("the model was trained on 36 of the 36 images")
    events.clear()
    follow(evaluate(finished.path, split / "test"), events.append)
    assert not [e for e in events if e.values.get("title") == "Leakage"]


def test_one_class_is_enough(finished, tmp_path):
    scores = drain(evaluate(finished.path, fill(tmp_path / "later", {"blue": 3})))
    assert scores.n == 3
    assert 0 <= scores.accuracy == scores.balanced_accuracy <= 1


def test_an_unknown_class_is_named_with_those_that_are_known(finished, tmp_path):
    data = fill(tmp_path / "later", {"blue": 2, "violet": 2})
    with pytest.raises(DataError, match=r"class 'violet'.*knows: blue, green, red"):
        drain(evaluate(finished.path, data))


def test_what_cannot_be_read_is_left_out_and_counted(finished, pictures):
    (pictures / "red" / "000.png").write_bytes(b"nothing")
    (pictures / "red" / "001.png").write_bytes(b"")
    events = []
    scores = follow(evaluate(finished.path, pictures), events.append)
    assert scores.n == 34
    texts = [event.values.get("text") for event in events if event.values.get("title") == "Data"]
    assert texts == ["2 images could not be read and were left out"]


def test_nothing_that_can_be_read_is_an_error(finished, tmp_path):
    (tmp_path / "later" / "red").mkdir(parents=True)
    (tmp_path / "later" / "red" / "a.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="none of its images can be read"):
        drain(evaluate(finished.path, tmp_path / "later"))


def test_no_images_and_no_model_are_errors(finished, tmp_path, pictures):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        drain(evaluate(finished.path, tmp_path / "empty"))
    with pytest.raises(RunFolderError, match="is not a finished run folder"):
        drain(evaluate(tmp_path / "empty", pictures))


def test_a_table_and_its_groups_widen_the_interval(finished, pictures):
    with open(pictures / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "kind", "person"])
        for number, path in enumerate(sorted(pictures.rglob("*.png"))):
            wrong = path.parent.name if number % 4 else "blue"
            writer.writerow([path.relative_to(pictures), wrong, number % 4])
    table = pictures / "labels.csv"
    alone = drain(evaluate(finished.path, table, label="kind"))
    together = drain(evaluate(finished.path, table, label="kind", group="person"))
    assert together.accuracy == alone.accuracy
    assert together.high - together.low > alone.high - alone.low


def test_a_folder_named_like_a_run_is_not_changed(finished, pictures):
    before = {p.name: p.stat().st_mtime_ns for p in finished.path.rglob("*")}
    drain(evaluate(finished.path, pictures))
    assert before == {p.name: p.stat().st_mtime_ns for p in finished.path.rglob("*")}
    assert json.loads((finished.path / "summary.json").read_text())["test"]["n"] == 15


def notes(steps):
    events = []
    follow(steps, events.append)
    return {e.values["title"]: e.values["text"] for e in events if "title" in e.values}


def test_the_run_s_own_estimate_stands_beside_it(finished):
    split = finished.path.parents[1] / "split"
    said = notes(evaluate(finished.path, split / "test"))
    assert said["Expected"].endswith("on images like the training data")
    assert "Unlike" not in said


def test_images_that_are_unlike_all_it_knows_are_counted(finished, tmp_path):
    odd = tmp_path / "odd" / "blue"
    odd.mkdir(parents=True)
    for number in range(8):
        board = 255 * (np.indices((64, 64)).sum(axis=0) // (number + 2) % 2).astype(np.uint8)
        Image.fromarray(board).save(odd / f"{number}.png")
    said = notes(evaluate(finished.path, tmp_path / "odd"))
    assert said["Unlike"] == "8 of the 8 images are unlike all training data"
