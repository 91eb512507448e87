"""Numbers from choices; the choices themselves are tested with the plans that hold them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans import (
    FACTS,
    LAYERS,
    PREPROCESSING,
    TEXTS,
    a_choice,
    actions,
    apply_settings,
    many,
    network,
    network_facts,
    plan_for,
)
from warmstart.errors import PlanError
from warmstart.planning import rules
from warmstart.planning.check import check_plan
from warmstart.planning.fine_tuning import (
    FULL_BYTES,
    MOST_AUGMENTATIONS,
    PATIENCE_S,
    cache_bytes,
    choose_augmentations,
    compares_fine_tuning,
    fine_tuning_seconds,
    frozen_prefix,
    lr_spread,
    plan_cache,
    samples_from_scratch,
    scratch_seconds,
)
from warmstart.planning.forecast import fit_to_time
from warmstart.planning.plan_file import overlay
from warmstart.planning.rules import REFERENCE_MACS, TRAINED
from warmstart.planning.strategy import parse
from warmstart.records.inputs import ColumnRecord, Preprocessing, Sound, TableInputs


def test_a_plan_that_lacks_its_learning_rate_is_refused():
    with pytest.raises(PlanError, match=r"without training.lr or training.layer_decay; make a new"):
        lr_spread(plan_for("head").training, parse("head"))


@pytest.mark.parametrize("value", ["0.1", (1, 2)])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(PlanError, match="where a number belongs; write a number"):
        _ = a_choice(value).number


SOUND = Sound(
    sample_rate=8000, seconds=1, window=256, hop=35, mels=128, low=20, high=4000, range_db=30
)


def test_sounds_are_shifted_and_masked_and_never_mirrored():
    prep = Preprocessing(size=(64, 64), resize=64, mean=(0.5,), std=(0.5,), sound=SOUND)
    training = plan_for("full", network=network_facts(preprocessing=prep)).training
    assert (training.flip.value, training.crop.value) == (False, 0.8)
    assert (training.time_shift.value, training.spec_augment.value) == (0.1, 0.2)
    bare = network_facts(preprocessing=replace(prep, sound=None))
    training = plan_for("full", network=bare).training
    assert (training.flip.value, training.time_shift, training.spec_augment) == (True, None, None)


def test_bands_are_measurements_whose_brightness_stays():
    for channels, jitter in ((1, 0.1), (3, 0.1), (4, 0.0), (5, 0.0)):
        bands = replace(PREPROCESSING, mean=(0.5,) * channels, std=(0.5,) * channels)
        training = plan_for("full", network=network_facts(preprocessing=bands)).training
        assert training.color_jitter.value == jitter


TABLE = TableInputs(columns=(ColumnRecord(name="age", kind="number"),))


@pytest.mark.parametrize(
    ("strategy", "n", "seen", "batch", "lr"),
    [
        ("full", 50, 1000, 32, 3e-4),
        ("scratch", 50, 2000, 32, 1e-3),
        ("full", 1920, 19_200, 64, 3e-4),
        ("scratch", 90_000, 500_000, 1024, 1e-3),
    ],
)
def test_a_network_for_tables_trains_on_rows(strategy, n, seen, batch, lr):
    facts = network_facts(preprocessing=TABLE, family="mlp")
    plan = plan_for(strategy, many(n, 3, kind="table"), facts, budget="fast")
    chosen = plan.training
    assert plan.samples_seen == pytest.approx(seen, abs=5)
    assert (chosen.batch_size.value, chosen.lr.value, chosen.folds.value) == (batch, lr, 3)
    assert (chosen.flip.value, chosen.crop.value, chosen.model_soup) == (False, 1.0, None)


@pytest.mark.parametrize(("is_random", "word"), [(True, "scratch"), (False, "full")])
def test_a_network_for_tables_is_trained_as_a_whole_or_not_at_all(is_random, word):
    facts = network_facts(preprocessing=TABLE, family="mlp", is_random=is_random)
    assert plan_for(network=facts).strategy.value == "head"
    deep = plan_for(network=replace(facts, verdict="fine-tune"))
    assert (deep.strategy.value, deep.strategy.source) == (word, "rule")


@pytest.mark.parametrize(("n_classes", "l2_sp"), [(10, 0.0), (11, 1.0)])
def test_with_few_examples_a_class_weights_stay_near(n_classes, l2_sp):
    assert plan_for("full", replace(FACTS, n_classes=n_classes)).training.l2_sp.value == l2_sp
    assert plan_for("scratch", replace(FACTS, n_classes=60)).training.l2_sp.value == 0.0


def test_a_thorough_training_is_a_soup_where_all_weights_carried_over():
    assert plan_for("full", budget="thorough").training.model_soup.value == 3
    assert plan_for("full", budget="thorough").samples_seen == 3000  # each as long as balanced
    assert plan_for("scratch", budget="thorough").training.model_soup is None
    fresh = network_facts(partly_fresh=frozenset({"stem"}))
    training = plan_for("full", network=fresh, budget="thorough").training
    assert (training.model_soup, training.epochs.value) == (None, 20.0)


def test_a_number_is_not_learned_from_mirrored_images():
    """A mirrored image of an angle shows another angle; a small crop changes sizes."""
    chosen = {
        task: plan_for("last:1", replace(FACTS, task=task)).training
        for task in ("classify", "multilabel", "regress")
    }
    assert {t: (c.crop.value, c.flip.value) for t, c in chosen.items()} == {
        "classify": (0.35, True),
        "multilabel": (0.35, True),
        "regress": (0.8, False),
    }
    assert "an angle" in chosen["regress"].flip.because


# ---- Whether upper blocks are fine-tuned beside a linear probe where the user chose no depth.


MEAN = 21_000_000  # multiply-adds of a block: EfficientNet-Lite0 has 384 million in 18 blocks


def record(macs=MEAN, n_blocks=18):
    whole = network(tuple(f"p{i}" for i in range(n_blocks)))
    return replace(whole, blocks=tuple(replace(block, macs=macs) for block in whole.blocks))


@pytest.mark.parametrize(
    ("macs", "facts", "budget", "expected"),
    [
        (MEAN, many(300), "fast", False),
        (MEAN, many(300), "balanced", True),
        (MEAN, many(300), "thorough", True),
        (MEAN, many(300, 39), "balanced", False),  # few independent examples cannot tell
        (MEAN, many(300, 40), "balanced", True),
        (10**10, many(1000), "balanced", False),
        (10**10, many(1000), "thorough", False),
        (12_000_000, many(9000, columns=()), "balanced", False),  # tables have 20 seconds
        (12_000_000, many(9000), "balanced", True),
    ],
)
def test_fine_tuning_is_compared_where_it_can_show_a_gain_in_time(macs, facts, budget, expected):
    assert compares_fine_tuning(record(macs), facts, budget) == expected


@pytest.mark.parametrize(
    ("facts", "budget", "cached", "trainings", "samples", "n_frozen"),
    [
        (many(300), "balanced", 5, 5, 3000, 9),
        (many(600), "balanced", 5, 3, 6000, 9),
        (many(300, holdout=50), "balanced", 5, 1.8, 3000, 9),
        (many(300), "fast", 5, 1.8, 3000, 9),
        (many(300), "thorough", 9, 7, 3000, 9),  # with two more of the soup
        (many(600, kind="text"), "balanced", 1, 3, 2400, 8),
        (many(600, kind="text", task="regress"), "balanced", 5, 3, 6000, 9),
    ],
)
def test_seconds_of_fine_tuning_by_hand(facts, budget, cached, trainings, samples, n_frozen):
    """A step is three forward passes of the trained blocks; trained images cost 1/75 s each."""
    work = cached * facts.n * n_frozen + trainings * samples * 3 * (18 - n_frozen)
    seconds = work * MEAN / (REFERENCE_MACS * 75)
    assert fine_tuning_seconds(record(), facts, budget) == pytest.approx(seconds)
    assert scratch_seconds(record(), 100) == pytest.approx(300 * 18 * MEAN / (REFERENCE_MACS * 75))


@pytest.mark.parametrize(
    ("n", "samples"),
    [(2, 12_000), (100, 12_000), (133, 15_960), (134, 16_000), (801, 16_020), (10**6, 32_000)],
)
def test_samples_of_a_training_from_scratch_by_hand(n, samples):
    assert samples_from_scratch(n) == samples


# ---- What is cached of the frozen blocks: how deep, how many augmentations, in which format.


FACTS_OF_BASE = network_facts()
NUMBERS = 4 * 8 * 8  # outputs of a block of the small network


def with_cache(plan, network=FACTS_OF_BASE, facts=FACTS):
    return plan_cache(plan, network, facts)


def bare(plan):
    """The plan as it is built, before it was chosen what is cached."""
    mine = plan.training.augmentations
    mine = mine if mine.source == "user" else a_choice(4)
    changes = {"split_at": None, "cache_dtype": None, "augmentations": mine}
    return replace(plan, training=replace(plan.training, **changes))


def cached(plan):
    training = plan.training
    return training.split_at.value, training.augmentations.value, training.cache_dtype.value


# ---- how deep ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "split_at"),
    [
        *(("last:1", 3), ("frozen:3", 3), ("full", 0), ("scratch", 0), ("head+add", 4)),
        *(("last:1+add", 3), ("last:2+lora", 2), ("full+gradual", 0), ("last:3+gradual", 1)),
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
    live = with_cache(plan, network_facts(max_cache_bytes=least - 1))
    assert cached(live) == (0, 0, "float32")
    assert "would take 0.0 GB of disk" in live.training.split_at.because
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


SETTINGS = ["training.augmentations=3", "training.epochs=1.3333", "block.1.lr=0.1"]
SETTINGS += ["training.cache_dtype=float16", "training.crop=1"]


@given(
    strategy=st.sampled_from(["last:1", "full", "head+add", "last:3+gradual", "scratch"]),
    given_settings=st.sets(st.sampled_from(SETTINGS)),
)
def test_what_was_chosen_stays_so(strategy, given_settings):
    ours = [s for s in given_settings if strategy in ("full", "scratch") or "block" not in s]
    once = with_cache(apply_settings(plan_for(strategy), ours))
    assert with_cache(once) == once
    check_plan(once, network())


# ---- A handful of texts learns from pairs; the choices that suit them, and what the user sets.


FEW = replace(FACTS, n=48, n_groups=48, n_classes=6, smallest_class=8, holdout=0)
MANY = replace(FEW, n=600, n_groups=600)


def planned(facts=FEW, strategy="auto", **wishes):
    found = network_facts(
        LAYERS, family="transformer", preprocessing=TEXTS, compares_fine_tuning=strategy == "auto"
    )
    return plan_for(strategy, facts, found, **wishes)


def test_a_handful_is_fine_tuned_on_pairs_more_than_half_way_down():
    plan = planned()
    assert plan.strategy.value == "last:4"
    assert "lowest layer whose weights" not in plan.strategy.because
    chosen = plan.training
    assert (chosen.contrastive.value, chosen.lr.value) == (True, 6e-4)
    assert chosen.layer_decay.value == 1.0
    assert (chosen.batch_size.value, plan.samples_seen) == (48, 4 * 48)
    assert chosen.epochs.value == 4
    assert (chosen.warmup.value, chosen.ema_decay.value, chosen.l2_sp.value) == (0, 0, 0)
    assert chosen.contrastive_temperature.value == 0
    assert [actions(plan)[name] for name in LAYERS] == ["frozen"] * 3 + ["tuned"] * 4


@pytest.mark.parametrize("n", [150, 600])
def test_more_texts_are_contrasted_in_batches_and_as_deep(n):
    plan = planned(replace(FEW, n=n, n_groups=n))
    chosen = plan.training
    assert plan.strategy.value == "last:4"
    assert (chosen.contrastive.value, chosen.lr.value) == (True, 3e-4)
    assert (chosen.contrastive_temperature.value, chosen.warmup.value) == (0.1, 0.1)
    assert chosen.batch_size.value == chosen.micro_batch.value == 64
    assert plan.samples_seen == max(4 * n, 16 * 64)
    n_steps = -(-plan.samples_seen // 64)
    assert chosen.ema_decay.value == pytest.approx(1 - 2 / n_steps, abs=1e-4)


@pytest.mark.parametrize(
    "plan",
    [planned(contrastive=False), planned(strategy="scratch"), planned(strategy="full+lora")],
    ids=["switched off", "scratch", "low-rank"],
)
def test_others_learn_through_the_head(plan):
    assert plan.training.contrastive.value is False
    assert plan.training.lr.value != 6e-4
    assert plan.strategy.value in ("last:3", "scratch", "full+lora")


def test_what_the_user_sets_wins():
    many = planned(replace(FEW, n=600, n_groups=600), strategy="last:2", contrastive=True, lr=1e-4)
    assert many.training.contrastive.value is True
    assert (many.training.lr.value, many.training.lr.rule) == (1e-4, 3e-4)
    assert many.training.batch_size.value == 64
    assert many.strategy.value == "last:2"


def test_contrastive_training_is_for_texts_with_classes():
    assert plan_for("last:1", FEW).training.contrastive is None
    assert planned(replace(FEW, task="regress"), strategy="last:1").training.contrastive is None


def test_several_processes_share_a_batch_and_compare_none_of_it():
    assert planned(processes=2).training.contrastive.value is False


def test_the_moving_average_follows_the_number_of_updates():
    few, many = planned(), planned(MANY)
    assert apply_settings(few, ["training.epochs=2"]).training.ema_decay.value == 0
    longer = apply_settings(many, [f"training.epochs={rules.epochs(80 * 64, MANY.n)}"])
    assert longer.training.ema_decay.value == pytest.approx(1 - 2 / 80)
    plain = apply_settings(planned(MANY, contrastive=False), ["training.epochs=2.6667"])
    assert "last tenth" in plain.training.ema_decay.because


def test_fewer_minutes_leave_fewer_updates_and_a_shorter_moving_average():
    plan = planned(MANY)
    cut = fit_to_time(plan, 100, lambda other: other.samples_seen / 20)
    n_steps = cut.samples_seen / cut.training.batch_size.number
    assert 16 <= n_steps < plan.samples_seen / plan.training.batch_size.number
    assert cut.training.ema_decay.value == pytest.approx(1 - 2 / n_steps, abs=1e-3)


def test_a_typed_strategy_over_a_file_that_learns_otherwise_replaces_all_of_its_training():
    file, built = planned(MANY, contrastive=False), planned(MANY, strategy="last:3")
    found = overlay(built, file, frozenset({"strategy"})).training
    assert (found.contrastive, found.lr, found.batch_size) == (
        built.training.contrastive,
        built.training.lr,
        built.training.batch_size,
    )
