"""The guards: quiet where training goes well, heard where it does not, the same after a pause."""

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from warmstart.tasks.classify import entropy
from warmstart.training.guards import Watch, forgetting, largest_change, overfit

FOUR = [0.25] * 4
BLIND = math.log(4)


def watch(n_steps=100, shares=FOUR, begins_fitted=True, warm_up=0.1):
    return Watch(n_steps=n_steps, warm_up=warm_up, class_shares=shares, begins_fitted=begins_fitted)


def alarms(losses, **options):
    """Every alarm over the losses of a whole training."""
    seen = watch(n_steps=len(losses), **options)
    found = [seen.see(step, loss) for step, loss in enumerate(losses, 1)]
    return [alarm for alarm in found if alarm]


def noisy(level, n, seed=0, spread=0.4):
    """Losses of batches of 8 about a level: they scatter by less than half of it."""
    return (level * np.random.default_rng(seed).gamma(1 / spread**2, spread**2, n)).tolist()


def test_the_entropy_is_the_loss_of_always_answering_the_shares():
    shares = np.array([0.5, 0.3, 0.2])
    losses = -np.log(shares)
    assert entropy(shares) == pytest.approx((shares * losses).sum())
    assert entropy([50, 30, 20]) == pytest.approx(entropy(shares))
    assert entropy([3, 0]) == 0


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [1, 2, 90])
def test_a_loss_that_is_no_number_is_an_alarm_at_once(loss, step):
    (alarm,) = alarms([0.5] * (step - 1) + [loss] + [0.5] * 10)
    assert (alarm.kind, alarm.step) == ("diverged", step)
    assert f"the loss was {loss} at update {step} of" in alarm.sentence


def test_a_loss_that_grows_is_an_alarm():
    alarm = alarms([0.5] * 20 + [2.0**n for n in range(60)])[-1]
    assert alarm.kind == "diverged"
    assert 20 < alarm.step < 33
    assert "the loss rose from 0.5 to" in alarm.sentence
    assert "always guessing the class shares has 1.39" in alarm.sentence


def test_rates_that_go_wrong_at_once_do_not_hide_in_the_base_model():
    found = alarms([0.5] + [1e3 * (1 + n) for n in range(40)])
    assert found[0].kind == "diverged"
    assert found[0].step <= 5


def test_three_times_a_base_model_near_nothing_is_no_alarm():
    assert alarms([0.02] * 10 + noisy(0.06, 90)) == []
    assert alarms([0.02] * 10 + noisy(0.6, 90)) == []


def test_one_bad_batch_is_no_alarm():
    for at in range(100):
        losses = noisy(0.4, 100)
        losses[at] = 50.0
        assert alarms(losses) == []


def test_a_base_model_above_the_entropy_may_come_down():
    """A network of one's own may begin with an output that is very sure of nonsense."""
    falling = [0.3 + 8 * 0.9**n for n in range(100)]
    assert alarms(falling, begins_fitted=False) == []


def test_a_fitted_head_that_is_lost_is_stuck_soon_after_the_warm_up():
    (alarm,) = alarms([0.5, 0.6, 0.9, *noisy(1.05 * BLIND, 197, spread=0.2)])
    assert alarm.kind == "stuck"
    assert 20 < alarm.step < 100
    assert "of 200; always guessing the class shares has 1.39" in alarm.sentence


def test_a_head_that_knows_little_has_time_before_it_is_stuck():
    """Where the frozen network says little, tuning begins near blind answers, as it should."""
    slow = noisy(0.99 * BLIND, 130, spread=0.2) + noisy(0.8 * BLIND, 70, spread=0.2)
    assert alarms(slow) == []
    (alarm,) = alarms(noisy(1.03 * BLIND, 200, spread=0.2))
    assert alarm.kind == "stuck"
    assert alarm.step > 150


def test_fresh_layers_have_time_before_they_are_stuck():
    late = [BLIND] * 60 + [BLIND * 0.97**n for n in range(40)]
    assert alarms(late, begins_fitted=False) == []
    (alarm,) = alarms([BLIND] * 100, begins_fitted=False)
    assert alarm.kind == "stuck"
    assert 70 < alarm.step < 100


def test_each_kind_is_said_once():
    kinds = [alarm.kind for alarm in alarms([0.5] * 20 + [BLIND] * 60 + [1e9] * 60 + [math.nan])]
    assert sorted(kinds) == ["diverged", "stuck"]


@given(
    st.lists(st.floats(0, 1.2) | st.just(1e4), max_size=60),
    st.lists(st.floats(0.01, 1), min_size=2, max_size=5),
    st.booleans(),
)
def test_a_loss_below_blind_answers_is_never_stuck(losses, shares, begins_fitted):
    assume(entropy(shares) > 0)
    below = [min(loss, 0.9 * entropy(shares)) for loss in losses]
    assert alarms(below, shares=shares, begins_fitted=begins_fitted) == []


@given(
    st.lists(st.floats(0, 1e30) | st.just(math.nan) | st.just(math.inf), min_size=1, max_size=50),
    st.integers(0, 50),
    st.booleans(),
    st.floats(0, 2),
)
def test_a_training_that_goes_on_decides_the_same(losses, pause, begins_fitted, moved):
    whole, parted = (watch(n_steps=50, begins_fitted=begins_fitted) for _ in range(2))
    for step, loss in enumerate(losses, 1):
        if step == pause:
            state = json.loads(json.dumps(parted.state, allow_nan=False))
            parted = watch(n_steps=50, begins_fitted=begins_fitted)
            parted.restore(state)
        assert whole.see(step, loss) == parted.see(step, loss)
        assert whole.state == parted.state
    assert whole.finish(moved) == parted.finish(moved)


def test_nothing_moved_is_stuck():
    seen = watch()
    assert seen.finish(0.02) is None
    alarm = seen.finish(1e-5)
    assert (alarm.kind, alarm.step) == ("stuck", 100)
    assert alarm.sentence == (
        "nothing changed: after 100 updates outputs differ by at most 0.001 % from those before"
    )
    assert seen.finish(1e-5) is None


def test_what_the_last_update_left_is_judged_too():
    """Weights that are drawn back to the start at a high rate may be ruined by the last step."""
    assert watch().finish(0.5, 0.4) is None
    assert watch().finish(0.5, 0.97 * BLIND) is None
    assert watch(shares=[1]).finish(0.5, 0.1) is None
    for loss in (14.66, math.nan, math.inf):
        alarm = watch().finish(0.5, loss)
        assert (alarm.kind, alarm.step) == ("diverged", 100)
        assert f"the loss of the trained network is {loss:.3g}; always" in alarm.sentence
    assert watch().finish(0.5, 1.01 * BLIND).kind == "stuck"


def test_the_largest_change_is_that_of_any_answer():
    rng = np.random.default_rng(0)
    before = rng.normal(size=(40, 5))
    assert largest_change(before, before + rng.normal(size=(40, 1))) == pytest.approx(0, abs=1e-12)
    after = before.copy()
    after[7, 2] += 1
    assert 0.7 < largest_change(before, after) < 1
    assert largest_change(1e6 * before, 1e6 * after) == pytest.approx(largest_change(before, after))
    zeros = np.zeros_like(before)
    assert largest_change(zeros, zeros) == 0
    assert largest_change(zeros, 1e-9 * before) > 1  # from no answer to one is everything


def looks(*means, n=80, seed=0, scatter=0.3):
    """Held-out losses of the same rows at successive looks."""
    rng = np.random.default_rng(seed)
    own = rng.exponential(0.5, n)
    return [mean + own + scatter * rng.normal(size=n) for mean in means]


def test_losses_that_rise_for_three_validations_are_overfit():
    steps = [10, 20, 30, 40, 50]
    alarm, best = overfit(looks(1.0, 0.5, 0.7, 0.9, 1.1), np.arange(80), steps)
    assert (alarm.kind, alarm.step, best) == ("overfit", 50, 1)
    assert "at update 20 to" in alarm.sentence
    assert overfit(looks(1.0, 0.5, 0.7, 0.9), np.arange(80), steps)[0] is None
    assert overfit(looks(1.0, 0.5, 0.7, 0.9, 0.8), np.arange(80), steps)[0] is None
    assert overfit(looks(1.0), np.arange(80), steps) == (None, 0)


def test_a_rise_that_chance_explains_is_none():
    values = looks(0.5, 0.501, 0.502, 0.503)
    found = [(losses - losses.mean() + m) for losses, m in zip(values, (1, 2, 3, 4), strict=True)]
    narrow = [
        0.01 * (losses - losses.mean()) + m * 1e-4
        for losses, m in zip(values, (1, 2, 3, 4), strict=True)
    ]
    steps = [1, 2, 3, 4]
    assert overfit(found, np.arange(80), steps)[0] is not None
    assert overfit(narrow, np.arange(80), steps)[0] is None


def test_rows_of_one_block_count_as_dependent():
    rng = np.random.default_rng(3)
    shift = np.repeat(rng.normal(size=6), 20)  # six groups that go up or down as a whole
    found = [np.ones(120) + extracted * (0.7 + shift - shift.mean()) for extracted in range(4)]
    assert overfit(found, np.arange(120), range(4))[0] is not None
    assert overfit(found, np.repeat(np.arange(6), 20), range(4))[0] is None


def test_flat_losses_are_seldom_called_overfit():
    rng = np.random.default_rng(0)
    n_alarms = 0
    for _ in range(300):
        own, drift = rng.exponential(0.5, 60), np.zeros(60)
        seen = []
        for _ in range(12):
            drift = drift + 0.1 * rng.normal(size=60)
            seen.append(own + drift)
            if overfit(seen, np.arange(60), range(len(seen)))[0]:
                n_alarms += 1
                break
    assert n_alarms <= 9  # 3 %


def test_parts_that_are_like_nothing_before_are_forgetting():
    assert forgetting({}, None, 50) is None
    assert forgetting({"low": 0.99, "high": 0.8}, 0.1, 50) is None  # ordinary tuning
    alarm = forgetting({"low": 0.99, "middle": 0.2, "high": 0.05}, 0.1, 50)
    assert (alarm.kind, alarm.step) == ("forgetting", 50)
    assert "2 of 3 fine-tuned blocks" in alarm.sentence
    assert "least similar: high, 0.05" in alarm.sentence
    assert alarm.sentence.endswith("its original head predicts the same as before for 10% of them")
    assert "own output" not in forgetting({"high": 0.05}, None, 50).sentence
