"""Several labels and numbers: the forms they come in, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from image_files import fails
from warmstart.data.read import read, read_for_scoring
from warmstart.errors import DataError
from warmstart.events import drain

N = 8
X = np.random.default_rng(0).integers(0, 255, (N, 8, 8, 3), dtype=np.uint8)
SETS = ["a|b", "a", "b", "", "a|b", "b", "a", ""]


@pytest.fixture
def root(tmp_path):
    for row in range(N):
        Image.fromarray(X[row]).save(tmp_path / f"{row}.png")
    return tmp_path


def table(root, header, rows, name="t.csv"):
    lines = [header, *(f"{row}.png,{text}" for row, text in enumerate(rows))]
    (root / name).write_text("\n".join(lines) + "\n")
    return root / name


def record(source, **options):
    return drain(read(source, **options)).record


@pytest.mark.parametrize("mark", ["|", ";", " "])
def test_several_labels_in_one_cell(root, mark):
    source = table(root, "path,label", [text.replace("|", mark) for text in SETS])
    result = record(source, task="multilabel")
    assert (result.task, result.classes) == ("multilabel", ("a", "b"))
    assert [example.label for example in result.examples] == SETS


def test_several_labels_between_commas(root):
    cells = [f'"{text.replace("|", ",")}"' for text in SETS]
    result = record(table(root, "path,label", cells), task="multilabel")
    assert [example.label for example in result.examples] == SETS


def test_cells_stay_classes_unless_the_user_says_otherwise(root):
    cells = ["a|b", "a", "a|b", "a", "a|b", "a", "a", "a"]
    result = record(table(root, "path,label", cells))
    assert (result.task, result.classes) == ("classify", ("a", "a|b"))


def test_columns_of_0_and_1(root):
    rows = [f"{int('a' in text)},{int('b' in text)}" for text in SETS]
    result = record(table(root, "path,a,b", rows), label="a,b")
    assert (result.task, result.classes) == ("multilabel", ("a", "b"))
    assert [example.label for example in result.examples] == SETS


def test_lists_in_json_lines_and_data_frames(root):
    lists = [text.split("|") if text else [] for text in SETS]
    lines = [json.dumps({"path": f"{r}.png", "label": names}) for r, names in enumerate(lists)]
    (root / "t.jsonl").write_text("\n".join(lines))
    frame = pd.DataFrame({"path": [str(root / f"{r}.png") for r in range(N)], "label": lists})
    for source in (root / "t.jsonl", frame):
        result = record(source)
        assert result.task == "multilabel"
        assert [example.label for example in result.examples] == SETS


def test_a_matrix_and_lists_of_names():
    matrix = np.array([[int(name in text) for name in "ab"] for text in SETS])
    result = record((X, matrix))
    assert (result.task, result.classes) == ("multilabel", ("0", "1"))
    named = record((X, pd.DataFrame(matrix, columns=["a", "b"])))
    assert [example.label for example in named.examples] == SETS
    lists = record((X, [text.split("|") if text else [] for text in SETS]))
    assert [example.label for example in lists.examples] == SETS


def test_numbers_in_a_column_and_in_an_array(root):
    values = [0.5, 1.25, 2.5, 3.5, 4.5, 5.5, 6.5, 1e-7]
    result = record(table(root, "path,age", values), label="age")
    assert (result.task, result.classes) == ("regress", ("age",))
    given = record((X, values))
    assert [float(example.label) for example in given.examples] == values
    assert given.classes == ("value",)


def test_whole_numbers_are_classes_unless_the_user_says_otherwise():
    years = [1, 2, 1, 2, 1, 2, 1, 2]
    assert record((X, years)).task == "classify"
    assert record((X, years), task="regress").task == "regress"


def test_folders_may_be_numbers(tmp_path):
    for row in range(N):
        (tmp_path / f"{row % 4}").mkdir(exist_ok=True)
        Image.fromarray(X[row]).save(tmp_path / f"{row % 4}" / f"{row}.png")
    result = record(tmp_path, task="regress")
    assert {example.label for example in result.examples} == {"0", "1", "2", "3"}


def test_scoring_reads_the_labels_of_the_model(root):
    source = table(root, "path,label", ["a|b", "", *SETS[2:]])
    result = drain(read_for_scoring(source, ("a", "b"), task="multilabel")).record
    assert result.task == "multilabel"
    numbers = table(root, "path,label", range(N), "n.csv")
    assert drain(read_for_scoring(numbers, ("value",), task="regress")).record.task == "regress"
    with pytest.raises(DataError, match="has the class 'c', which this model does not know"):
        drain(read_for_scoring(table(root, "path,label", ["c"] * N), ("a",), task="multilabel"))


# ---- what is refused -----------------------------------------------------------------------


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


def test_cells_that_are_no_labels(root):
    rows = ["1,0", "2,1", *["0,1"] * 6]
    fails(
        table(root, "path,a,b", rows),
        't.csv line 3: "a" is "2"; columns of several labels',
        label="a,b",
    )
    fails(table(root, "path,a,b", rows), 'has no column "c"', label="a,c")
    mixed = ["a;b", '"a,b"', *["a"] * 6]
    fails(table(root, "path,label", mixed), "has ';' and ',' in its labels", task="multilabel")
    bad = [json.dumps({"path": f"{r}.png", "label": ["a|b"]}) for r in range(N)]
    (root / "t.jsonl").write_text("\n".join(bad))
    fails(root / "t.jsonl", "the label \"a|b\" holds '|'; call it something else")


def test_sets_without_a_row_to_learn_from(root):
    rows = [f"{text},test" for text in SETS]
    source = table(root, "path,label,split", rows)
    fails(source, "holds no training image; add at least 2 for each label", task="multilabel")
    source = table(root, "path,label,split", [f"{r}.5,test" for r in range(N)])
    fails(source, "holds no training image; add some with numbers", task="regress")


def test_a_test_label_that_training_does_not_know(root):
    rows = [f"{text},{'test' if text == 'x' else 'train'}" for text in ["x", "x", *SETS]]
    for row in (8, 9):
        Image.fromarray(X[row - 8]).save(root / f"{row}.png")
    fails(
        table(root, "path,label,split", rows), 'the test set has the class "x"', task="multilabel"
    )
