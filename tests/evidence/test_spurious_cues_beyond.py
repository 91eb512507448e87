"""Files that give one of several labels away, or a number."""

import numpy as np
import pytest

from warmstart.data.thumbnails import FileFigures
from warmstart.evidence.spurious import (
    border_finding_multilabel,
    explained_variance,
    leaking_columns_multilabel,
    leaking_columns_regression,
    metadata_leaks_multilabel,
    metadata_leaks_regression,
)

N = 80


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def files(rng, **given):
    """Files of one size, format and colour, but for what is given."""
    alike = {
        "width": np.full(N, 300),
        "height": np.full(N, 200),
        "n_bytes": rng.integers(20_000, 40_000, size=N),
        "is_colour": np.ones(N, dtype=bool),
        "format": np.full(N, "JPEG"),
    }
    return FileFigures(**(alike | given))


def test_a_size_that_goes_with_a_label_is_named(rng):
    has = rng.random((N, 2)) < 0.5
    result = metadata_leaks_multilabel(
        files(rng, width=np.where(has[:, 1], 640, 300)), has * 1.0, "ab", rng
    )
    assert [one.kind for one in result] == [
        "metadata-leakage",
        "metadata-leakage",
    ]  # and fewer bytes a pixel
    assert result[0].items == ("b: 100 % are 640 x 200 px, 0 % elsewhere",)
    assert "predicts a label" in result[0].sentence
    assert not metadata_leaks_multilabel(files(rng), has * 1.0, "ab", rng)


def test_a_size_that_goes_with_a_number_is_named(rng):
    values = rng.normal(size=N)
    wide = (300 + 60 * values + rng.normal(scale=10, size=N)).astype(int)
    result = metadata_leaks_regression(files(rng, width=wide, n_bytes=100 * wide), values, rng)
    assert len(result) == 1
    assert "of the variance" in result[0].sentence
    assert "the larger half" in result[0].items[0]
    assert not metadata_leaks_regression(files(rng), values, rng)
    assert not metadata_leaks_regression(files(rng), values, rng, "audio")


def test_a_file_alone_with_its_figure_is_told_nothing():
    assert explained_variance(np.arange(4), np.array([1.0, 2.0, 3.0, 4.0])) == 0.0


def test_an_edge_that_goes_with_a_label_is_named(rng):
    border = rng.integers(0, 255, size=(N, 2, 4, 16, 4)).astype(np.uint8)
    has = rng.random((N, 2)) < 0.5
    assert border_finding_multilabel(border, has * 1.0, ["cat", "dog"]) is None
    border[has[:, 0], :, 2] = 250
    result = border_finding_multilabel(border, has * 1.0, ["cat", "dog"])
    assert result.items == ("cat: bottom",)
    assert "predicts its label" in result.sentence


def test_a_column_that_tells_is_named(rng):
    has = rng.random((N, 2)) < 0.5
    parts = np.split(np.arange(N), 4)
    columns = {"noise": rng.normal(size=(N, 1)), "same": has[:, 1:].astype(float)}
    result = leaking_columns_multilabel(columns, has * 1.0, ["cat", "dog"], parts, 0)
    assert result.items == ("same",)
    assert 'whether "dog" applies' in result.sentence
    assert (
        leaking_columns_multilabel({"noise": columns["noise"]}, has * 1.0, ["a", "b"], parts, 0)
        is None
    )


def test_a_column_that_is_the_number_is_named(rng):
    values = rng.uniform(size=N)
    parts = np.split(np.arange(N), 4)
    columns = {"noise": rng.normal(size=(N, 1)), "cm": 100 * values[:, None]}
    result = leaking_columns_regression(columns, values, parts, 0)
    assert result.items == ("cm",)
    assert "--set column.cm=left-out" in result.sentence
    assert leaking_columns_regression({"noise": columns["noise"]}, values, parts, 0) is None
    assert leaking_columns_regression(columns, values[:10], parts, 0) is None
