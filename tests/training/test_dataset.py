"""Examples to rows: which train, which are scored, which depend on each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.errors import DataError
from warmstart.planning.build import build
from warmstart.planning.facts import NetworkFacts
from warmstart.planning.rules import probe_layers
from warmstart.planning.strategy import AUTO, PlanOptions
from warmstart.records.data import DataRecord, Example
from warmstart.records.network import BlockRecord, FeatureLayer, NetworkRecord
from warmstart.records.plan import Choice
from warmstart.training.dataset import (
    arrange,
    draw_rows,
    groups_among,
    heads,
    selection_problem,
)

PARTS = tuple(
    BlockRecord(name=str(n), parameters=1, shape_in=(4,), shape_out=(4,), macs=1, layout="NC")
    for n in range(3)
)
NETWORK = NetworkRecord(
    blocks=PARTS, head_parameters=1, partition="traced", neck_width=4, neck_is_average=True
)
FEATURE_LAYERS = (
    FeatureLayer(block=1, pool="avg"),
    FeatureLayer(block=2, pool="avg"),
    FeatureLayer(block=3, pool="neck"),
)


def example(number, label, split="train", sha=None, group=None):
    return Example(
        id=f"{split}/{number}",
        label=label,
        split=split,
        sha256=sha or f"{split}{number}",
        group=group,
    )


def record(examples):
    classes = tuple(sorted({e.label for e in examples if e.split == "train"}))
    return DataRecord(
        name="d",
        kind="image",
        task="classify",
        layout="folders",
        classes=classes,
        examples=tuple(examples),
    )


def plan_of(labelled, budget="fast", seed=0):
    engine = Choice(value="torch", because="so", source="rule")
    wishes = PlanOptions(base="lite0", strategy=AUTO, budget=budget, seed=seed)
    network = NetworkFacts(record=NETWORK)
    return build(wishes, labelled.facts(), network, tuple(probe_layers(FEATURE_LAYERS)), engine)


splits = st.sampled_from(["train", "holdout", "test"])
rows = st.lists(
    st.tuples(st.sampled_from("abc"), splits, st.integers(0, 8), st.none() | st.integers(0, 6)),
    max_size=30,
)


@given(rows=rows)
def test_rows_keep_their_examples_labels_and_blocks(rows):
    base = [example(n, "abc"[n % 3]) for n in range(9)]
    more = [
        example(100 + n, label, split, f"s{sha}", None if group is None else f"g{group}")
        for n, (label, split, sha, group) in enumerate(rows)
    ]
    everything = base + more
    labelled = arrange(record(everything))
    train = [e for e in everything if e.split == "train"]
    held = [e for e in everything if e.split == "holdout"]
    assert labelled.learn == (*train, *held)
    assert labelled.test == tuple(e for e in everything if e.split == "test")
    assert labelled.holdout == len(held)
    assert [("a", "b", "c")[n] for n in labelled.labels] == [e.label for e in labelled.learn]
    assert [("a", "b", "c")[n] for n in labelled.test_labels] == [e.label for e in labelled.test]
    numbers = labelled.groups()
    assert sorted(np.concatenate(labelled.group_rows)) == list(range(len(labelled.learn)))
    for i, one in enumerate(labelled.learn):
        for j, other in enumerate(labelled.learn):
            linked = one.sha256 == other.sha256 or (one.group and one.group == other.group)
            if linked and one.split == other.split:
                assert numbers[i] == numbers[j]
            if one.split != other.split:
                assert numbers[i] != numbers[j]


@pytest.mark.parametrize(
    ("group_rows", "holdout", "passes"),
    [
        (1, False, False),
        (2, False, False),
        (3, False, True),
        (1, True, False),
        (2, True, True),
    ],
)
def test_there_must_be_blocks_to_hold_out_and_to_choose_by(group_rows, holdout, passes):
    examples = [example(n, "ab"[n % 2], group=f"g{n % group_rows}") for n in range(12)]
    if holdout:
        examples += [example(n, "ab"[n % 2], "holdout") for n in range(4)]
    if passes:
        assert len(arrange(record(examples)).learn) == len(examples)
    else:
        with pytest.raises(DataError, match=f"{group_rows} independent set"):
            arrange(record(examples))


def test_folds_are_whole_blocks_and_hold_out_every_row_once():
    examples = [example(n, "abc"[n % 3], group=f"g{n % 20}") for n in range(60)]
    labelled = arrange(record(examples))
    problem = selection_problem(labelled, plan_of(labelled))
    assert sorted(np.concatenate(problem.folds)) == list(range(60))
    for fold in problem.folds:
        for block in labelled.group_rows:
            assert set(block) <= set(fold) or not set(block) & set(fold)
    assert len(problem.folds) == 5


@pytest.mark.parametrize("most", [500, 1000])
def test_the_evidence_validations_at_a_stratified_draw_of_whole_blocks(most):
    examples = [example(n, "ab"[n % 4 == 0], group=f"g{n // 2}") for n in range(2400)]
    examples += [example(n, "ab"[n % 2], "holdout") for n in range(300)]
    labelled = arrange(record(examples))
    drawn = draw_rows(labelled, most, seed=3)
    assert most * 0.8 <= len(drawn) <= most + 1
    assert drawn.max() < 2400  # never what was set apart
    groups = labelled.groups()
    assert {b for b in groups if b in set(groups[drawn])} == set(groups[drawn])
    assert sum(np.isin(groups[:2400], groups[drawn])) == len(drawn)
    assert labelled.labels[drawn].mean() == pytest.approx(labelled.labels[:2400].mean(), abs=0.02)
    again = draw_rows(labelled, most, seed=3)
    assert drawn.tolist() == again.tolist()
    group_rows = groups_among(drawn, labelled)
    assert sorted(np.concatenate(group_rows)) == list(range(len(drawn)))
    for group in group_rows:
        assert len(set(groups[drawn[group]])) == 1


@pytest.mark.parametrize("sizes", [(600, 600, 600), (1700, 60, 40), (1798, 1, 1)])
def test_where_blocks_are_few_some_rows_of_each_are_drawn(sizes):
    group_rows = [f"g{g}" for g, size in enumerate(sizes) for _ in range(size)]
    examples = [example(n, "ab"[n % 2], group=group) for n, group in enumerate(group_rows)]
    labelled = arrange(record(examples))
    drawn = draw_rows(labelled, 500, seed=0)
    assert 400 <= len(drawn) <= 500
    found = groups_among(drawn, labelled)
    assert len(found) >= min(3, sum(size > 1 for size in sizes) + 1)
    assert sorted(np.concatenate(found)) == list(range(len(drawn)))
    for group in found:
        assert len({group_rows[row] for row in drawn[group]}) == 1


def test_no_kernel_is_made_where_rows_are_many():
    labelled = arrange(record([example(n, "ab"[n % 2]) for n in range(2001)]))
    plan = plan_of(labelled)

    def never(layer):
        raise AssertionError("features were read before a head asked for them")

    made = heads(plan, probe_layers(FEATURE_LAYERS), never, 2001)
    assert {type(family).__name__ for family in made.values()} == {"SketchedRidge"}


def test_of_many_classes_some_are_drawn_with_all_their_rows():
    names = [f"c{n:03}" for n in range(300)]
    examples = [example(5 * c + k, names[c]) for c in range(300) for k in range(5)]
    labelled = arrange(record(examples))
    drawn = draw_rows(labelled, 400, seed=0)
    sizes = np.bincount(labelled.labels[drawn])
    assert len(drawn) <= 500
    assert set(sizes[sizes > 0]) <= {4, 5}
    assert (sizes > 0).sum() >= 80
