"""What is cached of the frozen blocks: how deep, how many augmentations, in which format."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans import FACTS, NAMES, a_choice, network, network_facts, plan_for, refusal, with_block
from warmstart.planning.check import check_plan
from warmstart.planning.fine_tuning import (
    FULL_BYTES,
    MOST_AUGMENTATIONS,
    PATIENCE_S,
    cache_bytes,
    choose_augmentations,
    frozen_prefix,
    plan_cache,
)
from warmstart.planning.rules import REFERENCE_MACS, TRAINED
from warmstart.planning.settings import apply_settings

FACTS_OF_BASE = network_facts()
NUMBERS = 4 * 8 * 8  # outputs of a block of the small network


def with_cache(plan, network=FACTS_OF_BASE, facts=FACTS):
    return plan_cache(plan, network, facts)


def bare(plan):
    """The plan as it is built, before it was chosen what is cached."""
    mine = (
        plan.training.augmentations if plan.training.augmentations.source == "user" else a_choice(4)
    )
    return replace(
        plan, training=replace(plan.training, split_at=None, cache_dtype=None, augmentations=mine)
    )


def cached(plan):
    training = plan.training
    return training.split_at.value, training.augmentations.value, training.cache_dtype.value


# ---- how deep ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "split_at"),
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
def test_what_is_frozen_from_the_input_on_is_cached(strategy, split_at):
    plan = with_cache(bare(plan_for(strategy)))
    assert plan.training.split_at.value == split_at == frozen_prefix(plan)
    assert (plan.training.augmentations.value > 0) == (split_at > 0)
    check_plan(plan, network())


def test_frozen_blocks_above_a_tuned_one_are_run_at_each_step():
    plan = apply_settings(plan_for("full"), ["block.1.action=frozen", "block.3.action=frozen"])
    assert frozen_prefix(plan) == 1
    assert with_cache(bare(plan)).training.split_at.value == 1


def test_a_plan_that_trains_nothing_caches_nothing():
    head = plan_for("head")
    assert with_cache(head) is head
    assert head.training.split_at is None


def test_the_split_follows_blocks_that_are_set_and_the_users_own_split_stays():
    plan = plan_for("last:2")
    deeper = apply_settings(plan, ["block.1.action=tuned"])
    assert with_cache(deeper).training.split_at.value == 0
    assert with_cache(deeper).training.split_at.because == "no frozen layers at the input"
    less = apply_settings(plan, ["block.3.action=frozen"])
    assert with_cache(less).training.split_at.value == 3
    mine = with_cache(apply_settings(plan, ["block.3.action=frozen", "training.split_at=1"]))
    assert (mine.training.split_at.value, mine.training.split_at.source) == (1, "user")
    check_plan(mine, network())


def test_outputs_that_would_not_fit_are_not_cached():
    least = FACTS.n * 5 * NUMBERS * 2  # in half precision
    plan = bare(plan_for("last:1"))
    assert with_cache(plan, network_facts(max_cache_bytes=least)).training.split_at.value == 3
    live = with_cache(plan, network_facts(max_cache_bytes=least - 1)).training
    assert (live.split_at.value, live.augmentations.value, live.cache_dtype.value) == (
        0,
        0,
        "float32",
    )
    assert live.split_at.because == "the outputs of the frozen layers would take 0.0 GB of disk"
    planned = with_cache(plan, network_facts(max_cache_bytes=0))
    # A plan is followed as it is, also where the disk has more space.
    assert with_cache(planned).training.split_at.value == 0


@given(
    n=st.integers(1, 10**6),
    split_at=st.integers(1, 4),
    n_augmentations=st.integers(0, MOST_AUGMENTATIONS),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_the_cache_is_as_large_as_its_numbers(n, split_at, n_augmentations, dtype):
    shapes = [(3, 5, 7), (9,), (2, 2), (11, 13)]
    blocks = [replace(p, shape_out=s) for p, s in zip(network().blocks, shapes, strict=True)]
    record = replace(network(), blocks=tuple(blocks))
    numbers = math.prod(shapes[split_at - 1]) * n * (n_augmentations + 1)
    size = {"float32": 4, "float16": 2}[dtype]
    assert cache_bytes(record, split_at, n, n_augmentations, dtype) == numbers * size


# ---- how many augmentations ----------------------------------------------------------------


@given(
    samples=st.integers(1, 20_000),
    n=st.integers(0, 20_000),
    budget=st.sampled_from(["fast", "balanced", "thorough"]),
)
def test_there_are_no_more_augmentations_than_epochs(samples, n, budget):
    found = choose_augmentations(samples, n, budget)
    assert 1 <= found.value <= (8 if budget == "thorough" else 4)
    assert found.value <= max(math.ceil(samples / max(n, 1)), 1)
    is_short = found.value < (8 if budget == "thorough" else 4)
    assert found.because == ("one for each epoch" if is_short else f"--budget {budget}")


def test_augmentations_are_new_every_epoch_where_the_whole_network_is_run():
    plan = with_cache(bare(plan_for("full")))
    assert cached(plan) == (0, 0, "float32")
    assert plan.training.augmentations.because.startswith("new ones every epoch")
    mine = with_cache(apply_settings(plan_for("full"), ["training.augmentations=2"]))
    assert cached(mine) == (0, 2, "float32")
    check_plan(mine, network())


def test_augmentations_that_are_new_every_epoch_leave_nothing_to_cache():
    plan = with_cache(bare(apply_settings(plan_for("last:1"), ["training.augmentations=0"])))
    assert cached(plan) == (0, 0, "float32")
    assert (plan.training.split_at.source, plan.training.split_at.rule) == ("rule", 3)
    check_plan(plan, network())


def test_fewer_epochs_need_fewer_augmentations_unless_the_user_set_them():
    few = ["training.epochs=2"]
    assert cached(with_cache(apply_settings(plan_for("last:1"), few)))[1] == 2
    mine = apply_settings(plan_for("last:1"), [*few, "training.augmentations=8"])
    assert cached(with_cache(mine))[1] == 8


def heavy(macs):
    """Facts of a network whose blocks cost so many multiply-adds each."""
    blocks = tuple(replace(block, macs=macs) for block in network().blocks)
    return replace(FACTS_OF_BASE, record=replace(network(), blocks=blocks))


def offloaded(plan):
    return replace(plan, training=replace(plan.training, offload=a_choice("float32")))


def test_an_offloaded_network_caches_as_many_augmentations_as_fit_in_half_an_hour():
    def minutes(count):  # multiply-adds a block for so many augmentations in half an hour
        return heavy(round(PATIENCE_S / count * REFERENCE_MACS * TRAINED / (3 * FACTS.n)))

    plan = offloaded(bare(plan_for("last:1")))
    counts = (9, 2.5, 1.5, 0.1)
    found = [with_cache(plan, minutes(count)).training.augmentations for count in counts]
    assert [choice.value for choice in found] == [4, 2, 1, 1]
    assert (found[2].source, found[2].rule) == ("rule", 4)
    assert found[2].because == "each takes about 20 minutes of reading the network from its file"
    assert with_cache(bare(plan_for("last:1")), minutes(0.1)).training.augmentations.value == 4
    mine = offloaded(apply_settings(plan_for("last:1"), ["training.augmentations=3"]))
    assert with_cache(mine, minutes(0.1)).training.augmentations.value == 3
    once = with_cache(plan, minutes(1.5))
    assert with_cache(once, minutes(1.5)) == once


def test_an_offloaded_network_caches_where_its_few_augmentations_fit():
    """Run again at each step, it would be read from its file at each step."""
    facts = replace(heavy(10**12), max_cache_bytes=2 * FACTS.n * NUMBERS * 2)
    assert with_cache(offloaded(bare(plan_for("last:1"))), facts).training.split_at.value == 3


# ---- in which format -----------------------------------------------------------------------


def test_much_is_cached_in_half_precision():
    """Up to one GB in full precision."""
    side = FULL_BYTES // (4 * FACTS.n * 5)
    for width, dtype in ((side, "float32"), (side + 1, "float16")):
        blocks = [replace(block, shape_out=(width,)) for block in network().blocks]
        facts = network_facts(max_cache_bytes=10**12)
        facts = replace(facts, record=replace(facts.record, blocks=tuple(blocks)))
        assert with_cache(bare(plan_for("last:1")), facts).training.cache_dtype.value == dtype
    mine = apply_settings(plan_for("last:1"), ["training.cache_dtype=float16"])
    assert cached(with_cache(mine)) == (3, 4, "float16")


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
def test_what_was_chosen_stays_so(strategy, given_settings):
    ours = [s for s in given_settings if strategy in ("full", "scratch") or "block" not in s]
    once = with_cache(apply_settings(plan_for(strategy), ours))
    assert with_cache(once) == once
    check_plan(once, network())


# ---- what is refused -----------------------------------------------------------------------

BAD = {
    "beyond what is frozen": (
        ("last:2", {"split_at": 3}),
        "the plan has training.split_at 3, and only the first 2 blocks are frozen without a gap, "
        "so that only their outputs can be cached; --set training.split_at=2.",
    ),
    "where nothing is frozen": (
        ("full", {"split_at": 1, "augmentations": 4}),
        "only the first 0 blocks are",
    ),
    "new augmentations of cached outputs": (
        ("last:2", {"split_at": 2, "augmentations": 0}),
        "the plan has training.split_at 2 and training.augmentations 0: augmentations that are "
        "new every epoch cannot be cached; --set training.split_at=0, or training.augmentations=4.",
    ),
    "no split": (
        ("last:2", {"split_at": None}),
        "the plan trains blocks without training.split_at; make a",
    ),
    "a split below 0": (
        ("last:2", {"split_at": -1}),
        "training.split_at must be a whole number, 0 or more, not -1.",
    ),
    "too many augmentations": (
        ("last:2", {"augmentations": 65}),
        "training.augmentations must be a whole number from 0 to 64, not 65.",
    ),
    "another dtype": (
        ("last:2", {"cache_dtype": "int8"}),
        "must be float32 or float16, not 'int8'.",
    ),
    "a colour jitter of 1": (
        ("last:2", {"color_jitter": 1.0}),
        "training.color_jitter must be a number from 0,",
    ),
    "a moving average of 1": (
        ("full", {"ema_decay": 1.0}),
        "training.ema_decay must be a number from 0,",
    ),
    "a negative L2-SP": (
        ("full", {"l2_sp": -1.0}),
        "training.l2_sp must be a number, 0 or more, not -1.0.",
    ),
    "a micro-batch of 0": (("full", {"micro_batch": 0}), "micro_batch must be a whole number, 1"),
    "checkpointing in words": (
        ("full", {"gradient_checkpointing": "yes"}),
        "must be true or false, not 'yes'.",
    ),
    "another device": (("full", {"device": "tpu"}), "must be cpu or cuda or mps, not 'tpu'."),
    "another precision": (("full", {"precision": "tf32"}), "must be float32 or bfloat16"),
    "many workers": (
        ("full", {"workers": 65}),
        "workers must be a whole number from 0 to 64, not 65.",
    ),
    "compiled perhaps": (
        ("full", {"compile": 1}),
        "training.compile must be true or false, not 1.",
    ),
}


@pytest.mark.parametrize(("made", "says"), BAD.values(), ids=BAD.keys())
def test_a_plan_that_cannot_be_cached_so_is_named_with_its_cure(made, says):
    strategy, values = made
    plan = plan_for(strategy)
    chosen = {name: None if value is None else a_choice(value) for name, value in values.items()}
    plan = replace(plan, training=replace(plan.training, **chosen))
    found = refusal(check_plan, plan, network())
    assert found is not None
    assert found.startswith("the plan")
    assert says in found


def test_a_block_that_moves_ends_what_is_frozen():
    plan = plan_for("head+add")
    assert frozen_prefix(plan) == len(NAMES)
    assert frozen_prefix(with_block(plan, 0, action=a_choice("low-rank"))) == 0
    assert frozen_prefix(plan_for("head")) == len(NAMES)
