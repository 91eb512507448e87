"""Which examples several runs held out: by bytes and label, never by name."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from warmstart.evaluation.compare import HeldOutAnswers, RunAnswer, common
from warmstart.records.data import DataRecord, Example, Finding


def run(examples, *, near_duplicates=(), leaks=(), answer=lambda id, target: target):
    """A run over (id, content, label, split[, group]) that held out all of them."""
    rows = [(*row, None)[:5] for row in examples]
    problems = (Finding(kind="leakage", sentence="so", items=tuple(leaks)),) if leaks else ()
    record = DataRecord(
        name="d",
        kind="image",
        task="classify",
        layout="folders",
        classes=tuple(sorted({row[2] for row in rows})),
        examples=tuple(
            Example(id=i, sha256=c, label=k, split=s, group=g) for i, c, k, s, g in rows
        ),
        problems=problems,
        near_duplicates=tuple(near_duplicates),
    )
    said = tuple(RunAnswer(i, s == "test", k, answer(i, k)) for i, _, k, s, _ in rows)
    return HeldOutAnswers(record, said)


def rows(prefix, n, split="train", first=0):
    """n examples of two classes whose content is their number."""
    return [(f"{prefix}{i}.jpg", f"c{i}", "ab"[i % 2], split) for i in range(first, first + n)]


def test_the_test_part_is_taken_where_it_is_the_same_under_any_name():
    one = run([*rows("x", 6), *rows("x", 4, "test", 10)])
    other = run([*rows("y", 5), *rows("z", 4, "test", 10)])
    found = common([one, other])
    assert (found.rows, found.hits.shape) == ("test", (2, 4))
    assert (found.hits == 1).all()
    assert found.links == ()


def test_other_test_parts_make_it_all_that_both_held_out():
    one = run([*rows("x", 6), *rows("x", 4, "test", 10)])
    other = run([*rows("y", 6), *rows("y", 3, "test", 10)])
    found = common([one, other])
    assert (found.rows, found.hits.shape) == ("held-out", (2, 9))
    assert found.is_test.sum(axis=1).tolist() == [3, 3]


def test_a_test_part_inside_the_other_is_a_test_part_where_nothing_else_is_shared():
    one = run([*rows("x", 6), *rows("x", 4, "test", 10)])
    other = run([*rows("y", 6, first=20), *rows("y", 3, "test", 10)])
    found = common([one, other])
    assert (found.rows, found.hits.shape) == ("test", (2, 3))


def test_what_one_tests_and_another_holds_out_in_folds_is_held_out_by_both():
    found = common([run(rows("x", 6, "test")), run(rows("y", 6))])
    assert (found.rows, found.hits.shape) == ("held-out", (2, 6))
    assert found.is_test.tolist() == [[True] * 6, [False] * 6]


def test_the_same_names_with_other_bytes_are_other_images():
    other = [(i, c + "!", k, s) for i, c, k, s in rows("x", 6)]
    found = common([run(rows("x", 6)), run(other)])
    assert found.hits.shape == (2, 0)
    assert (found.leaked, found.relabelled) == (0, 0)


def test_another_label_leaves_an_image_out_and_is_counted():
    other = [*rows("x", 5), ("x5.jpg", "c5", "a", "train")]
    found = common([run(rows("x", 6)), run(other)])
    assert (found.hits.shape[1], found.relabelled) == (5, 1)


def test_what_a_run_had_seen_before_is_left_out_for_all():
    data = [*rows("x", 6), *rows("x", 4, "test", 10)]
    found = common([run(data), run(data, leaks=["x11.jpg", "x12.jpg"])])
    assert (found.rows, found.hits.shape[1], found.leaked) == ("test", 2, 2)
    gone = common([run(data), run(data, leaks=[f"x{i}.jpg" for i in range(10, 14)])])
    assert (gone.rows, gone.hits.shape[1]) == ("held-out", 6)


def test_several_copies_of_one_content_keep_their_number_and_belong_together():
    data = [
        ("a.jpg", "c", "a", "train"),
        ("b.jpg", "c", "a", "train"),
        ("z.jpg", "d", "b", "train"),
    ]
    other = [
        ("k.jpg", "c", "a", "train"),
        ("z.jpg", "d", "b", "train"),
        ("l.jpg", "c", "a", "train"),
    ]
    found = common([run(data), run(other)])
    assert found.hits.shape == (2, 3)
    assert len(found.links) == 1


def test_near_copies_and_groups_of_any_run_are_links():
    data = rows("x", 6)
    grouped = [(*row, "g" if row[0] in ("x4.jpg", "x5.jpg") else None) for row in data]
    found = common(
        [run(data, near_duplicates=[("x0.jpg", "x1.jpg"), ("x2.jpg", "far.jpg")]), run(grouped)]
    )
    assert set(found.links) == {(0, 1), (4, 5)}


@given(st.lists(st.booleans(), min_size=2, max_size=25), st.randoms(use_true_random=False))
def test_hits_are_those_of_each_image_whatever_the_order(right, random):
    data = rows("x", len(right))
    wrong = {row[0] for row, good in zip(data, right, strict=True) if not good}
    one = run(data, answer=lambda id, target: "none" if id in wrong else target)
    names = random.sample(range(100), len(data))
    mixed = [(f"{name}", c, k, s) for name, (_, c, k, s) in zip(names, data, strict=True)]
    random.shuffle(mixed)
    found = common([one, run(mixed)])
    assert found.hits[0].sum() == sum(right)
    assert (found.hits[1] == 1).all()
    by_content = dict(zip(sorted(c for _, c, _, _ in data), found.hits[0], strict=True))
    for row, good in zip(data, right, strict=True):
        assert by_content[row[1]] == good


def test_three_runs_are_compared_on_what_all_share():
    found = common([run(rows("x", 9)), run(rows("x", 6)), run(rows("x", 7, first=2))])
    assert found.hits.shape == (3, 4)
    assert np.array_equal(found.hits, np.ones((3, 4)))
