"""What test images share with others, each named once."""

from hypothesis import given
from hypothesis import strategies as st

from warmstart.auditing.judge import overlap
from warmstart.data.near_duplicates import MIN_PAIRS
from warmstart.records.data import Example


def example(id, split="test", sha256=None, label="x", group=None):
    return Example(id=id, label=label, split=split, sha256=sha256 or id, group=group)


def kinds(result):
    return {finding.kind: finding.items for finding in result.findings}


def test_each_way_to_leak_is_named_and_an_image_once():
    examples = [
        example("t1", "train", "same", group="p"),
        example("t2", "holdout"),
        example("a", sha256="same", group="p"),
        example("b"),
        example("c", group="p"),
        example("d"),
    ]
    result = overlap(examples, [("b", "t2"), ("a", "t2")])
    assert [finding.items for finding in result.findings] == [("a",), ("b",), ("c",)]
    assert [finding.kind for finding in result.findings] == ["leakage"] * 3
    assert "1 of the 4 test images" in result.findings[0].sentence
    assert result.leaked == {"a", "b", "c"}


def test_what_a_model_is_known_to_have_learnt_leaks_too():
    assert overlap([example("a"), example("b")], [], {"b"}).leaked == {"b"}


def test_copies_and_conflicts_among_those_judged_on():
    examples = [
        example("a", sha256="s"),
        example("b", sha256="s"),
        example("c"),
        example("d"),
        example("e", label="y"),
        example("t", "train"),
    ]
    result = overlap(examples, [("c", "d"), ("d", "e")])
    assert kinds(result) == {"near-duplicate": ("b",), "conflict": ("d", "e")}
    assert not result.leaked
    assert result.near_duplicates == (("c", "d"), ("d", "e"))


def test_pictures_of_one_scene_are_no_copies():
    examples = [example(f"{i:02}", label="xy"[i % 2]) for i in range(MIN_PAIRS + 2)]
    pairs = [("00", example.id) for example in examples[1:]]
    result = overlap(examples, pairs)
    assert result.near_duplicates == ()
    assert "one fixed scene" in result.findings[0].sentence


@given(st.lists(st.tuples(st.sampled_from(["train", "test"]), st.integers(0, 4)), max_size=12))
def test_exactly_the_judged_images_that_training_holds_leak(rows):
    examples = [example(str(i), split, f"s{k}") for i, (split, k) in enumerate(rows)]
    held = {e.sha256 for e in examples if e.split == "train"}
    expected = {e.id for e in examples if e.split == "test" and e.sha256 in held}
    assert overlap(examples, []).leaked == expected
