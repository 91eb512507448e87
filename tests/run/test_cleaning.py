"""Copies that only looking finds: blocks, findings, and what --fix leaves out."""

from __future__ import annotations

import csv
import hashlib

import numpy as np
import pytest
from PIL import ImageOps

import warmstart
from detailed_images import training_data
from extraction import collect, look_at
from tiny import bytes_of, fit, network
from warmstart.errors import DataError
from warmstart.planning.rules import LEAST_SIDE
from warmstart.run.cleaning import clean
from warmstart.training.dataset import arrange, groups_among

PER_CLASS = 5


def fill(root, labels="ab", per_class=PER_CLASS, seed=0):
    """Scenes with details of their own in each class folder."""
    for label in labels:
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            picture = training_data(seed + 100 * "abc".index(label) + number)
            picture.save(root / label / f"{number}.png")
    return root


@pytest.fixture
def photos(tmp_path):
    """train/ and test/ with two classes each, every picture of its own."""
    fill(tmp_path / "photos" / "train")
    fill(tmp_path / "photos" / "test", per_class=2, seed=50)
    return tmp_path / "photos"


def original(label, number, seed=0):
    return training_data(seed + 100 * "abc".index(label) + number)


def reencode(label, number, to):
    original(label, number).resize((150, 112)).save(to, quality=60)


def mirror(label, number, to):
    ImageOps.mirror(original(label, number)).save(to)


def copy(path, to):
    to.write_bytes(path.read_bytes())


def settle(root, **options):
    collection = collect(root)
    return clean(collection, look_at(collection)[0], **options)


def findings(collection):
    return {problem.kind: problem.items for problem in collection.record.problems}


# ---- findings ------------------------------------------------------------------------------


def test_pictures_of_their_own_are_no_copies(photos):
    record = settle(photos).record
    assert record.near_duplicates == record.problems == ()
    assert len(arrange(record).group_rows) == 2 * PER_CLASS


def test_near_copies_in_training_are_one_block_and_a_duplicate(photos):
    reencode("a", 0, photos / "train/a/small.jpg")
    mirror("a", 0, photos / "train/a/turned.png")
    mirror("b", 1, photos / "train/b/turned.png")
    whole = settle(photos)
    labelled = arrange(whole.record)
    ids = [example.id for example in labelled.learn]
    groups = {frozenset(ids[row] for row in rows) for rows in labelled.group_rows if len(rows) > 1}
    assert groups == {
        frozenset({"train/a/0.png", "train/a/small.jpg", "train/a/turned.png"}),
        frozenset({"train/b/1.png", "train/b/turned.png"}),
    }
    assert findings(whole) == {
        "near-duplicate": ("train/a/small.jpg", "train/a/turned.png", "train/b/turned.png")
    }
    assert len(groups_among(np.arange(len(ids)), labelled)) == 2 * PER_CLASS


def test_near_copies_with_two_labels_are_a_conflict(photos):
    reencode("a", 0, photos / "train/b/also.jpg")
    assert findings(settle(photos)) == {"conflict": ("train/a/0.png", "train/b/also.jpg")}


def test_near_copies_across_the_split_are_a_leak_whatever_their_labels(photos):
    mirror("a", 0, photos / "test/a/turned.png")
    reencode("a", 1, photos / "test/b/small.jpg")
    whole = settle(photos)
    assert findings(whole) == {"leakage": ("test/a/turned.png", "test/b/small.jpg")}
    assert len(arrange(whole.record).group_rows) == 2 * PER_CLASS


def test_a_near_copy_of_one_is_a_near_copy_of_its_exact_copies(photos):
    copy(photos / "train/a/0.png", photos / "train/a/same.png")
    reencode("a", 0, photos / "train/a/small.jpg")
    whole = settle(photos)
    assert set(whole.record.near_duplicates) == {
        ("train/a/0.png", "train/a/small.jpg"),
        ("train/a/same.png", "train/a/small.jpg"),
    }
    named = [item for problem in whole.record.problems for item in problem.items]
    assert sorted(named) == ["train/a/same.png", "train/a/small.jpg"]


def test_of_tiny_pictures_nothing_is_said(tmp_path):
    """Scans of 8 px: there is too little in them to tell a copy from a look-alike."""
    for label in "ab":
        for number in range(4):
            path = tmp_path / "photos" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            training_data(0).resize((LEAST_SIDE - 1, LEAST_SIDE)).rotate(number).save(path)
    assert settle(tmp_path / "photos").record.near_duplicates == ()


def test_what_cannot_be_read_is_left_out_before(photos):
    (photos / "train/a/torn.png").write_bytes(b"nothing")
    whole = settle(photos)
    assert list(findings(whole)) == ["unreadable"]
    assert not any(example.id == "train/a/torn.png" for example in whole.record.examples)


# ---- --fix ---------------------------------------------------------------------------------


@pytest.fixture
def faulty(photos):
    """One of each: leaks near and exact, conflicts near and exact, copies exact and near."""
    reencode("a", 0, photos / "test/a/leak.jpg")
    copy(photos / "train/b/0.png", photos / "test/b/leak.png")
    mirror("a", 1, photos / "train/b/conflict.png")
    copy(photos / "train/a/2.png", photos / "train/b/both.png")
    copy(photos / "train/b/3.png", photos / "train/b/again.png")
    reencode("a", 4, photos / "train/a/near.jpg")
    return photos


GONE = {
    "train/a/0.png",
    "train/b/0.png",  # the test holds them
    "train/a/1.png",
    "train/b/conflict.png",
    "train/a/2.png",
    "train/b/both.png",  # two labels
    "train/b/again.png",  # 3.png is the first of its bytes
}


def test_fix_leaves_out_what_it_promises_and_nothing_else(faulty, tmp_path):
    (tmp_path / "fixed").mkdir()
    before = bytes_of(faulty)
    noted, clean = settle(faulty), settle(faulty, fix_into=tmp_path / "fixed")
    assert bytes_of(faulty) == before
    assert bytes_of(tmp_path / "fixed").keys() == {"clean.csv"}
    gone = {e.id for e in noted.record.examples} - {e.id for e in clean.record.examples}
    assert gone == GONE
    tests = [[e for e in whole.record.examples if e.split == "test"] for whole in (noted, clean)]
    assert tests[0] == tests[1]
    assert clean.record.near_duplicates == (("train/a/4.png", "train/a/near.jpg"),)
    left = {p.kind: p.items for p in clean.record.problems if p.items}
    assert left == {"near-duplicate": ("train/a/near.jpg",), "small-class": ("a", "b")}


def test_the_clean_index_given_back_is_the_clean_set(faulty, tmp_path):
    (tmp_path / "fixed").mkdir()
    clean = settle(faulty, fix_into=tmp_path / "fixed").record
    again = collect(faulty, relabel=tmp_path / "fixed" / "clean.csv").record
    assert again.examples == clean.examples
    assert again.classes == clean.classes
    with open(tmp_path / "fixed" / "clean.csv", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    files = {p.relative_to(faulty).as_posix() for p in faulty.rglob("*") if p.is_file()}
    assert rows.keys() == files
    for id, row in rows.items():
        assert bool(row["note"]) == (not row["label"])
        digest = hashlib.sha256((faulty / id).read_bytes()).hexdigest()
        is_kept = any(e.id == id and e.sha256 == digest for e in clean.examples)
        assert is_kept == bool(row["label"])


def test_a_clean_set_stays_as_it_is(photos, tmp_path):
    assert settle(photos, fix_into=tmp_path).record == settle(photos).record
    with open(tmp_path / "clean.csv", newline="") as file:
        assert all(row["label"] and not row["note"] for row in csv.DictReader(file))


def test_a_class_of_which_too_little_is_left_is_named(photos, tmp_path):
    for number in range(PER_CLASS):
        mirror("a", number, photos / f"test/a/turned{number}.png")
    with pytest.raises(DataError, match=r"train/a.*: nothing is left of it when 5 images are"):
        settle(photos, fix_into=tmp_path)


def test_an_interrupted_run_with_fix_goes_on(pictures, tmp_path):
    copy(pictures / "red/000.png", pictures / "red/copy.png")

    def stop(event):
        if (event.stage, event.kind) == ("checks", "end"):
            raise KeyboardInterrupt

    options = {"fix": True, "out": tmp_path / "out"}
    with pytest.raises(KeyboardInterrupt):
        fit(pictures, **options, on_event=stop)
    assert {"clean.csv", "INTERRUPTED"} <= bytes_of(tmp_path / "out").keys()
    run = warmstart.resume(tmp_path / "out", base=network())
    assert (run.summary.data.train, run.summary.data.near_duplicates) == (36, 0)
    assert {"clean.csv", "label_issues.csv", "DONE"} <= bytes_of(run.path).keys()
