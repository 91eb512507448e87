"""What a scikit-learn user hands over."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from warmstart.errors import DataError
from warmstart.sklearn.base import as_images, class_names, merged, row_weights, seed_from

PATHS = ["a.png", "b.png"]
BLACK = np.zeros((2, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    "X",
    [
        PATHS,
        tuple(PATHS),
        np.array(PATHS),
        np.array(PATHS)[:, None],
        np.array(PATHS, dtype=object),
        pd.Series(PATHS),
        pd.DataFrame({"path": PATHS}),
    ],
)
def test_paths(X):
    assert as_images(X) == PATHS
    assert as_images([Path("a.png")]) == [Path("a.png")]


@pytest.mark.parametrize(
    "X",
    [
        BLACK,
        BLACK[..., 0],
        list(BLACK),
        [Image.fromarray(one) for one in BLACK],
        BLACK.tolist(),
    ],
)
def test_images(X):
    assert as_images(X).shape in (BLACK.shape, BLACK.shape[:3])


@pytest.mark.parametrize(
    "X",
    [
        np.eye(3),
        np.arange(3.0),
        [[1, 2], [3, 4]],
        [],
        pd.DataFrame(np.eye(3)),
        np.eye(3).tolist(),
        np.array([["a", "b"], ["c", "d"]]),
        np.array([1.0, "a"], dtype=object),
        7,
        None,
    ],
)
def test_all_else_is_a_table_for_scikit_learn_to_check(X):
    assert as_images(X) is None


def test_images_of_different_shapes():
    with pytest.raises(DataError, match="different shapes"):
        as_images([np.zeros((8, 8)), np.zeros((8, 9))])


def test_weights():
    assert [result.tolist() for result in row_weights(None, 2)] == [[1, 1], [True, True]]
    assert [result.tolist() for result in row_weights(3, 2)] == [[3, 3], [True, True]]
    assert [result.tolist() for result in row_weights([0, 2], 2)] == [[0, 2], [False, True]]


def test_a_path_that_comes_twice_is_one_row_of_both_weights():
    files = ["b", "a", "b", "c"]
    images, numbers, weights = merged(files, np.array([1, 0, 1, 1]), np.array([1.0, 1, 2, 1]))
    assert (images, numbers.tolist(), weights.tolist()) == (["b", "a", "c"], [1, 0, 1], [3, 1, 1])
    with pytest.raises(DataError, match="X names b twice, with two labels"):
        merged(files, np.array([1, 0, 0, 1]), np.ones(4))
    images, _, weights = merged(["a", Path("a"), "b"], np.array([1, 1, 0]), np.ones(3))
    assert (images, weights.tolist()) == (["a", "b"], [2, 1])


def test_classes_are_called_by_themselves_where_that_is_clear():
    assert class_names(np.array(["cat", "dog"])) == ("cat", "dog")
    assert class_names(np.array([-1, 10])) == ("-1", "10")
    assert class_names(np.array([1, "1"], dtype=object)) == ("0", "1")
    assert class_names(np.array(["", " cat"])) == ("0", "1")


def test_seeds():
    assert seed_from(None) == 0
    assert seed_from(np.int64(7)) == 7
    drawn = [seed_from(np.random.RandomState(0)) for _ in range(2)]
    assert drawn[0] == drawn[1] != 0
