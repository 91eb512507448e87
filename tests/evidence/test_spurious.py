from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.evidence.spurious import informedness, metadata_leaks

N = 60
LABELS = np.arange(N) % 2
CLASSES = ["cat", "dog"]


def files(**given):
    rng = np.random.default_rng(0)
    width = rng.integers(300, 800, N)
    height = rng.integers(300, 800, N)
    made = {
        "width": width,
        "height": height,
        "n_bytes": (width * height * rng.uniform(0.2, 0.6, N)).astype(np.int64),
        "is_colour": np.ones(N, bool),
        "format": np.full(N, "JPEG"),
    }
    return SimpleNamespace(**(made | given))


def find(**given):
    return metadata_leaks(files(**given), LABELS, CLASSES, np.random.default_rng(0))


def test_files_alike_give_nothing_away():
    assert find() == ()
    assert find(width=np.full(N, 192), height=np.full(N, 192)) == ()


def test_a_size_for_each_class_is_found_with_its_numbers():
    (result,) = find(width=np.where(LABELS, 1024, 640), height=np.where(LABELS, 768, 480))
    assert result.kind == "metadata-leakage"
    assert result.items == (
        "cat: 100 % are 640 x 480 px, 0 % elsewhere",
        "dog: 100 % are 1024 x 768 px, 0 % elsewhere",
    )
    assert result.sentence.startswith("Metadata leakage: the size of an image predicts its class")


def test_amounts_that_differ_are_found_although_no_two_are_equal():
    wide = np.arange(N) * 2 + np.where(LABELS, 900, 300)
    (result,) = find(width=wide, height=np.arange(N) * 3 + 350)
    assert result.items[0].startswith("cat: usually ")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"is_colour": LABELS == 0}, "the colour"),
        ({"format": np.where(LABELS, "PNG", "JPEG")}, "the file format"),
        ({"n_bytes": np.where(LABELS, 10**6, 10**4)}, "the file size"),
    ],
)
def test_other_figures_have_findings_of_their_own(given, name):
    (result,) = find(**given)
    assert result.sentence.startswith(f"Metadata leakage: {name} of an image")


def test_one_class_of_many_may_be_the_only_one_told():
    labels = np.arange(N) % 6
    width = np.where(labels == 2, 1111, 640)
    (result,) = metadata_leaks(
        files(width=width, height=np.full(N, 480)), labels, "abcdef", np.random.default_rng(0)
    )
    assert [item[0] for item in result.items] == ["c"]


def test_half_of_a_class_is_no_strong_cue():
    assert find(width=np.where((LABELS == 1) & (np.arange(N) % 4 == 1), 1111, 640)) == ()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=2, max_size=40))
@settings(max_examples=50)
def test_informedness_is_bounded_and_zero_for_a_constant_figure(pairs):
    codes, labels = (np.array(column) for column in zip(*pairs, strict=True))
    gain = informedness(codes, labels, 3)
    assert np.all(np.abs(gain) <= 1)
    assert informedness(labels, labels, 3).min() >= 0
    assert np.abs(informedness(np.zeros_like(codes), labels, 3)).max() <= 1
