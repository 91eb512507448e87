"""Labelled images as they are given, and what test images share with others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hue_images import fill
from warmstart.auditing.judge import list_images, overlap
from warmstart.data.near_duplicates import MIN_PAIRS
from warmstart.errors import DataError
from warmstart.records.data import Example


def splits(listing):
    return {row.id: row.split for row in listing.rows}


def test_one_image_of_one_class_is_enough(tmp_path):
    fill(tmp_path / "a", {"blue": 1})
    assert splits(list_images(tmp_path / "a")) == {"blue/000.png": "test"}


def test_the_test_part_is_judged_else_the_hold_out(tmp_path):
    for part in ("train", "val", "test"):
        fill(tmp_path / "all" / part, {"blue": 1, "red": 1})
    result = splits(list_images(tmp_path / "all"))
    assert (result["test/red/000.png"], result["val/red/000.png"]) == ("test", "holdout")
    for part in ("train", "val"):
        fill(tmp_path / "two" / part, {"blue": 1, "red": 1})
    result = splits(list_images(tmp_path / "two"))
    assert (result["val/red/000.png"], result["train/red/000.png"]) == ("test", "train")


def test_what_was_trained_on_stands_beside(tmp_path):
    fill(tmp_path / "new", {"blue": 1})
    fill(tmp_path / "new" / "train", {"blue": 1})  # a class, beside "blue"
    fill(tmp_path / "old", {"blue": 2})
    listing = list_images(tmp_path / "new", train=tmp_path / "old")
    result = splits(listing)
    assert result["train/train/blue/001.png"] == "train"
    assert result["train/blue/000.png"] == "test"
    assert listing.load("train/train/blue/000.png")[:4] == b"\x89PNG"


def test_a_column_of_a_folder_is_a_mistake(tmp_path):
    fill(tmp_path / "a", {"blue": 1})
    for name in ("label", "group"):
        with pytest.raises(DataError, match=f"--{name} x names a column, but .* is not a table"):
            list_images(tmp_path / "a", **{name: "x"})


# ---- what test images share with others, each named once ----


def example(id, split="test", sha256=None, label="x", group=None):
    return Example(id=id, label=label, split=split, sha256=sha256 or id, group=group)


def kinds(result):
    return {finding.kind: finding.items for finding in result.findings}


def test_each_way_to_leak_is_named_and_an_image_once():
    examples = [
        example("t1", "train", "same", group="p"),
        example("t2", "holdout"),
        example("a", sha256="same", group="p"),
        example("b"),
        example("c", group="p"),
        example("d"),
    ]
    result = overlap(examples, [("b", "t2"), ("a", "t2")])
    assert [finding.items for finding in result.findings] == [("a",), ("b",), ("c",)]
    assert [finding.kind for finding in result.findings] == ["leakage"] * 3
    assert "1 of the 4 test images" in result.findings[0].sentence
    assert result.leaked == {"a", "b", "c"}


def test_what_a_model_is_known_to_have_learnt_leaks_too():
    assert overlap([example("a"), example("b")], [], {"b"}).leaked == {"b"}


def test_copies_and_conflicts_among_those_judged_on():
    examples = [
        example("a", sha256="s"),
        example("b", sha256="s"),
        example("c"),
        example("d"),
        example("e", label="y"),
        example("t", "train"),
    ]
    result = overlap(examples, [("c", "d"), ("d", "e")])
    assert kinds(result) == {"near-duplicate": ("b",), "conflict": ("d", "e")}
    assert not result.leaked
    assert result.near_duplicates == (("c", "d"), ("d", "e"))


def test_pictures_of_one_scene_are_no_copies():
    examples = [example(f"{i:02}", label="xy"[i % 2]) for i in range(MIN_PAIRS + 2)]
    pairs = [("00", example.id) for example in examples[1:]]
    result = overlap(examples, pairs)
    assert result.near_duplicates == ()
    assert "one fixed scene" in result.findings[0].sentence


@given(st.lists(st.tuples(st.sampled_from(["train", "test"]), st.integers(0, 4)), max_size=12))
def test_exactly_the_judged_images_that_training_holds_leak(rows):
    examples = [example(str(i), split, f"s{k}") for i, (split, k) in enumerate(rows)]
    held = {e.sha256 for e in examples if e.split == "train"}
    expected = {e.id for e in examples if e.split == "test" and e.sha256 in held}
    assert overlap(examples, []).leaked == expected
