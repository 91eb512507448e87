"""Several labels and numbers: the forms they come in, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from image_files import fails, paint
from warmstart.data.read import read, read_for_scoring
from warmstart.errors import DataError
from warmstart.events import drain

N = 8
X = np.random.default_rng(0).integers(0, 255, (N, 8, 8, 3), dtype=np.uint8)
SETS = ["a|b", "a", "b", "", "a|b", "b", "a", ""]
LISTS = [text.split("|") if text else [] for text in SETS]
MATRIX = np.array([[int(name in text) for name in "ab"] for text in SETS])


@pytest.fixture
def root(tmp_path):
    return paint(tmp_path, {f"{row}.png": row for row in range(N + 2)})


def table(root, header, rows):
    lines = [header, *(f"{row}.png,{text}" for row, text in enumerate(rows))]
    (root / "t.csv").write_text("\n".join(lines) + "\n")
    return root / "t.csv"


def json_lines(root, lists):
    rows = [{"path": f"{row}.png", "label": names} for row, names in enumerate(lists)]
    (root / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root / "t.jsonl"


def result(source, **options):
    """Task, classes and labels."""
    record = drain(read(source, **options)).record
    return record.task, record.classes, [example.label for example in record.examples]


@pytest.mark.parametrize("mark", ["|", ";", " ", ","])
def test_several_labels_in_one_cell(root, mark):
    cells = [f'"{text.replace("|", mark)}"' for text in SETS]
    source = table(root, "path,label", cells)
    assert result(source, task="multilabel") == ("multilabel", ("a", "b"), SETS)


def test_several_labels_in_columns_lists_and_matrices(root):
    several = ("multilabel", ("a", "b"), SETS)
    rows = [f"{a},{b}" for a, b in MATRIX]
    assert result(table(root, "path,a,b", rows), label="a,b") == several
    paths = [str(root / f"{row}.png") for row in range(N)]
    for source in (
        json_lines(root, LISTS),
        pd.DataFrame({"path": paths, "label": LISTS}),
        (X, LISTS),
        (X, pd.DataFrame(MATRIX, columns=["a", "b"])),
    ):
        assert result(source) == several
    assert result((X, MATRIX))[:2] == ("multilabel", ("0", "1"))


def test_numbers_in_a_column_an_array_and_folders(root, tmp_path):
    values = [0.5, 1.25, 2.5, 3.5, 4.5, 5.5, 6.5, 1e-7]
    assert result(table(root, "path,age", values), label="age")[:2] == ("regress", ("age",))
    task, classes, labels = result((X, values))
    assert (task, classes, [*map(float, labels)]) == ("regress", ("value",), values)
    folders = paint(tmp_path / "folders", {f"{row % 4}/{row}.png": row for row in range(N)})
    assert set(result(folders, task="regress")[2]) == {"0", "1", "2", "3"}


def test_whole_numbers_and_cells_stay_classes_unless_the_user_says_otherwise(root):
    years = [1, 2, 1, 2, 1, 2, 1, 2]
    assert result((X, years))[0] == "classify"
    assert result((X, years), task="regress")[0] == "regress"
    source = table(root, "path,label", ["a|b", "a", "a|b", "a", "a|b", "a", "a", "a"])
    assert result(source)[:2] == ("classify", ("a", "a|b"))


def test_scoring_reads_the_labels_of_the_model(root):
    for labels, classes, task in (
        (["a|b", "", *SETS[2:]], ("a", "b"), "multilabel"),
        (range(N), ("value",), "regress"),
    ):
        source = table(root, "path,label", labels)
        assert drain(read_for_scoring(source, classes, task=task)).record.task == task
    with pytest.raises(DataError, match="has the class 'c', which this model does not know"):
        drain(read_for_scoring(table(root, "path,label", ["c"] * N), ("a",), task="multilabel"))


@pytest.mark.parametrize(
    ("y", "task", "words"),
    [
        ([3.5] * N, "regress", "y: all 8 numbers are 3.5, so there is nothing to learn"),
        ([1e308, -1e308] * (N // 2), "regress", "1e+308, too large to be squared; divide all"),
        ([1.5, float("nan"), *range(6)], "regress", "y: the label of 1 is nan; fill it in"),
        ([1.5, float("inf"), *range(6)], "regress", "y: the label of 1 is inf; fill it in"),
        (list("abcdefgh"), "regress", 'y: the label of 0 is "a", which is not a number'),
        (np.eye(2)[[0, 1] * 4], "auto", "one 1 a row; give y.argmax(axis=1)"),
        (np.zeros((N, 2), int), "auto", 'no training image has the label "0"'),
        ([["a"], ["b"], ["b"], *[[]] * 5], "auto", '1 training image has the label "a"'),
        ([["a", "b"], *[["a"]] * 7], "auto", '8 of 8 training images have the label "a"'),
        ([["a"], ["a"], *[[]] * 6], "auto", "has 1 label and --task multilabel needs 2"),
        ([["a|b"], *[["a"]] * 7], "auto", "y has the label 'a|b'; labels are texts without '|'"),
        ([["a"], *[["b"]] * 7], "classify", "has several labels an image; use --task multilabel"),
        ([["a"], *[["b"]] * 7], "regress", "--task regress takes one number"),
    ],
)
def test_targets_that_cannot_be_learnt(y, task, words):
    fails((X, y), words, task=task)


@pytest.mark.parametrize(
    ("header", "rows", "options", "part"),
    [
        ("a,b", ["1,0", "2,1", *["0,1"] * 6], {"label": "a,b"}, 'line 3: "a" is "2"; columns of'),
        ("a,b", ["1,0", *["0,1"] * 7], {"label": "a,c"}, 'has no column "c"'),
        ("label", ["a;b", '"a,b"', *["a"] * 6], {"task": "multilabel"}, "has ';' and ',' in its"),
        (
            "label,split",
            [f"{text},test" for text in SETS],
            {"task": "multilabel"},
            "holds no training image; add at least 2 for each label",
        ),
        (
            "label,split",
            [f"{row}.5,test" for row in range(N)],
            {"task": "regress"},
            "holds no training image; add some with numbers",
        ),
        (
            "label,split",
            ["x,test", "x,test", *(f"{text},train" for text in SETS)],
            {"task": "multilabel"},
            'the test set has the class "x"',
        ),
    ],
)
def test_tables_of_labels_that_do_not_fit(root, header, rows, options, part):
    fails(table(root, f"path,{header}", rows), part, **options)


def test_a_list_of_labels_that_holds_the_separator(root):
    fails(json_lines(root, [["a|b"]] * N), "the label \"a|b\" holds '|'; call it something else")
