"""A run folder of format 1, written by version 0.1.0 before other kinds of data came, still works.

`old/format1` was made from 36 drawn pictures and `tiny.Convolutions` with random weights;
`old/format1-answers.json` is what that version's `predict` said of six of them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import tiny
import warmstart
from drawing import fill
from warmstart.cli import main

OLD = Path(__file__).parent / "old"


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A copy of the old run, beside the pictures that it learnt from."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "pictures", {"blue": 12, "green": 12, "red": 12})
    return Path(shutil.copytree(OLD / "format1", tmp_path / "run"))


def test_its_record_is_read(old):
    run = warmstart.Run.open(old)
    assert json.loads((old / "summary.json").read_text())["format"] == 1
    assert run.summary.task == "classify"
    assert (run.estimate.method, run.estimate.n) == ("nested-cv", 36)
    assert run.plan.strategy.value == "head"
    assert run.summary.frozen.identical


def test_its_model_answers_as_it_did(old):
    told = json.loads((OLD / "format1-answers.json").read_text())
    model = warmstart.load(old, network=tiny.network())
    for answer, before in zip(model.predict([t["path"] for t in told]), told, strict=True):
        assert (answer.label, answer.sure, answer.unknown) == (
            before["label"], before["sure"], before["unknown"],
        )  # fmt: skip
        assert dict(answer.scores) == pytest.approx(before["scores"], abs=1e-4)


def test_its_report_is_written_again(old, capsys):
    assert main(["report", str(old)]) == 0
    page = (old / "report.html").read_text("utf-8")
    assert "36 images" in page
    assert "no picture" not in page  # the pictures are found where the run had them
    assert capsys.readouterr().out.strip() == str(old / "report.html")


def test_it_is_compared(old):
    other = Path(shutil.copytree(old, old.parent / "other"))
    (pair,) = warmstart.compare(old, other).pairs
    assert (pair.difference, pair.winner, pair.n) == (0, None, 36)


def test_it_is_small_and_names_no_machine():
    files = [path for path in (OLD / "format1").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100_000
    assert not any(b"/home/" in path.read_bytes() for path in files)
