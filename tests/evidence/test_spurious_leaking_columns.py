"""One column that predicts its label."""

import numpy as np

from warmstart.evidence.spurious import leaking_columns

RNG = np.random.default_rng(0)
LABELS = np.arange(80) % 2
PARTS = [np.arange(80)[part::4] for part in range(4)]


def result(**columns):
    return leaking_columns({n: v.reshape(80, -1) for n, v in columns.items()}, LABELS, PARTS, 0)


def test_a_column_that_is_the_label_in_disguise_is_named():
    finding = result(outcome=LABELS * 10.0 + RNG.normal(0, 1, 80), age=RNG.normal(size=80))
    assert finding.kind == "spurious-correlation"
    assert finding.items == ("outcome",)
    assert 'The column "outcome" alone predicts the label of 100 % of the rows.' in finding.sentence
    assert "--set column.outcome=left-out" in finding.sentence


def test_honest_columns_are_not():
    assert result(age=LABELS + RNG.normal(0, 1, 80), dose=RNG.normal(size=80)) is None


def test_a_large_class_alone_tells_nothing():
    labels = (np.arange(80) < 2).astype(int)
    columns = {"age": RNG.normal(size=(80, 1))}
    assert leaking_columns(columns, labels, PARTS, 0) is None


def test_few_rows_tell_nothing():
    folds = [np.array([0, 1]), np.array([2, 3])]
    assert leaking_columns({"x": np.arange(4.0)[:, None]}, np.array([0, 0, 1, 1]), folds, 0) is None


def test_a_tree_has_two_leaves_a_class():
    """A column whose classes alternate in four bands tells them, one of five bands does not."""
    folds = [np.arange(400)[part::4] for part in range(4)]
    for bands, is_told in ((4, True), (5, False)):
        labels = np.arange(400) * bands // 400 % 2
        columns = {"time": np.arange(400.0)[:, None]}
        assert (leaking_columns(columns, labels, folds, 0) is not None) == is_told


def test_two_rows_are_enough_for_a_leaf():
    """Eight classes of three rows, one of which is held out at a time."""
    labels, folds = np.arange(24) % 8, np.split(np.arange(24), 3)
    assert leaking_columns({"code": labels[:, None] * 1.0}, labels, folds, 0).items == ("code",)
