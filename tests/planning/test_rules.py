"""Engines: the quickest is taken, measured where that pays, and every run decides alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.planning import rules
from warmstart.planning.rules import (
    MEASURED,
    REFERENCE,
    REFERENCE_MACS,
    SHORT,
    TENTH,
    EngineSpeed,
    choose_engine,
    engine_seconds,
    engine_to_measure,
    estimate_speeds,
    for_trained,
    probe_layers,
)
from warmstart.records.network import FeatureLayer

counts = st.integers(1, 200_000)
macs = st.integers(0, 20_000_000_000)
truths = st.fixed_dictionaries(
    {name: st.builds(EngineSpeed, st.floats(0.01, 30), st.floats(0.1, 3000)) for name in REFERENCE}
)
some_engines = st.sets(st.sampled_from([*REFERENCE]), min_size=1)


def calibrated(missing, truth, n_macs):
    """What is measured before an engine is chosen, and which were, in order."""
    kept, order = {}, []
    while (name := engine_to_measure(missing, kept, n_macs)) is not None:
        assert name not in kept
        kept[name] = truth[name]
        order.append(name)
    return kept, order


@given(engines=some_engines, n=counts, truth=truths, n_macs=macs)
def test_what_was_measured_once_is_not_measured_again(engines, n, truth, n_macs):
    missing = dict.fromkeys(sorted(engines), n)
    kept, order = calibrated(missing, truth, n_macs)
    assert set(order) <= engines
    assert engine_to_measure(missing, kept, n_macs) is None


@given(engines=some_engines, n=counts, truth=truths, n_macs=macs, share=st.floats(0, 1))
def test_an_extraction_that_goes_on_decides_as_it_did_when_it_began(
    engines, n, truth, n_macs, share
):
    """However many images were extracted before it was stopped."""
    missing = dict.fromkeys(sorted(engines), n)
    kept, _ = calibrated(missing, truth, n_macs)
    chosen = choose_engine(missing, estimate_speeds(kept, n_macs))
    left = missing | {chosen: int(share * n)}
    assert engine_to_measure(left, kept, n_macs) is None
    assert choose_engine(left, estimate_speeds(kept, n_macs)) == chosen


@given(engines=some_engines, n=counts, n_macs=macs)
def test_measuring_takes_a_tenth_of_the_extraction_at_most(engines, n, n_macs):
    """Where engines are as fast as they usually are; the set-up of the one used is no loss."""
    missing, usual = dict.fromkeys(sorted(engines), n), estimate_speeds({}, n_macs)
    kept, _ = calibrated(missing, usual, n_macs)
    chosen = choose_engine(missing, usual)
    assert not kept or chosen in kept
    spent = sum(p.setup + MEASURED / p.speed for p in kept.values())
    extracted = engine_seconds(usual[chosen], n)
    assert not kept or spent - usual[chosen].setup <= TENTH * extracted * 1.000001


@given(engines=some_engines, n=counts, n_macs=macs)
def test_a_short_extraction_is_not_made_longer(engines, n, n_macs):
    missing, usual = dict.fromkeys(sorted(engines), n), estimate_speeds({}, n_macs)
    if engine_seconds(usual[choose_engine(missing, usual)], n) < SHORT:
        assert engine_to_measure(missing, {}, n_macs) is None


@given(n=counts, n_macs=macs, truth=truths)
def test_the_choice_is_the_quickest_of_what_is_known(n, n_macs, truth):
    found = estimate_speeds(truth, n_macs)
    assert found == truth
    chosen = choose_engine(dict.fromkeys(REFERENCE, n), found)
    assert all(engine_seconds(found[chosen], n) <= engine_seconds(p, n) for p in truth.values())


def test_cached_features_win_against_a_faster_engine():
    found = estimate_speeds({}, int(REFERENCE_MACS))
    everything = dict.fromkeys(REFERENCE, 2000)
    fastest = choose_engine(everything, found)
    assert fastest != "torch"
    assert choose_engine(everything | {"torch": 0}, found) == "torch"


# ---- test_feature_layers.py


@given(st.integers(1, 30), st.integers(0, 30))
def test_every_linear_probe_weighs_feature_layers_that_exist(n_blocks, n_grids):
    feature_layers = [FeatureLayer(block=p, pool="avg") for p in range(1, n_blocks)]
    feature_layers.append(FeatureLayer(block=n_blocks, pool="neck"))
    feature_layers += [
        FeatureLayer(block=p, pool="grid2") for p in range(1, min(n_grids, n_blocks) + 1)
    ]
    found = probe_layers(feature_layers)
    assert next(iter(found)) == "last"
    for weights in found.values():
        assert set(weights) <= set(feature_layers)
        assert abs(sum(weights.values()) - 1) < 1e-9
        assert min(weights.values()) >= 0


def test_a_network_of_one_block_has_one_linear_probe():
    assert list(probe_layers([FeatureLayer(block=1, pool="neck")])) == ["last"]


def test_shapes_over_depth_by_hand():
    feature_layers = [
        *(FeatureLayer(block=p, pool="avg") for p in (1, 2)),
        FeatureLayer(block=3, pool="neck"),
    ]
    found = {
        name: [weights.get(layer, 0.0) for layer in feature_layers]
        for name, weights in probe_layers(feature_layers).items()
    }
    for name, times in (("late", 4.0), ("early", 0.25), ("equal", 1.0)):
        a, b, c = found[name]
        assert (round(b / a, 6), round(c / b, 6)) == (times, times)  # 16 over the whole depth


def test_texts_have_probes_on_their_first_token():
    layers = [FeatureLayer(block=b, pool=pool) for b in (1, 2) for pool in ("avg", "first")]
    layers += [FeatureLayer(block=3, pool="neck"), FeatureLayer(block=3, pool="first")]
    made = probe_layers(layers)
    assert {layer.pool for layer in made["first-late"]} == {"first"}
    assert len(made["mean-and-first"]) == 6
    assert sum(made["mean-and-first"].values()) == pytest.approx(1)
    assert set(made["last-two"].values()) == {0.5}
    assert for_trained(("last", "late", "grid-late")) == "grid-late"
    assert for_trained(("last", "equal")) == "last"


@pytest.mark.parametrize("task", ["classify", "regress"])
@pytest.mark.parametrize("n", [50, 600, 601, 2000, 2001])
@pytest.mark.parametrize("smallest", [5, 6])
def test_heads_compete_where_they_pay(n, smallest, task):
    names = ("last", "last-two", "late", "equal", "grid-late", "grid-upper")
    made = rules.candidates(n, 10, smallest, names, "balanced", task)
    is_class = task == "classify"
    assert ("class-mean" in made) == (is_class and smallest == 5 and n <= 2000)
    assert ("logistic" in made) == (is_class and n == 50)
    assert ("stack" in made) == (not is_class and n <= 2000)
    assert ("last-two" in made) == (n <= 600)
    assert ("grid-upper" in made) == (n <= 2000)


@pytest.mark.parametrize(
    ("function", "arguments", "values"),
    [
        (rules.outer_folds, (4, 60, 500, 501), (4, 10, 10, 5)),
        (lambda n: rules.outer_folds(n, 90), (60, 61), (5, 10)),
        (lambda n: rules.outer_folds(60, n), (89, 90), (10, 5)),
        (lambda n: len(rules.penalties(n)), (500, 501), (7, 4)),
        (rules.fine_tuned_blocks, (1, 2, 3, 18), (1, 1, 1, 9)),
        (rules.samples_seen, (1, 100, 101, 1600, 9000), (1000, 1000, 1010, 16_000, 16_000)),
        (lambda n: rules.samples_seen(n, "thorough"), (400,), (8000,)),
        (rules.batch_size, (639, 640), (16, 32)),
        (lambda n: rules.epochs(1000, n), (48, 0), (20.8333, 1000.0)),
        (lambda n: rules.training_folds("balanced", n), (0, 2, 500, 501), (1, 2, 5, 3)),
        (lambda n: rules.training_folds("thorough", n), (900,), (5,)),
        (lambda n: rules.training_folds("fast", n), (900,), (1,)),
        (lambda n: rules.training_seconds(n * rules.REFERENCE_MACS), (300,), (4.0,)),
    ],
)
def test_sizes_by_hand(function, arguments, values):
    assert tuple(map(function, arguments)) == values
