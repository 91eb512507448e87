"""Learning rates against hand calculations and the laws that they follow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.planning.rules import (
    DEFAULT_LRS,
    OPTIMIZERS,
    SCRATCH,
    LearningRateSpread,
    base_lr,
    block_lrs,
    choose_optimizer,
    convert_lr,
    layer_decay,
    round_lr,
)
from warmstart.records.network import Recipe

ACTIONS = st.lists(st.sampled_from(["frozen", "tuned", "low-rank", "fresh"]), min_size=1)


def recipe(optimizer, lr=0.01):
    return Recipe(optimizer=optimizer, lr=lr, batch_size=256, schedule="cosine")


def values(actions, base, decay, is_scratch=False):
    spread = LearningRateSpread(base=base, decay=decay, is_scratch=is_scratch)
    return [lr and lr.value for lr in block_lrs(actions, spread)]


@pytest.mark.parametrize("family", DEFAULT_LRS)
def test_a_recipe_with_another_optimizer_changes_nothing(family):
    for name in OPTIMIZERS:
        plain = base_lr(family, name, None)
        assert plain.value == DEFAULT_LRS[family][name]
        assert "not on record" in plain.because
        other = base_lr(family, name, recipe("rmsprop", 0.5))
        assert other.value == plain.value
        assert "0.5" in other.because
        assert "rmsprop" in other.because


def test_the_optimizer_is_that_of_the_recipe_where_it_is_offered():
    assert choose_optimizer(recipe("SGD")).value == "sgd"
    assert choose_optimizer(recipe("adamw")).value == "adamw"
    assert choose_optimizer(recipe("rmsprop")).value == "adamw"
    assert "rmsprop" in choose_optimizer(recipe("rmsprop")).because
    assert choose_optimizer(None).value == "adamw"


def test_one_ratio_converts_between_optimizers():
    for family in DEFAULT_LRS:
        assert (
            convert_lr(DEFAULT_LRS[family]["adamw"], "adamw", "sgd", False)
            == DEFAULT_LRS[family]["sgd"]
        )
        assert (
            convert_lr(DEFAULT_LRS[family]["sgd"], "sgd", "adamw", False)
            == DEFAULT_LRS[family]["adamw"]
        )
    assert convert_lr(SCRATCH["adamw"], "adamw", "sgd", True) == SCRATCH["sgd"]


@given(n_blocks=st.integers(13, 500))
def test_the_first_layer_of_a_long_network_moves_as_in_one_of_twelve(n_blocks):
    assert layer_decay(n_blocks) ** n_blocks == pytest.approx(0.75**12, rel=0.5)
    assert 0.75 <= layer_decay(n_blocks) <= 1
    assert layer_decay(12) == layer_decay(1) == 0.75


@given(base=st.floats(1e-6, 1), decay=st.floats(0.3, 1), n_blocks=st.integers(1, 30))
def test_learning_rates_fall_towards_the_input(base, decay, n_blocks):
    lrs = values(["tuned"] * n_blocks + ["replaced"], base, decay)[:-1]
    assert lrs == sorted(lrs)
    for height, lr in enumerate(reversed(lrs)):
        assert lr == pytest.approx(base * decay**height, rel=0.006)
        assert float(f"{lr:.3g}") == lr == round_lr(lr)


def test_learning_rates_by_hand():
    body = ["frozen", "tuned", "tuned", "tuned"]
    assert values([*body, "replaced"], 0.001, 0.5) == [None, 0.00025, 0.0005, 0.001, 0.001]
    assert values([*body, "added", "replaced"], 0.001, 0.5)[-2:] == [0.01, 0.001]
    low = ["low-rank", "low-rank", "replaced"]
    assert values(low, 0.001, 0.5) == [0.005, 0.01, 0.001]
    lost = ["fresh", "frozen", "tuned", "replaced"]
    assert values(lost, 0.001, 0.5) == [0.01, None, 0.001, 0.01]  # the head is as new
    new = ["fresh", "fresh", "replaced"]
    assert values(new, 0.001, 1.0, is_scratch=True) == [0.001, 0.001, 0.001]


@given(body=ACTIONS, added=st.booleans(), base=st.floats(1e-6, 0.1))
def test_every_block_that_moves_has_a_learning_rate_and_no_other(body, added, base):
    actions = [*body, *(["added"] if added else []), "replaced"]
    found = block_lrs(actions, LearningRateSpread(base=base, decay=0.75))
    is_trained = added or set(body) != {"frozen"}
    for action, lr in zip(actions, found, strict=True):
        assert (lr is None) == (action == "frozen" or not is_trained)
        if lr is not None:
            assert lr.source == "rule"
            assert f"{base:g}" in lr.because  # the calculation can be followed
