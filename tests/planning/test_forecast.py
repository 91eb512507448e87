"""Forecasts are sums of plain numbers, and more work never takes less."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans import FACTS, a_choice, network, network_facts, plan_for
from warmstart.planning import rules
from warmstart.planning.check import check_plan
from warmstart.planning.forecast import (
    LEAST_STEPS,
    MARGIN,
    TRIES,
    Load,
    Speeds,
    fit_to_time,
    forecast,
    given_up,
    skips_controls,
    time_ran_out,
)
from warmstart.planning.plan_file import read_plan, write_plan
from warmstart.planning.settings import apply_settings

SPEEDS = Speeds(
    elapsed=2.0,
    forward=0.01,
    setup=1.5,
    extracted=0.006,
    decode=0.004,
    step=0.3,
    augment=0.002,
    algebra=0.002,
    forward_mb=400.0,
    step_mb=150.0,
    threads=2,
)
LOAD = Load(
    n=300,
    n_test=80,
    n_missing=380,
    n_classes=4,
    holdout=0,
    width=2000,
    image_bytes=150_528,
    model_bytes=13_000_000,
    runs_controls=True,
)
STRATEGIES = ("head", "last:2", "full", "full+gradual", "head+add", "full+lora", "scratch")
each = pytest.mark.parametrize("strategy", STRATEGIES)


def plan(strategy, **wishes):
    facts = wishes.pop("facts", FACTS)
    return plan_for(strategy, facts, network_facts(), **wishes)


def with_training(made, **values):
    chosen = {name: a_choice(value) for name, value in values.items()}
    return replace(made, training=replace(made.training, **chosen))


@each
def test_the_total_is_the_sum_of_the_stages(strategy):
    found = forecast(plan(strategy), LOAD, SPEEDS)
    stages = {name: value for name, value in found.seconds.items() if name != "total"}
    assert stages.keys() == {
        "read",
        "features",
        "checks",
        "head",
        "fine_tune",
        "evaluate",
        "deliver",
    }
    assert found.total == pytest.approx(sum(stages.values()), abs=0.05)
    assert all(value >= 0 for value in stages.values())
    assert (stages["fine_tune"] > 0) == (strategy != "head")
    assert stages["read"] == 2.0
    assert found.memory_mb > SPEEDS.forward_mb
    assert found.disk_mb > LOAD.model_bytes / 1e6


@each
@pytest.mark.parametrize("name", ["n", "n_test", "n_missing", "width", "image_bytes"])
def test_more_to_do_never_takes_less(strategy, name):
    made = plan(strategy)
    found = [
        forecast(made, replace(LOAD, **{name: getattr(LOAD, name) * times}), SPEEDS)
        for times in (1, 2, 5)
    ]
    for less, more in itertools.pairwise(found):
        for stage in less.seconds:
            assert more.seconds[stage] >= less.seconds[stage], stage
        assert more.memory_mb >= less.memory_mb
        assert more.disk_mb >= less.disk_mb


@each
@pytest.mark.parametrize(
    "name", [field.name for field in fields(Speeds) if field.name != "threads"]
)
def test_a_slower_machine_is_never_forecast_to_be_faster(strategy, name):
    made = plan(strategy)
    slow = replace(SPEEDS, **{name: getattr(SPEEDS, name) * 3})
    usual, slower = forecast(made, LOAD, SPEEDS), forecast(made, LOAD, slow)
    assert all(slower.seconds[stage] >= usual.seconds[stage] for stage in usual.seconds)
    assert slower.memory_mb >= usual.memory_mb
    if name in ("elapsed", "forward", "setup", "features", "decode", "algebra"):
        assert slower.total > usual.total


def steps_alone(made, load=LOAD):
    """What the seconds of a step add to the forecast."""
    with_steps = forecast(made, load, SPEEDS).seconds["fine_tune"]
    return with_steps - forecast(made, load, replace(SPEEDS, step=0.0)).seconds["fine_tune"]


def validated(held, n_trainings, trained):
    """Forward passes without a gradient.

    Those held out at 9 validations; after each training 64 trained ones twice, and all once.
    """
    return 9 * held + n_trainings * (2 * min(trained, 64) + 300)


@pytest.mark.parametrize(
    ("folds", "held", "trained"), [(3, 300, 200), (1, 60, 240), (300, 300, 299)]
)
def test_every_training_counts_its_steps_and_its_validations(folds, held, trained):
    """`folds` trainings that hold a fold out, and one on all."""
    made = with_training(plan("full"), folds=folds, epochs=rules.epochs(800, 300), batch_size=8)
    steps = folds * max(round(100 * trained / 300), 1) + 100
    seen = validated(held, folds + 1, trained) / 8 / 3  # a forward pass is a third of a step
    assert steps_alone(made) == pytest.approx((steps + seen) * SPEEDS.step, abs=0.02)


def test_a_validation_set_of_the_users_own_is_the_only_fold():
    facts = replace(FACTS, holdout=50)
    made, load = plan("full", facts=facts), replace(LOAD, holdout=50)
    n_steps = -(-made.samples_seen // made.training.batch_size.value)
    seen = validated(50, 2, 250) / made.training.batch_size.value / 3
    expected = (round(n_steps * 250 / 300) + n_steps + seen) * SPEEDS.step
    assert steps_alone(made, load) == pytest.approx(expected, abs=0.02)


def test_cached_outputs_cost_a_forward_pass_an_augmentation_and_disk_space():
    """Four augmentations and the plain image, through the frozen three quarters of the network."""
    load = replace(LOAD, trained_share=0.25, cached_values=1000)
    cached = with_training(plan("last:1"), augmentations=4, split_at=3, cache_dtype="float32")
    live = with_training(cached, split_at=0)
    decoded = 300 * SPEEDS.decode / 2
    cache_seconds = 300 * (5 * 0.75 * SPEEDS.forward + 4 * SPEEDS.augment / 2)
    usual, other = (forecast(made, load, SPEEDS) for made in (cached, live))
    gap = usual.seconds["fine_tune"] - other.seconds["fine_tune"]
    assert gap == pytest.approx(cache_seconds, abs=0.02)
    assert usual.seconds["fine_tune"] > decoded + cache_seconds
    assert usual.disk_mb - other.disk_mb == pytest.approx(300 * 5 * 1000 * 4 / 1e6, abs=0.1)
    half = forecast(with_training(cached, cache_dtype="float16"), load, SPEEDS)
    assert half.disk_mb - other.disk_mb == pytest.approx(300 * 5 * 1000 * 2 / 1e6, abs=0.1)
    plain = with_training(cached, crop=1.0, flip=False, color_jitter=0.0)
    once = forecast(plain, load, SPEEDS)
    augmented = 300 * 4 * (0.75 * SPEEDS.forward + SPEEDS.augment / 2)
    assert usual.seconds["fine_tune"] - once.seconds["fine_tune"] == pytest.approx(
        augmented, abs=0.02
    )
    assert once.disk_mb - other.disk_mb == pytest.approx(300 * 1000 * 4 / 1e6, abs=0.1)


def test_cached_features_are_not_extracted_again():
    fresh, cached = (forecast(plan("head"), replace(LOAD, n_missing=n), SPEEDS) for n in (380, 0))
    assert cached.seconds["features"] < 1
    extracted = 380 * (SPEEDS.extracted + SPEEDS.decode / SPEEDS.threads)
    assert fresh.seconds["features"] == pytest.approx(extracted + SPEEDS.setup, abs=0.5)
    assert cached.disk_mb < fresh.disk_mb


@pytest.mark.parametrize("name", ["traced", "onnxruntime", "openvino"])
def test_an_engine_beside_torch_takes_memory_where_it_extracts_features(name):
    torch, onnx = (with_training(plan("head"), engine=name) for name in ("torch", name))
    nothing_missing = replace(LOAD, n_missing=0)
    usual, exported = (forecast(made, LOAD, SPEEDS).memory_mb for made in (torch, onnx))
    assert exported > usual + LOAD.model_bytes / 1e6
    assert forecast(onnx, nothing_missing, SPEEDS).memory_mb == usual


def test_training_holds_pixels_copies_of_the_weights_and_what_a_step_takes():
    """Weights, gradients, two moments: four times the network."""
    head, full = (forecast(plan(s), LOAD, SPEEDS).memory_mb for s in ("head", "full"))
    pixels, copies = LOAD.n * LOAD.image_bytes / 1e6, 4 * LOAD.model_bytes / 1e6
    features = 4 * LOAD.width * (LOAD.n + LOAD.n_test) / 1e6
    assert full == pytest.approx(400 + features + pixels + copies + 150, abs=0.1)
    assert head < full
    cached = forecast(plan("last:2"), LOAD, SPEEDS).memory_mb  # read from disk, batch by batch
    assert cached == pytest.approx(full - pixels, abs=0.1)


def test_what_an_offloaded_network_trains_is_counted_once():
    """The step was measured with the block in memory, its gradient, moments and average."""
    made, offloaded = plan("last:2"), replace(LOAD, is_streamed=True)
    whole, alone = (forecast(made, load, SPEEDS).memory_mb for load in (LOAD, offloaded))
    features = 4 * LOAD.width * (LOAD.n + LOAD.n_test) / 1e6
    assert alone == pytest.approx(SPEEDS.forward_mb + features + SPEEDS.step_mb, abs=0.1)
    assert whole - alone == pytest.approx(4 * LOAD.model_bytes / 1e6, abs=0.1)


def test_evaluation_and_delivery_by_hand():
    """0.012 s an image, decoded by two threads; without training no image is run again."""
    trained, head = (forecast(plan(s), LOAD, SPEEDS).seconds for s in ("full", "head"))
    assert (trained["evaluate"], trained["deliver"]) == (0.96, 4.1)  # 80 images; 300 of them
    assert (head["evaluate"], head["deliver"]) == (0.1, 0.5)


# ---- --minutes: the first plan that fits, and what the user set is never cut.


plans = st.builds(
    lambda strategy, budget, own: apply_settings(plan_for(strategy, budget=budget), own),
    st.sampled_from(["last:1", "full", "full+gradual", "head+add", "scratch"]),
    st.sampled_from(["fast", "balanced", "thorough"]),
    st.sets(st.sampled_from(["training.folds=4", "training.epochs=30", "training.batch_size=16"])),
)


def work(plan):
    """Images seen in all trainings."""
    return (plan.training.folds.number + 1) * plan.samples_seen


@given(plan=plans, seconds=st.floats(0.01, 1e5), cost=st.floats(1e-4, 10), extra=st.floats(0, 1e3))
def test_the_plan_that_is_found_fits_and_could_hardly_be_longer(plan, seconds, cost, extra):
    def forecast(other):
        return extra + cost * (work(other) if other.is_trained else 0)

    found = fit_to_time(plan, seconds, forecast)
    check_plan(found, network())
    most = MARGIN * seconds
    if forecast(plan) <= most:
        assert found == plan
    elif plan.training.epochs.source != "user":
        assert not found.is_trained or forecast(found) <= most
        if found.is_trained and found.training.epochs != plan.training.epochs:
            batch = plan.training.batch_size.number
            more = found.samples_seen + 2 * batch + plan.samples_seen / 2**TRIES
            longer = replace(found.training.epochs, value=rules.epochs(more, plan.examples))
            assert forecast(replace(found, training=replace(found.training, epochs=longer))) > most
        elif not found.is_trained:
            assert (
                extra + 2 * cost * LEAST_STEPS * plan.training.batch_size.number > most
                or plan.samples_seen <= LEAST_STEPS * plan.training.batch_size.number
                or plan.training.folds.source == "user"
            )


@given(plan=plans, seconds=st.floats(0.01, 1e5))
def test_what_the_user_set_stays(plan, seconds):
    found = fit_to_time(plan, seconds, work)
    if not found.is_trained:
        assert plan.training.epochs.source != "user"
        return
    for name in ("folds", "epochs"):
        before, after = getattr(plan.training, name), getattr(found.training, name)
        if before.source == "user":
            assert after == before
        elif after != before:
            assert 1 <= after.value < before.value
            assert (after.source, after.rule) == ("measured", before.value)
            cut = f"cut from {before.value:.4g} to fit --minutes {seconds / 60:g}"
            assert after.because == cut
    kept = {name: getattr(found, name) for name in ("blocks", "head", "strategy", "base")}
    assert kept == {name: getattr(plan, name) for name in kept}


def test_trainings_that_hold_rows_out_go_first_then_epochs_then_training():
    plan, tried = plan_for("last:1", budget="thorough"), []
    found = fit_to_time(plan, 1e-9, lambda other: tried.append(other) or 1.0)
    cuts = [(p.training.folds.value, p.training.model_soup.value, p.samples_seen) for p in tried]
    assert cuts == [
        (5, 3, 3000),
        (3, 3, 3000),
        (2, 3, 3000),
        (1, 3, 3000),
        (1, 2, 3000),
        (1, 1, 3000),
        (1, 1, LEAST_STEPS * 16),
    ]
    assert (found.strategy.value, found.strategy.rule) == ("head", "last:1")
    assert time_ran_out(found) == "the minutes leave no time for it"
    assert time_ran_out(read_plan(write_plan(found))) == time_ran_out(found)
    assert given_up(found) == "last:1 was given up: the minutes leave no time for it"


def test_a_training_that_the_user_did_not_choose_is_not_called_given_up():
    plan = plan_for("last:1")
    ours = replace(plan, strategy=replace(plan.strategy, source="rule"))
    found = fit_to_time(ours, 1e-9, lambda other: 1.0)
    assert time_ran_out(found) == ""
    assert given_up(found) == "last:1 was not tried: the minutes leave no time for it"


def test_a_plan_that_is_the_users_own_is_left_as_it_is():
    mine = apply_settings(plan_for("full"), ["training.folds=2", "training.epochs=16.6667"])
    assert fit_to_time(mine, 1e-9, work) == mine
    head = plan_for("head")
    assert fit_to_time(head, 1e-9, lambda plan: 1.0) is head


def test_few_minutes_leave_no_time_for_controls():
    record = network()
    heavy = replace(record, blocks=tuple(replace(block, macs=10**8) for block in record.blocks))
    assert skips_controls(0.75, heavy, 500)
    assert not skips_controls(60.0, heavy, 500)
    assert not skips_controls(0.75, record, 500)


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (1e9, ""),
        (15000, "trainings that hold images out 3 instead of 5"),
        (8000, "trainings that hold images out 1 instead of 5"),
        (4400, "trainings that hold images out 1 instead of 5; epochs 6.56 instead of 10"),
        (1, "last:1 was given up: the minutes leave no time for it"),
    ],
)
def test_what_was_given_up_is_said(seconds, says):
    found = fit_to_time(plan_for("last:1"), seconds, work)
    assert given_up(found) == says
    assert given_up(read_plan(write_plan(found))) == says
    assert given_up(plan_for("head")) == ""


def test_minutes_that_are_left_restore_augmentations_of_an_offloaded_network():
    plan = plan_for("last:1")
    few = replace(
        plan.training.augmentations, value=1, because="each takes long", source="rule", rule=4
    )
    offloaded = replace(
        plan.training, augmentations=few, offload=replace(few, value="float32", rule=None)
    )
    plan = replace(plan, training=offloaded)
    for seconds, count in ((201, 1), (301, 2), (401, 3), (5000, 4)):
        found = fit_to_time(
            plan, seconds / MARGIN, lambda p: 100 + 100 * p.training.augmentations.number
        )
        assert found.training.augmentations.value == count
        if count > 1:
            assert found.training.augmentations.source == "measured"
            assert found.training.augmentations.because.startswith("as many as --minutes")
    mine = replace(offloaded, augmentations=replace(few, source="user"))
    assert (
        fit_to_time(replace(plan, training=mine), 5000, lambda p: 1.0).training.augmentations
        == mine.augmentations
    )


def test_forecasts_of_two_plans():
    """A whole training, and one of a quarter on cached activations whose weights two share."""
    whole = forecast(plan("full", budget="thorough"), LOAD, replace(SPEEDS, threads=3))
    assert [*whole.seconds.values()] == [2.0, 4.49, 3.32, 0.94, 434.17, 0.91, 3.9, 449.72]
    assert (whole.memory_mb, whole.disk_mb) == (689.2, 17.0)
    load = replace(LOAD, trained_share=0.25, cached_values=1000, n_sharing=2)
    upper = forecast(plan("last:1", budget="thorough"), load, SPEEDS)
    assert [*upper.seconds.values()] == [2.0, 4.74, 3.32, 0.94, 457.02, 0.96, 1.4, 470.38]
    assert (upper.memory_mb, upper.disk_mb) == (618.0, 27.8)
