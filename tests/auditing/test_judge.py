"""Labelled images as they are given: nothing has to be learnable."""

import pytest

from hue_images import fill
from warmstart.auditing.judge import list_images
from warmstart.errors import DataError


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
