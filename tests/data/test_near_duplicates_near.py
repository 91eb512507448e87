"""Near-duplicates as findings, and what --fix leaves out: no more and no less."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.data.dataset import Collection
from warmstart.data.near_duplicates import find_exclusions, with_near_duplicates
from warmstart.nouns import Wording
from warmstart.records.data import DataRecord, Example
from warmstart.run.cleaning import find_duplicates

WORDING = Wording(source="photos/", before="photos/", remove="the folder")


def example(id, label="a", split="train", sha256=None, group=None):
    sha256 = sha256 or f"hash of {id}"
    return Example(id=id, label=label, split=split, sha256=sha256, group=group)


def collection(*examples, problems=()):
    record = DataRecord(
        name="photos",
        kind="image",
        task="classify",
        layout="class folders",
        classes=tuple(sorted({e.label for e in examples if e.split == "train"})),
        examples=tuple(examples),
        problems=problems,
    )
    return Collection(record=record, load=lambda _: b"", title="", wording=WORDING)


def result(pairs, *examples):
    """Findings by kind, each with its items."""
    problems = with_near_duplicates(collection(*examples), pairs).record.problems
    kinds = [problem.kind for problem in problems]
    assert len(kinds) == len({(p.kind, p.items) for p in problems})
    return [(problem.kind, problem.items) for problem in problems]


def left_out(pairs, *examples):
    """What --fix leaves out, after exact copies were settled."""
    whole = collection(*examples, problems=find_duplicates(examples))
    return find_exclusions(with_near_duplicates(whole, pairs).record)


# ---- findings ------------------------------------------------------------------------------


def test_further_near_duplicates_in_training_are_duplicates():
    a, b, c, d = (example(name) for name in "abcd")
    assert result([("b", "a")], a, b, c) == [("near-duplicate", ("b",))]
    assert result([("a", "b"), ("c", "b")], a, b, c, d) == [("near-duplicate", ("b", "c"))]


def test_near_duplicates_with_two_labels_are_a_conflict_and_no_duplicate():
    a, b, c = example("a"), example("b", "x"), example("c")
    assert result([("a", "b")], a, b, c) == [("conflict", ("a", "b"))]
    assert result([("a", "b"), ("a", "c")], a, b, c) == [("conflict", ("a", "b", "c"))]


def test_what_merely_shares_a_group_is_no_copy():
    """Two cells of one patient, each with its near copy: nothing is in conflict."""
    a, b = (example(name, "x", group="patient 1") for name in "ab")
    c, d = (example(name, "y", group="patient 1") for name in "cd")
    assert result([("a", "b"), ("c", "d")], a, b, c, d) == [("near-duplicate", ("b", "d"))]


def test_exact_copies_are_not_named_again():
    a, b, c = example("a", sha256="s"), example("b", sha256="s"), example("c")
    assert result([("a", "c"), ("b", "c")], a, b, c) == [("near-duplicate", ("c",))]
    t = example("t", split="test", sha256="s")
    u = example("u", split="test")
    pairs = [("a", "c"), ("c", "t"), ("c", "u")]
    assert result(pairs, a, c, t, u) == [("near-duplicate", ("c",)), ("leakage", ("u",))]


@pytest.mark.parametrize(("later", "word"), [("test", "test image"), ("holdout", "hold-out image")])
def test_near_duplicates_across_the_split_are_leaks_named_by_the_later_split(later, word):
    a, b = example("a"), example("b", "x", later)
    whole = with_near_duplicates(collection(a, b), [("a", "b")])
    (finding,) = whole.record.problems
    assert (finding.kind, finding.items) == ("leakage", ("b",))
    assert finding.sentence.startswith(f"1 {word} is a near-duplicate of a training image")
    assert "--fix" in finding.sentence


def test_the_hold_out_leaks_into_the_test_too():
    assert result(
        [("h", "t")], example("a"), example("h", split="holdout"), example("t", split="test")
    ) == [("leakage", ("t",))]


def test_copies_inside_a_later_split_are_no_finding():
    s, t = example("s", split="test"), example("t", "x", "test")
    assert result([("s", "t")], example("a"), s, t) == []


def test_the_labels_of_the_test_change_nothing():
    a, b = example("a"), example("b")
    pairs = [("a", "b"), ("a", "t"), ("b", "t")]
    messages = [result(pairs, a, b, example("t", label, "test")) for label in ("a", "x")]
    assert messages[0] == messages[1]


def test_pairs_are_noted_sorted_beside_earlier_problems():
    earlier = find_duplicates([example("a", sha256="s"), example("b", sha256="s")])
    whole = collection(*map(example, "abcd"), problems=earlier)
    noted = with_near_duplicates(whole, [("d", "c"), ("b", "a")]).record
    assert noted.near_duplicates == (("a", "b"), ("c", "d"))
    assert noted.problems[: len(earlier)] == earlier
    assert with_near_duplicates(whole, []).record == whole.record


# ---- what is left out ----------------------------------------------------------------------


def test_training_copies_of_test_images_go_near_and_exact():
    a, b, c = example("a"), example("b", sha256="s"), example("c")
    t, u = example("t", split="test"), example("u", split="test", sha256="s")
    reasons = left_out([("a", "t")], a, b, c, t, u)
    assert reasons == {"a": "near-duplicate of t in the test set", "b": "copy of u in the test set"}


def test_the_hold_out_goes_before_the_test_and_training_before_the_hold_out():
    a, h = example("a"), example("h", split="holdout")
    t = example("t", split="test")
    assert left_out([("a", "h"), ("h", "t")], a, h, t).keys() == {"a", "h"}


def test_conflicts_go_whole():
    a, b = example("a", sha256="s"), example("b", "x", sha256="s")
    c, d, e = example("c"), example("d", "x"), example("e")
    assert left_out([("c", "d")], a, b, c, d, e).keys() == {"a", "b", "c", "d"}


def test_exact_copies_beyond_the_first_go_and_near_ones_stay():
    a, b, c = (example(name, sha256="s") for name in "abc")
    d, e = example("d"), example("e")
    assert left_out([("d", "e")], a, b, c, d, e) == {
        "b": "exact copy of a",
        "c": "exact copy of a",
    }


@st.composite
def data_sets(draw):
    """Examples of all splits, some with equal bytes, and some pairs of near-duplicates."""
    n = draw(st.integers(2, 12))
    examples = [
        example(
            f"{i:02}",
            draw(st.sampled_from("xy")),
            draw(st.sampled_from(["train", "train", "holdout", "test"])),
            draw(st.sampled_from(["s1", "s2", f"own {i}", f"own {i}"])),
        )
        for i in range(n)
    ]
    ids = [e.id for e in examples]
    pairs = draw(st.lists(st.tuples(st.sampled_from(ids), st.sampled_from(ids)), max_size=6))
    return examples, [pair for pair in pairs if pair[0] != pair[1]]


@given(data_sets())
def test_exactly_what_is_promised_is_left_out(case):
    """By the slow definition: look at every pair of every example."""
    examples, pairs = case
    order = {"train": 0, "holdout": 1, "test": 2}
    near = {frozenset(pair) for pair in pairs}
    conflicts = {
        i
        for problem in with_near_duplicates(
            collection(*examples, problems=find_duplicates(examples)), pairs
        ).record.problems
        if problem.kind == "conflict"
        for i in problem.items
    }
    expected = set()
    for place, one in enumerate(examples):
        for number, other in enumerate(examples):
            is_later = order[other.split] > order[one.split]
            is_copy = other.sha256 == one.sha256 or frozenset((one.id, other.id)) in near
            is_further = (
                one.split == other.split == "train"
                and one.sha256 == other.sha256
                and number < place
            )
            if (is_later and is_copy) or is_further:
                expected.add(one.id)
    result = left_out(pairs, *examples)
    assert result.keys() == expected | conflicts
    assert all(result.values())
    assert not any(e.split == "test" and e.id in result for e in examples)


@given(data_sets(), st.randoms(use_true_random=False))
def test_test_labels_change_neither_findings_nor_what_goes(case, rng: random.Random):
    examples, pairs = case
    other = [
        example(e.id, rng.choice("xy"), e.split, e.sha256) if e.split == "test" else e
        for e in examples
    ]
    one, two = (with_near_duplicates(collection(*es), pairs).record for es in (examples, other))
    assert one.problems == two.problems
    assert left_out(pairs, *examples) == left_out(pairs, *other)


def test_pictures_of_one_scene_are_not_mistaken_for_copies():
    """A fixed camera: everything is alike, and the labels are about something else."""
    rows = [example(str(i), "ab"[i % 2]) for i in range(20)]
    pairs = [(str(i), str(i + 1)) for i in range(19)]
    record = with_near_duplicates(collection(*rows), pairs).record
    assert record.near_duplicates == ()
    (note,) = record.problems
    assert (note.kind, note.items) == ("near-duplicate", ())
    assert "fixed scene" in note.sentence
    stored = with_near_duplicates(
        collection(*[example(str(i), "ab"[i // 10]) for i in range(20)]), pairs
    )
    assert len(stored.record.near_duplicates) == 19
