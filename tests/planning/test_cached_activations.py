"""What is kept of the frozen layers: how deep, how many views, in which format."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans import FACTS, NAMES, network, network_facts, plan_for, refusal, said, with_block
from warmstart.planning.cached_activations import (
    FULL_BYTES,
    MOST_AUGMENTATIONS,
    PATIENCE_S,
    cache_bytes,
    choose_augmentations,
    frozen_prefix,
    plan_cache,
)
from warmstart.planning.check import check_plan
from warmstart.planning.rules import TRAINED, USUAL_MACS
from warmstart.planning.settings import apply_settings

FACTS_OF_BASE = network_facts()
NUMBERS = 4 * 8 * 8  # what a part of the small network gives


def settled(plan, network=FACTS_OF_BASE, facts=FACTS):
    return plan_cache(plan, network, facts)


def bare(plan):
    """The plan before it was settled what is stored: as it is built."""
    mine = plan.training.augmentations if plan.training.augmentations.source == "user" else said(4)
    return replace(
        plan, training=replace(plan.training, split_at=None, cache_dtype=None, augmentations=mine)
    )


def stored(plan):
    training = plan.training
    return training.split_at.value, training.augmentations.value, training.cache_dtype.value


# ---- how deep ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "cut"),
    [
        ("last:1", 3),
        ("last:2", 2),
        ("frozen:3", 3),
        ("full", 0),
        ("scratch", 0),
        ("head+add", 4),
        ("last:1+add", 3),
        ("last:2+lora", 2),
        ("full+gradual", 0),
        ("last:3+gradual", 1),
    ],
)
def test_what_is_frozen_from_the_input_on_is_stored(strategy, cut):
    plan = settled(bare(plan_for(strategy)))
    assert plan.training.split_at.value == cut == frozen_prefix(plan)
    assert (plan.training.augmentations.value > 0) == (cut > 0)
    check_plan(plan, network())


def test_frozen_parts_above_a_tuned_one_are_run_at_each_step():
    plan = apply_settings(plan_for("full"), ["block.1.action=frozen", "block.3.action=frozen"])
    assert frozen_prefix(plan) == 1
    assert settled(bare(plan)).training.split_at.value == 1


def test_a_plan_that_trains_nothing_stores_nothing():
    head = plan_for("head")
    assert settled(head) is head
    assert head.training.split_at is None


def test_the_cut_follows_parts_that_are_set_and_what_the_user_cut_stays():
    plan = plan_for("last:2")
    deeper = apply_settings(plan, ["block.1.action=tuned"])
    assert settled(deeper).training.split_at.value == 0
    assert settled(deeper).training.split_at.because == "no frozen layers at the input"
    less = apply_settings(plan, ["block.3.action=frozen"])
    assert settled(less).training.split_at.value == 3
    mine = settled(apply_settings(plan, ["block.3.action=frozen", "training.split_at=1"]))
    assert (mine.training.split_at.value, mine.training.split_at.source) == (1, "user")
    check_plan(mine, network())


def test_outputs_that_would_not_fit_are_not_stored():
    least = FACTS.n * 5 * NUMBERS * 2  # in half precision
    plan = bare(plan_for("last:1"))
    assert settled(plan, network_facts(max_cache_bytes=least)).training.split_at.value == 3
    live = settled(plan, network_facts(max_cache_bytes=least - 1)).training
    assert (live.cut.value, live.views.value, live.store.value) == (0, 0, "float32")
    assert live.cut.because == "the outputs of the frozen layers would take 0.0 GB of disk"
    planned = settled(plan, network_facts(max_cache_bytes=0))
    assert (
        settled(planned).training.split_at.value == 0
    )  # a plan is followed where there is room, too


@given(
    n=st.integers(1, 10**6),
    split_at=st.integers(1, 4),
    n_views=st.integers(0, MOST_AUGMENTATIONS),
    format=st.sampled_from(["float32", "float16"]),
)
def test_the_room_it_takes_is_that_of_its_numbers(n, cut, n_views, format):
    shapes = [(3, 5, 7), (9,), (2, 2), (11, 13)]
    blocks = [replace(p, shape_out=s) for p, s in zip(network().blocks, shapes, strict=True)]
    record = replace(network(), blocks=tuple(blocks))
    numbers = math.prod(shapes[cut - 1]) * n * (n_views + 1)
    size = {"float32": 4, "float16": 2}[format]
    assert cache_bytes(record, cut, n, n_views, format) == numbers * size


# ---- how many views ------------------------------------------------------------------------


@given(
    epochs=st.integers(1, 20_000),
    n=st.integers(0, 20_000),
    budget=st.sampled_from(["fast", "balanced", "thorough"]),
)
def test_there_are_no_more_views_than_passes(passes, n, budget):
    found = choose_augmentations(passes, n, budget)
    assert 1 <= found.value <= (8 if budget == "thorough" else 4)
    assert found.value <= max(math.ceil(passes / max(n, 1)), 1)
    is_short = found.value < (8 if budget == "thorough" else 4)
    assert found.because == ("as often as it is passed" if is_short else f"--budget {budget}")


def test_views_are_new_each_time_where_the_whole_network_is_run():
    plan = settled(bare(plan_for("full")))
    assert stored(plan) == (0, 0, "float32")
    assert plan.training.augmentations.because.startswith("ever new ones")
    mine = settled(apply_settings(plan_for("full"), ["training.augmentations=2"]))
    assert stored(mine) == (0, 2, "float32")
    check_plan(mine, network())


def test_ever_new_views_leave_nothing_to_store():
    plan = settled(bare(apply_settings(plan_for("last:1"), ["training.augmentations=0"])))
    assert stored(plan) == (0, 0, "float32")
    assert (plan.training.split_at.source, plan.training.split_at.rule) == ("rule", 3)
    check_plan(plan, network())


def test_fewer_passes_need_fewer_views_unless_the_user_set_them():
    few = ["training.epochs=2"]  # 300 images
    assert stored(settled(apply_settings(plan_for("last:1"), few)))[1] == 2
    mine = apply_settings(plan_for("last:1"), [*few, "training.augmentations=8"])
    assert stored(settled(mine))[1] == 8


def heavy(macs):
    """Facts of a network whose parts cost so many multiply-adds each."""
    blocks = tuple(replace(block, macs=macs) for block in network().blocks)
    return replace(FACTS_OF_BASE, record=replace(network(), blocks=blocks))


def streamed(plan):
    return replace(plan, training=replace(plan.training, offload=said("float32")))


def test_a_streamed_network_passes_as_many_views_as_half_an_hour_holds():
    def minutes(views):  # multiply-adds a part for so many views in half an hour
        return heavy(round(PATIENCE_S / views * USUAL_MACS * TRAINED / (3 * FACTS.n)))

    plan = streamed(bare(plan_for("last:1")))
    found = [settled(plan, minutes(views)).training.augmentations for views in (9, 2.5, 1.5, 0.1)]
    assert [view.value for view in found] == [4, 2, 1, 1]
    assert (found[2].source, found[2].rule) == ("rule", 4)
    assert found[2].because == "each takes about 20 minutes of passing the network from its file"
    assert settled(bare(plan_for("last:1")), minutes(0.1)).training.augmentations.value == 4
    mine = streamed(apply_settings(plan_for("last:1"), ["training.augmentations=3"]))
    assert settled(mine, minutes(0.1)).training.augmentations.value == 3
    once = settled(plan, minutes(1.5))
    assert settled(once, minutes(1.5)) == once


def test_a_streamed_network_stores_where_its_few_views_have_room():
    """Run anew at each step, it would be read from its file at each step."""
    facts = replace(heavy(10**12), max_cache_bytes=2 * FACTS.n * NUMBERS * 2)
    assert settled(streamed(bare(plan_for("last:1"))), facts).training.split_at.value == 3


# ---- in which format -----------------------------------------------------------------------


def test_much_is_stored_in_half_precision():
    """Up to one GB in full."""
    side = FULL_BYTES // (4 * FACTS.n * 5)
    for width, format in ((side, "float32"), (side + 1, "float16")):
        blocks = [replace(block, shape_out=(width,)) for block in network().blocks]
        facts = network_facts(max_cache_bytes=10**12)
        facts = replace(facts, record=replace(facts.record, blocks=tuple(blocks)))
        assert settled(bare(plan_for("last:1")), facts).training.cache_dtype.value == format
    mine = apply_settings(plan_for("last:1"), ["training.cache_dtype=float16"])
    assert stored(settled(mine)) == (3, 4, "float16")


@given(
    strategy=st.sampled_from(["last:1", "full", "head+add", "last:3+gradual", "scratch"]),
    given_settings=st.sets(
        st.sampled_from(
            [
                "training.augmentations=3",
                "training.epochs=1.3333",
                "block.1.lr=0.1",
                "training.cache_dtype=float16",
                "training.crop=1",
            ]
        )
    ),
)
def test_what_is_settled_stays_so(strategy, given_settings):
    ours = [s for s in given_settings if strategy in ("full", "scratch") or "block" not in s]
    once = settled(apply_settings(plan_for(strategy), ours))
    assert settled(once) == once
    check_plan(once, network())


# ---- what is refused -----------------------------------------------------------------------

BAD = {
    "beyond what is frozen": (
        ("last:2", {"cut": 3}),
        "the plan has training.split_at 3, and only the first 2 parts are frozen in one piece, so "
        "that only their outputs can be stored; --set training.split_at=2.",
    ),
    "where nothing is frozen": (("full", {"cut": 1, "views": 4}), "only the first 0 parts are"),
    "new views of stored outputs": (
        ("last:2", {"cut": 2, "views": 0}),
        "the plan has training.split_at 2 and training.augmentations 0: views that are new each "
        "time cannot be stored; --set training.split_at=0, or training.augmentations=4.",
    ),
    "no cut": (
        ("last:2", {"cut": None}),
        "the plan trains layers and lacks training.split_at; make a",
    ),
    "a cut below 0": (
        ("last:2", {"cut": -1}),
        "training.split_at -1; it is a whole number, 0 or more.",
    ),
    "too many views": (
        ("last:2", {"views": 65}),
        "training.augmentations 65; it is a whole number from 0 to 64.",
    ),
    "another format": (("last:2", {"store": "int8"}), "'int8'; it is float32 or float16."),
    "a colour of 1": (
        ("last:2", {"colour": 1.0}),
        "training.color_jitter 1.0; it is a number from 0,",
    ),
    "an average of 1": (
        ("full", {"average": 1.0}),
        "training.ema_decay 1.0; it is a number from 0,",
    ),
    "a push away": (("full", {"l2_sp": -1.0}), "training.l2_sp -1.0; it is a number, 0 or more."),
    "pieces of nothing": (("full", {"micro_batch": 0}), "micro_batch 0; it is a whole number, 1"),
    "recompute in words": (("full", {"recompute": "yes"}), "'yes'; it is true or false."),
    "another device": (("full", {"device": "tpu"}), "'tpu'; it is cpu or cuda or mps."),
    "another precision": (("full", {"precision": "tf32"}), "'tf32'; it is float32 or bfloat16"),
    "many workers": (("full", {"workers": 65}), "workers 65; it is a whole number from 0 to 64."),
    "compiled perhaps": (("full", {"compile": 1}), "training.compile 1; it is true or false."),
}


@pytest.mark.parametrize(("made", "says"), BAD.values(), ids=BAD.keys())
def test_a_plan_that_cannot_be_stored_so_is_named_with_its_cure(made, says):
    strategy, values = made
    plan = plan_for(strategy)
    chosen = {name: None if value is None else said(value) for name, value in values.items()}
    plan = replace(plan, training=replace(plan.training, **chosen))
    found = refusal(check_plan, plan, network())
    assert found is not None
    assert found.startswith("the plan ")
    assert says in found


def test_a_part_that_moves_ends_what_is_frozen():
    plan = plan_for("head+add")
    assert frozen_prefix(plan) == len(NAMES)
    assert frozen_prefix(with_block(plan, 0, action=said("low-rank"))) == 0
    assert frozen_prefix(plan_for("head")) == len(NAMES)
