"""What the bytes tell, and that test labels change none of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.data.dataset import Collection
from warmstart.errors import DataError
from warmstart.nouns import Wording
from warmstart.records.data import DataRecord, Example
from warmstart.run.cleaning import drop_unreadable

WORDING = Wording(source="clothing/", before="clothing/", remove="the folder")


def collection(rows: list[tuple[str, ...]]) -> Collection:
    """Rows of (label, split, sha256[, group]); ids are their numbers."""
    examples = tuple(
        Example(id=str(i), label=r[0], split=r[1], sha256=r[2], group=r[3] if r[3:] else None)  # type: ignore[arg-type]
        for i, r in enumerate(rows)
    )
    record = DataRecord(
        name="clothing", kind="image", task="classify", layout="", classes=(), examples=examples
    )
    return Collection(record=record, load=lambda _: b"", title="", wording=WORDING)


CLEAN = [(label, "train", f"{label}{i}") for label in "ab" for i in range(6)]


def findings(rows, reasons=None) -> list[tuple[str, tuple[str, ...]]]:
    problems = drop_unreadable(collection(rows), reasons or {}).record.problems
    return [(result.kind, result.items) for result in problems]


def test_clean_data_has_no_findings():
    settled = drop_unreadable(collection(CLEAN), {})
    assert settled.record.problems == ()
    assert settled.record.classes == ("a", "b")


def test_unreadable_images_leave_and_are_listed():
    settled = drop_unreadable(collection(CLEAN), {"3": "3 is cut off"})
    assert "3" not in {e.id for e in settled.record.examples}
    (result,) = settled.record.problems
    assert (result.kind, result.items) == ("unreadable", ("3: is cut off",))
    assert result.sentence == "1 image could not be read and was left out."


def test_copies_within_a_class_and_across_classes():
    rows = [*CLEAN, ("a", "train", "a0"), ("a", "train", "a0"), ("b", "train", "a1")]
    assert findings(rows) == [("near-duplicate", ("12", "13")), ("conflict", ("1", "14"))]


def test_leaks_into_test_and_holdout_are_reported_and_stay():
    rows = [
        *CLEAN,
        ("a", "holdout", "h"),
        ("b", "holdout", "b0"),
        ("a", "test", "h"),
        ("b", "test", "a0"),
        ("a", "test", "new"),
    ]
    assert findings(rows) == [("leakage", ("14", "15")), ("leakage", ("13",))]
    assert len(drop_unreadable(collection(rows), {}).record.examples) == len(rows)


def test_a_group_in_train_and_test_is_a_leak():
    rows = [*CLEAN, ("a", "train", "x", "u1"), ("a", "test", "y", "u1"), ("a", "test", "z", "u2")]
    assert findings(rows) == [("leakage", ("13",))]


def test_copies_within_the_test_set_are_no_finding():
    assert findings([*CLEAN, ("a", "test", "t"), ("b", "test", "t")]) == []


def test_tiny_classes():
    assert findings([*CLEAN, *[("c", "train", f"c{i}") for i in range(4)]]) == [
        ("small-class", ("c",))
    ]


def test_a_class_that_shrinks_below_two_is_an_error():
    rows = [*CLEAN, ("hat", "train", "x"), ("hat", "train", "y")]
    with pytest.raises(DataError, match=r"clothing/hat has 1 training image.*remove the folder"):
        drop_unreadable(collection(rows), {"12": "is cut off"})


def test_a_second_class_that_vanishes_is_an_error():
    lost = {str(i): "is cut off" for i in range(6, 12)}
    with pytest.raises(DataError, match=r'clothing/ has one class \("a"\).*second one'):
        drop_unreadable(collection(CLEAN), lost)


def test_no_training_image_left_is_an_error():
    with pytest.raises(DataError, match="holds no training image"):
        drop_unreadable(collection(CLEAN), {str(i): "is cut off" for i in range(12)})


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["a0", "b3", "t", "u"])), max_size=8),
    st.randoms(use_true_random=False),
)
def test_permuting_test_labels_changes_nothing_but_those_labels(tests, random):
    rows = [*CLEAN, *[(label, "test", sha) for label, sha in tests]]
    shuffled = [label for label, _ in tests]
    random.shuffle(shuffled)
    other = [*CLEAN, *[(k, "test", sha) for k, (_, sha) in zip(shuffled, tests, strict=True)]]
    one, two = (drop_unreadable(collection(r), {"2": "is cut off"}).record for r in (rows, other))
    assert replace(one, examples=()) == replace(two, examples=())
    assert [(e.id, e.split) for e in one.examples] == [(e.id, e.split) for e in two.examples]
