"""The guards: quiet where training goes well, heard where it does not; forgetting and its cure."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import jobs
from jobs import differing, job, planned, state
from tiny import network
from warmstart.events import follow
from warmstart.network import lora
from warmstart.network.feature_layers import FeatureExtractor, feature_layers
from warmstart.records.summary import GuardNote
from warmstart.stats.cka import cka
from warmstart.stats.intervals import standard_error
from warmstart.tasks.classify import entropy
from warmstart.training import guards
from warmstart.training.early_stopping import CANDIDATES, END, VALIDATIONS, ChosenEnd, TrainingEnd
from warmstart.training.guards import (
    TIE,
    Alarm,
    BaseModelAnswers,
    Watch,
    check_overfit,
    forgetting,
    largest_change,
    limit_forgetting,
    overfit,
)

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


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [1, 90])
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


ROWS = 60


def chosen_end(means, candidate, held=ROWS, noise=0.0):
    """Losses of the looks around these means, shares as good as the end."""
    rng = np.random.default_rng(0)
    spread = rng.normal(0, 0.2, ROWS)
    losses = np.full((len(CANDIDATES), ROWS), np.nan)
    for number in range(len(CANDIDATES)):
        mean = means[min(number, VALIDATIONS - 1)]
        losses[number, :held] = (mean + spread + noise * rng.normal(size=ROWS))[:held]
    return ChosenEnd(candidate, np.zeros((ROWS, 2)), losses)


RISING = (0.9, 0.4, 0.5, 0.6, 0.7)


@pytest.mark.parametrize(
    ("candidate", "kept"),
    [
        (1, "the weights after 2 fifths of the steps are kept"),
        (END, "the weights after 5 fifths of the steps are kept"),
        (VALIDATIONS + 1, "weights 50% of the way from the base model's are kept"),
    ],
)
def test_losses_that_rise_look_by_look_are_told_with_what_is_kept(candidate, kept):
    found = check_overfit(chosen_end(RISING, candidate), np.arange(ROWS), 100)
    assert found == GuardNote(kind="overfit", step=100, action=kept)


N = 36
SHARE = {end.share: n for n, end in enumerate(CANDIDATES) if end.share < 1}


def tuned(
    training_data,
    strategy="full",
    by=1.0,
    settings=("training.epochs=0.8889", "training.batch_size=8"),
):
    """A job, and its network with every weight that moves moved far away."""
    made = job(training_data, planned(training_data, strategy, settings))
    trainable = made.make()
    rng = torch.Generator().manual_seed(1)
    moving = {name for name, action in trainable.actions.items() if action not in ("frozen",)}
    with torch.no_grad():
        for name, parameter in trainable.model.named_parameters():
            owner = trainable.owners.get(
                name, trainable.owners.get(name.replace("backbone.", "", 1))
            )
            if owner in moving or "lora" in name:
                parameter += by * torch.randn(parameter.shape, generator=rng)
    lora.merge(trainable.network.backbone)
    return made, trainable


def base_answers(training_data, made):
    return BaseModelAnswers(training_data, made.source, np.arange(N), 20)


def chosen(losses=None, candidate=END):
    """An end that was chosen; losses of every candidate, alike unless said otherwise."""
    found = np.full((len(CANDIDATES), N), 0.5)
    for number, values in (losses or {}).items():
        found[number] = values
    return ChosenEnd(candidate, np.zeros((N, 3)), found)


def scores():
    return np.arange(len(CANDIDATES))[:, None, None] + np.zeros((len(CANDIDATES), N, 3))


def kept(training_data, made, trainable, ended):
    """What was done: notes, the end that is taken, events."""
    events = []
    steps = limit_forgetting(
        base_answers(training_data, made), trainable, made.make, ended, scores()
    )
    notes, found = follow(steps, events.append)
    return notes, found, events


def by_hand(training_data, module, number):
    """Features of part `number`, averaged over places, of a network of its own."""
    offered = [
        t for t in feature_layers(training_data.extracted.network.record) if t.block == number
    ]
    layer = next(t for t in offered if t.pool != "grid2")
    images = jobs.source(training_data, planned(training_data, "full")).plain(np.arange(N), ())[0]
    with torch.inference_mode():
        return FeatureExtractor(under(training_data, module), [layer])(images)[0].numpy()


def under(training_data, module):
    """The order of work of the start, on the modules of another: blocks were added above."""
    return replace(training_data.extracted.network, backbone=module.backbone)


@pytest.mark.parametrize("strategy", ["full", "full+lora", "last:1+add"])
def test_layers_that_no_longer_tell_images_apart_are_counted(training_data, strategy):
    if "lora" in strategy:
        pytest.importorskip("peft")
    made, trainable = tuned(training_data, strategy, by=3.0)
    names = [part.name for part in training_data.extracted.network.blocks]
    moved = [
        n for n, name in enumerate(names, 1) if trainable.actions[name] in ("tuned", "low-rank")
    ]
    slow = {
        names[n - 1]: cka(
            by_hand(training_data, training_data.extracted.network, n),
            by_hand(training_data, trainable.network, n),
        )
        for n in moved
    }
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guards, "forgetting", lambda *told: found.append(told))
        base_answers(training_data, made).check(trainable)
    ((likeness, said, step),) = found
    assert likeness.keys() == slow.keys()
    for name in slow:
        assert likeness[name] == pytest.approx(slow[name], abs=1e-3)
    assert step == 20
    assert (0 <= said < 1) if strategy == "full" else said is not None


def alarm_above(share):
    """A guard that raises an alarm beyond a share of the way, told by one weight."""

    def check(answers, trainable):
        begin = network().first.weight
        way = (trainable.network.backbone.first.weight - begin).abs().max() / check.whole
        return Alarm("forgetting", 20, "much is lost") if way > share + 1e-4 else None

    return check


@pytest.mark.parametrize(("limit", "share"), [(0.75, 0.75), (0.6, 0.5), (0.3, 0.25)])
def test_where_it_costs_nothing_less_is_forgotten(training_data, monkeypatch, limit, share):
    made, trainable = tuned(training_data, by=1.0)
    begin, end = state(made.make().model), state(trainable.model)
    check = alarm_above(limit)
    check.whole = (trainable.network.backbone.first.weight - network().first.weight).abs().max()
    monkeypatch.setattr(BaseModelAnswers, "check", check)
    notes, found, events = kept(training_data, made, trainable, chosen())
    for name, tensor in state(trainable.model).items():
        torch.testing.assert_close(
            tensor, torch.lerp(begin[name].float(), end[name].float(), share).to(tensor.dtype)
        )
    action = f"weights {share:.0%} of the way from the base model's are shipped instead"
    assert [(n.kind, n.step, n.action) for n in notes] == [("forgetting", 20, action)]
    assert events[0].values["text"] == f"much is lost; {action}"
    # What is claimed of the network is what held-out rows say at that end.
    assert found.candidate == SHARE[share]
    assert (found.scores == SHARE[share]).all()


def test_an_end_that_is_part_of_the_way_already_goes_on_from_there(training_data, monkeypatch):
    made, trainable = tuned(training_data, by=1.0)
    begin, end = state(made.make().model), state(trainable.model)  # three quarters of the way
    check = alarm_above(0.7)
    check.whole = (trainable.network.backbone.first.weight - network().first.weight).abs().max()
    monkeypatch.setattr(BaseModelAnswers, "check", check)
    _, found, _ = kept(training_data, made, trainable, chosen(candidate=SHARE[0.75]))
    assert found.candidate == SHARE[0.5]
    line = torch.lerp(begin["backbone.first.weight"], end["backbone.first.weight"], 0.5 / 0.75)
    torch.testing.assert_close(trainable.model.backbone.first.weight.detach(), line)


def test_low_rank_updates_go_part_of_the_way_back_too(training_data, monkeypatch):
    pytest.importorskip("peft")
    made, trainable = tuned(training_data, "full+lora", by=1.0)
    begin, end = network().second.weight, trainable.network.backbone.second.weight.detach().clone()
    answers = iter([Alarm("forgetting", 20, "much is lost"), None])
    monkeypatch.setattr(BaseModelAnswers, "check", lambda *_: next(answers))
    kept(training_data, made, trainable, chosen())
    assert (end - begin).abs().max() > 0.1
    torch.testing.assert_close(
        trainable.network.backbone.second.weight.detach(), torch.lerp(begin, end, 0.75)
    )


@pytest.mark.parametrize("seed", range(2))
def test_held_out_rows_must_not_mind(training_data, monkeypatch, seed):
    """A loss that is larger by more than a quarter of its standard error is minded."""
    made, trainable = tuned(training_data, by=1.0)
    end = state(trainable.model)
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(
        BaseModelAnswers, "check", lambda *_: Alarm("forgetting", 20, "much is lost")
    )
    gaps = {number: rng.normal(0.0, 0.1, N) for number in SHARE.values()}
    losses = {number: 0.5 + gap for number, gap in gaps.items()}
    tried = []
    monkeypatch.setattr(guards, "interpolate_weights", lambda *told: tried.append(told[3]))
    notes, found, _ = kept(training_data, made, trainable, chosen(losses))
    ties = [
        CANDIDATES[number].share
        for number, gap in gaps.items()
        if gap.mean() <= TIE * standard_error(gap, made.source.labelled.groups())
    ]
    assert tried == ties
    expected = (
        "kept: weights closer to the base model's forget as much"
        if ties
        else "kept: it has the better validation loss"
    )
    assert notes[0].action == expected
    assert found.candidate == END
    assert differing(state(trainable.model), end) == []


def test_a_training_that_ended_early_goes_no_way_back(training_data, monkeypatch):
    """Shares of a shorter way were not looked at."""
    made, trainable = tuned(training_data, by=1.0)
    end = state(trainable.model)
    monkeypatch.setattr(
        BaseModelAnswers, "check", lambda *_: Alarm("forgetting", 20, "much is lost")
    )
    notes, found, _ = kept(training_data, made, trainable, chosen(candidate=1))
    assert notes[0].action == "kept: training stopped early already, by validation loss"
    assert found.end == TrainingEnd(validation=2)
    assert VALIDATIONS > 2
    assert differing(state(trainable.model), end) == []
