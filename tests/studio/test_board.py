"""Changes of the board: what they do, and that each can be taken back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.errors import UsageError
from warmstart.tasks.classify import normalise_name
from warmstart_studio.board import (
    Board,
    BoardPicture,
    add_class,
    add_pictures,
    apply,
    confirm_labels,
    invert,
    problem_of,
    remove_class,
    rename_class,
    set_label,
)

NAMES = st.sampled_from(["cat", "dog", "bird", "fish"])
IDS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4)
STEPS = st.one_of(
    st.tuples(st.just(set_label), IDS, st.one_of(st.none(), NAMES)),
    st.tuples(st.just(confirm_labels), IDS),
    st.tuples(st.just(add_class), NAMES),
    st.tuples(st.just(rename_class), NAMES, NAMES),
    st.tuples(st.just(remove_class), NAMES),
)


def changed(board, step):
    """The change of a step, None where it is refused."""
    make, *rest = step
    try:
        return make(board, *rest)
    except UsageError:
        return None


@given(st.lists(STEPS, max_size=12))
def test_every_change_can_be_taken_back(steps):
    board, seen = Board(), []
    for step in steps:
        change = changed(board, step)
        if change is not None:
            seen.append((board, change))
            board = apply(board, change)
            assert set(board.labels.values()) <= set(board.classes)
            assert len(set(board.classes)) == len(board.classes)
    for before, change in reversed(seen):
        board = apply(board, invert(change))
        assert dict(board.labels) == dict(before.labels)
        assert board.classes == before.classes
        assert dict(board.confirmed) == dict(before.confirmed)


def test_steps_are_told_in_words():
    board = Board(("cat", "dog"), {"a": "cat", "b": "dog"})
    assert set_label(board, ["c"], "cat").what == "added 1 picture to cat"
    assert set_label(board, ["a"], "dog").what == "moved 1 picture to dog"
    assert set_label(board, ["a", "b"], None).what == "took 2 pictures off the board"
    assert rename_class(board, "dog", "hound").what == "renamed dog to hound"
    assert remove_class(board, "cat").what == "removed the class cat with 1 picture"
    assert add_pictures(board, {"c": "bird", "d": "cat"}).what == "added 2 pictures"
    assert set_label(board, ["a"], "cat").is_empty
    assert rename_class(board, "cat", " cat ").is_empty


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\x00b", "a\u202eb", "a\ud800"])
def test_names_that_cannot_be_shown_are_refused(name):
    with pytest.raises(UsageError, match=r"needs a name|cannot contain the character U"):
        normalise_name(name)


@pytest.mark.parametrize(
    "name", ["می\u200cخواهم", "👨\u200d👩\u200d👧", 'a,"b";|/=x', ".hidden", "nan"]
)
def test_names_of_all_tongues_are_taken(name):
    assert normalise_name(name) == name


def test_names_that_look_alike_are_the_same():
    assert normalise_name("cafe\u0301") == normalise_name("café") == "café"
    assert add_pictures(Board(("café",)), {"a": "cafe\u0301"}).classes is None


def test_a_renamed_class_keeps_what_was_kept_of_it():
    board = Board(("cat",), {"a": "cat"}, {"a": "cat"})
    result = apply(board, rename_class(board, "cat", "lion"))
    assert (result.labels, result.confirmed) == ({"a": "lion"}, {"a": "lion"})


def test_classes_are_not_made_twice_nor_found_where_there_are_none():
    board = Board(("cat", "dog"))
    with pytest.raises(UsageError, match="there is a class cat already"):
        add_class(board, "cat")
    with pytest.raises(UsageError, match="there is a class dog already"):
        rename_class(board, "cat", "dog")
    with pytest.raises(UsageError, match="there is no class bird; there are cat, dog"):
        remove_class(board, "bird")


def test_what_can_be_learnt_from():
    def picture(id, split="train"):
        return BoardPicture(id=id, name=id, file=id, sha256=id, width=1, height=1, split=split)

    pictures = {id: picture(id) for id in "abcd"} | {"t": picture("t", "test")}
    two = {"a": "cat", "b": "cat", "c": "dog", "d": "dog"}
    assert problem_of(Board(("cat", "dog"), two), pictures) == ""
    assert "Two classes" in problem_of(Board(("cat",), {"a": "cat", "b": "cat"}), pictures)
    one = {**two, "d": "cat"}
    assert "dog has 1 picture" in problem_of(Board(("cat", "dog"), one), pictures)
    tested = {"a": "cat", "b": "cat", "c": "dog", "t": "dog"}
    assert "dog has 1 picture" in problem_of(Board(("cat", "dog"), tested), pictures)
    assert problem_of(Board(("cat", "dog", "empty"), two), pictures) == ""
