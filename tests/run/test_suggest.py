"""Images to label next: which are left out, what is said of each, what it should bring."""

from __future__ import annotations

import csv
import errno
import shutil
from dataclasses import replace

import numpy as np
import pytest

import tables
import warmstart
from hue_images import fill
from warmstart.data.read import read
from warmstart.errors import DataError, RunFolderError, UsageError
from warmstart.events import drain
from warmstart.records.run_folder import read_json, write_json
from warmstart.records.summary import Evidence, Inspection
from warmstart.run.suggest import expected_gain, suggest


@pytest.fixture
def inbox(tmp_path):
    """30 pictures that the run has not seen, two copies, one of its own, one torn."""
    folder = fill(tmp_path / "inbox", {"a": 10, "b": 10, "c": 10}, seed=7)
    for number in range(2):
        shutil.copy(folder / "a" / f"00{number}.png", folder / "c" / f"copy{number}.png")
    (folder / "torn.png").write_bytes(b"dear")
    return folder


def learning_curve(**details):
    return Evidence(
        name="learning_curve", value=0.1, low=0.04, high=0.2, n=100, meaning="", details=details
    )


def test_each_new_readable_image_counts_once(finished, inbox):
    own = finished.path.parents[1] / "split"
    shutil.copy(own / "train" / "red" / "000.png", inbox / "train.png")
    shutil.copy(own / "test" / "red" / "000.png", inbox / "test.png")
    result = drain(suggest(finished.path, [str(inbox)], count=8))
    assert result.candidates == 30
    skipped = result.skipped
    assert (skipped.present, skipped.copies, skipped.unreadable) == (2, 2, 1)
    paths = [one.path for one in result.suggestions]
    assert len(set(paths)) == 8
    assert not {"train.png", "test.png", "torn.png"} & {path.rpartition("/")[2] for path in paths}


def test_each_comes_with_the_answer_that_predict_gives(finished, inbox):
    result = drain(suggest(finished.path, [str(inbox)], count=5)).suggestions
    answers = warmstart.load(finished.path).predict([one.path for one in result])
    for one, answer in zip(result, answers, strict=True):
        assert (one.path, one.label) == (answer.path, answer.label)
        assert one.probability == pytest.approx(answer.probability, abs=1e-3)
        best, second = list(answer.scores)[:2]
        if answer.ood:
            assert one.why == "unlike the training data"
        elif answer.scores[second] > 0.51 * answer.scores[best]:
            assert one.why == f"uncertain: {best} or {second}"
        elif answer.scores[second] < 0.49 * answer.scores[best]:
            assert one.why == "typical of many like it"


def test_the_same_images_give_the_same_answer_however_they_are_named(finished, inbox):
    whole = drain(suggest(finished.path, [str(inbox)], count=4))
    folders = [str(inbox / name) for name in ("a", "b", "c")]
    assert drain(suggest(finished.path, folders, count=4)).suggestions == whole.suggestions
    few = drain(suggest(finished.path, folders[1:2]))
    assert len(few.suggestions) == few.candidates == 10


def test_nothing_to_choose_from_is_an_error(finished, own_run, tmp_path, inbox):
    own = finished.path.parents[1] / "split" / "test"
    (tmp_path / "empty").mkdir()
    for path, says in (
        (tmp_path / "empty", "holds no images"),
        (own, "none of the 15 images is new: 15 are in the run's own"),
        (tmp_path / "nowhere.png", r"none of the 1 images can be read .*nowhere\.png"),
    ):
        with pytest.raises(DataError, match=says):
            drain(suggest(finished.path, [str(path)]))
    with pytest.raises(UsageError, match="--count 0: it needs a whole number, 1 or more"):
        drain(suggest(finished.path, [str(inbox)], count=0))
    (own_run / "data.json").unlink()
    with pytest.raises(RunFolderError, match=r"has no data\.json"):
        drain(suggest(own_run, [str(inbox)]))


def test_the_gain_is_the_share_of_a_doubling_that_the_curve_reaches():
    def law(n):
        return 0.1 * n**0.7 / (1 + 0.1 * n**0.7)

    evidence = learning_curve(scale=0.1, exponent=0.7)
    for more in (20, 100):
        result = expected_gain(evidence, 100, more)
        share = (law(100 + more) - law(100)) / (law(200) - law(100))
        assert (result.gain, result.low, result.high, result.n) == (
            *(pytest.approx(share * value) for value in (0.1, 0.04, 0.2)),
            more,
        )
    assert expected_gain(evidence, 10, 20) is None  # beyond a doubling


@pytest.mark.parametrize(
    "evidence",
    [
        None,
        learning_curve(),
        learning_curve(scale=0.2, exponent="unknown"),
        learning_curve(scale=0.2, exponent=0.0),
        Evidence(name="learning_curve", value=None, low=None, high=None, n=9, meaning=""),
    ],
)
def test_nothing_is_said_where_nothing_was_measured(evidence):
    assert expected_gain(evidence, 100, 20) is None


def test_the_gain_is_read_from_the_run(own_run, inbox):
    inspection = read_json(own_run / "inspection.json", Inspection)
    others = tuple(e for e in inspection.evidence if e.name != "learning_curve")
    evidence = (*others, learning_curve(scale=0.2, exponent=0.5))
    write_json(own_run / "inspection.json", replace(inspection, evidence=evidence))
    result = drain(suggest(own_run, [str(inbox)], count=20)).expected
    assert result == expected_gain(learning_curve(scale=0.2, exponent=0.5), 36, 20)
    (own_run / "inspection.json").unlink()
    assert drain(suggest(own_run, [str(inbox)], count=20)).expected is None


def test_the_table_can_be_filled_in_and_learnt_from(finished, inbox):
    result = drain(suggest(finished.path, [str(inbox)], count=12, out=inbox / "next.csv"))
    with open(inbox / "next.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [str(inbox / row["path"]) for row in rows] == [one.path for one in result.suggestions]
    assert [row["suggested"] for row in rows] == [one.label for one in result.suggestions]
    assert {row["label"] for row in rows} == {""}
    filled = "".join(f"{row['path']},{'xy'[i % 2]}\n" for i, row in enumerate(rows))
    (inbox / "filled.csv").write_text("path,label\n" + filled)
    assert len(drain(read(str(inbox / "filled.csv"))).record.examples) == 12


def test_a_table_is_never_written_over_and_refused_before_the_extraction(finished, inbox):
    (inbox / "next.csv").write_text("hours of work")
    for name, says in (
        ("next.csv", "exists; nothing was changed"),
        ("next.txt", r"needs the name of a table, FILE\.csv"),
        ("nowhere/next.csv", "there is no folder"),
    ):
        with pytest.raises(UsageError, match=says):
            next(suggest(finished.path, [str(inbox)], out=inbox / name))
    assert (inbox / "next.csv").read_text() == "hours of work"


def test_a_table_that_cannot_be_written_is_an_error(finished, inbox, monkeypatch):
    def full(path, payload):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("warmstart.records.run_folder.write_bytes", full)
    with pytest.raises(UsageError, match="cannot be written \\(No space left on device\\)"):
        drain(suggest(finished.path, [str(inbox)], count=1, out=inbox / "next.csv"))


def test_the_rows_of_a_table_are_candidates_by_their_lines(tmp_path):
    rng = np.random.default_rng(0)
    rows = [[f"{a:.3f}", f"{b:.3f}", "yes" if a > 0 else "no"] for a, b in rng.normal(size=(60, 2))]
    data = tables.write(tmp_path / "t.csv", rows, ("a", "b", "label"))
    run = warmstart.fit(data, budget="fast", strategy="head", out=tmp_path / "run")
    new = tables.write(tmp_path / "new.csv", [["0.01", "1"], ["3", "0"], ["-3", "1"]], ("a", "b"))
    out = tmp_path / "todo.csv"
    (first,) = drain(suggest(run.path, [str(new)], count=1, out=out)).suggestions
    assert first.path == f"{new} line 2"
    with out.open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [first.path]
