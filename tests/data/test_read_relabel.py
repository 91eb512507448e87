"""Labels corrected by the user's own table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from image_files import GREYS, fails, paint, rows
from warmstart.data.read import read
from warmstart.errors import DataError
from warmstart.events import drain

NAMES = list(GREYS)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return paint(tmp_path / "photos")


def fixed(photos: Path, text: str, name: str = "fixed.csv") -> Path:
    path = photos.parent / name
    path.write_text(text)
    return path


def labels(photos: Path, text: str, **options) -> dict[str, str]:
    return {id: label for id, label, _ in rows(photos, relabel=fixed(photos, text), **options)}


def test_labels_are_overridden_and_others_kept(photos):
    result = labels(photos, "path,label,suggested,probability\na/1.png,b,b,0.93\nb/0.png,b,a,0.5\n")
    assert result == {name: name[0] for name in NAMES} | {"a/1.png": "b"}
    record = drain(read(photos, relabel=str(photos.parent / "fixed.csv"))).record
    assert record.layout == "class folders; labels corrected by fixed.csv (1)"


@pytest.mark.parametrize("word", ["", "drop", " Drop ", "DROP"])
def test_rows_are_removed(photos, word):
    assert "a/1.png" not in labels(photos, f"label,path\n{word},a/1.png\n")


def test_a_class_called_drop_is_a_class(tmp_path):
    photos = paint(
        tmp_path / "photos", {f"{label}/{i}.png": i for label in ("ink", "drop") for i in range(4)}
    )
    result = labels(photos, "path,label\nink/0.png,drop\nink/1.png,\ndrop/0.png,drop\n")
    assert result["ink/0.png"] == result["drop/0.png"] == "drop"
    assert "ink/1.png" not in result


def test_a_new_class_of_two_and_a_class_that_goes(photos):
    result = labels(photos, "path,label\na/0.png,c\na/1.png,c\na/2.png,b\n")
    assert sorted(result.values()) == list("bbbbcc")


def test_test_images_too(photos):
    result = labels(photos, "path,label\ntest/a/0.png,b\n", test=photos)
    assert result["test/a/0.png"] == "b"
    fails(
        photos,
        'the test set has the class "c"',
        test=photos,
        relabel=fixed(photos, "path,label\ntest/a/0.png,c\n"),
    )


def test_other_kinds_of_table(photos):
    path = fixed(photos, '{"path": "a/1.png", "label": "b"}\n', "fixed.jsonl")
    assert ("a/1.png", "b", "train") in rows(photos, relabel=path)
    path = fixed(photos, "path\tlabel\na/1.png\tb\n", "fixed.tsv")
    assert ("a/1.png", "b", "train") in rows(photos, relabel=path)


def test_numbers_that_a_spreadsheet_has_shortened(photos):
    arrays = (np.zeros((4, 2, 2), np.uint8), list("abab"))
    assert rows(arrays, relabel=fixed(photos, "path,label\n00,b\n01,b\n2,a\n3,a\n"))[0][1] == "b"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "a/9.png,b\nc/9.png,b\na/0.png,b",
            [
                "fixed.csv: 2 of 3 paths not in ",
                "photos/ (first: a/9.png, line 2); did you mean a/",
            ],
        ),
        ("photos/b/2.png,a", ["1 of 1 path not in", "did you mean a/2.png"]),
        ("zzz,a", ["(first: zzz, line 2); give the paths as warmstart wrote them"]),
        (",a", ["(first: an empty path, line 2)"]),
        ("a/0.png,b\nb/0.png,a\na/0.png,b", ["fixed.csv names a/0.png in line 2 and line 4"]),
        ("a/0.png,bb", ['gives one training image the new class "bb"', "did you mean b?"]),
        ("a/0.png,zebra", ['new class "zebra"', "known are: a, b"]),
        ("a/0.png,\na/1.png,b", ["fixed.csv leaves ", "photos/a with 1 training image; a class"]),
        ("\n".join(f"a/{i}.png,drop" for i in range(3)), ['has one class ("b") and 2 are needed']),
    ],
)
def test_corrections_that_do_not_fit(photos, text, parts):
    fails(photos, *parts, relabel=fixed(photos, f"path,label\n{text}\n"))


def test_tables_that_do_not_fit(photos):
    fails(
        photos,
        "fixed.csv has no column that looks like the label. It has: path, to.",
        relabel=fixed(photos, "path,to\na/0.png,b\n"),
    )
    fails(photos, "fixed.csv has no rows", relabel=fixed(photos, "path,label\n"))
    fails(
        photos,
        'fixed.jsonl line 1: "label" is not a text or number; give one label',
        relabel=fixed(photos, '{"path": "a/0.png", "label": ["a"]}', "fixed.jsonl"),
    )
    fails(photos, "fixd.csv does not exist; did you mean", relabel=photos.parent / "fixd.csv")


def test_a_table_that_cannot_be_read(photos):
    (photos.parent / "folder.csv").mkdir()
    fails(
        photos,
        "folder.csv cannot be read (Is a directory); change its permissions",
        relabel=photos.parent / "folder.csv",
    )


# ---- other tasks -----------------------------------------------------------------------------


SETS = {"0": "red", "1": "red;blue", "2": "blue", "3": "", "4": "red", "5": "blue;red"}


def beyond(folder: Path, cells: dict[str, str], corrections: str, **options) -> dict[str, str]:
    """The labels of a table of six pictures once they were corrected."""
    paint(folder, {f"{name}.png": 10 + int(name) for name in cells})
    table = "path,label\n" + "".join(f"{name}.png,{cell}\n" for name, cell in cells.items())
    (folder / "t.csv").write_text(table)
    source = folder / "t.csv"
    relabel = fixed(folder, corrections)
    return {id: label for id, label, _ in rows(source, relabel=relabel, **options)}


def test_several_labels_are_corrected_as_a_set(tmp_path):
    text = "path,label,concerns\n0.png,red|blue,blue\n2.png,,blue\n4.png,drop,\n"
    result = beyond(tmp_path / "p", SETS, text, task="multilabel")
    assert result == {
        "0.png": "blue|red",
        "1.png": "blue|red",
        "2.png": "",
        "3.png": "",
        "5.png": "blue|red",
    }


def test_a_name_with_a_space_stays_one_name(tmp_path):
    cells = {name: cell.replace("red", "dark red") for name, cell in SETS.items()}
    result = beyond(tmp_path / "p", cells, "path,label\n1.png,dark red\n", task="multilabel")
    assert result["1.png"] == "dark red"


def test_numbers_are_corrected(tmp_path):
    numbers = {str(n): f"{n}.5" for n in range(6)}
    text = "path,label\n0.png,7\n1.png,\n2.png,2.50\n"
    result = beyond(tmp_path / "p", numbers, text, task="regress")
    assert result == {"0.png": "7"} | {f"{n}.png": f"{n}.5" for n in range(2, 6)}
    with pytest.raises(DataError, match=r'the label of 0\.png is "seven"'):
        beyond(tmp_path / "p", numbers, "path,label\n0.png,seven\n", task="regress")
