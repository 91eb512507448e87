"""Which end of a training is taken, never by a row's own fold; blocks that join in groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

import jobs
from jobs import changed, differing, job, planned, state
from warmstart.events import follow
from warmstart.network.ledger import take_digests
from warmstart.solve.calibration import Calibration, fit_temperature, log_probabilities
from warmstart.training.early_stopping import (
    CANDIDATES,
    END,
    MAX_LOSS,
    REFIT,
    REFIT_ENDS,
    VALIDATIONS,
    TrainingEnd,
    average_refits,
    choose_end,
    held_scores,
)
from warmstart.training.head_families import FOLDS, LEAST, cross_folds
from warmstart.training.loop import TrainingAttempt

C = len(CANDIDATES)
property_of = settings(max_examples=60)


def task(n=60, k=2, folds=3, seed=0):
    """Scores of every candidate that know something, labels, folds, blocks."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % k)
    strength = rng.uniform(0, 2, C)
    scores = rng.normal(size=(C, n, k)) + strength[:, None, None] * np.eye(k)[labels]
    return scores, labels, rng.permutation(np.arange(n) % folds), np.arange(n)


def slow_losses(scores, labels):
    """Mean loss of each candidate at its own best temperature."""
    found = []
    for one in scores:
        log_p = log_probabilities(one, fit_temperature(one, labels))
        found.append(-log_p[np.arange(len(labels)), labels].mean())
    return np.array(found)


@property_of
@given(n_steps=st.integers(1, 5000))
def test_validations_come_in_order_and_the_last_is_the_end(n_steps):
    steps = [TrainingEnd(validation=k).n_steps(n_steps) for k in range(1, VALIDATIONS + 1)]
    assert steps == sorted(steps)
    assert steps[0] >= 1
    assert steps[-1] == n_steps == TrainingEnd().n_steps(n_steps)
    if n_steps >= VALIDATIONS:
        assert len(set(steps)) == VALIDATIONS


@pytest.mark.parametrize("seed", range(2))
def test_the_end_of_the_last_training_is_the_best_on_all_rows(seed):
    scores, labels, fold, groups = task(seed=seed)
    found = choose_end(scores, labels, fold, groups)
    assert found.candidate == found.losses.mean(axis=1).argmin()
    assert found.end == CANDIDATES[found.candidate]
    part = cross_folds(groups)
    for number in range(FOLDS):
        inside = part == number
        best = slow_losses(scores[:, ~inside], labels[~inside]).argmin()
        np.testing.assert_array_equal(found.scores[inside], scores[best][inside])


@pytest.mark.parametrize("seed", range(3))
def test_losses_are_calibrated_on_the_other_parts(seed):
    scores, labels, fold, groups = task(seed=seed, k=3)
    found = choose_end(scores, labels, fold, groups).losses
    part = cross_folds(groups)
    for number in range(FOLDS):
        inside = np.flatnonzero(part == number)
        for candidate, one in enumerate(scores):
            rest = part != number
            log_p = log_probabilities(one, fit_temperature(one[rest], labels[rest]))
            np.testing.assert_allclose(found[candidate, inside], -log_p[inside, labels[inside]])


@property_of
@given(seed=st.integers(0, 1000), folds=st.integers(1, 5), n=st.integers(24, 80))
def test_the_labels_of_a_part_have_no_say_in_what_is_taken_for_it(seed, folds, n):
    """Not even by way of the calibration under which the other parts are judged."""
    scores, labels, fold, groups = task(n, folds=folds, seed=seed)
    before = choose_end(scores, labels, fold, groups)
    part = cross_folds(groups)
    number = seed % FOLDS
    inside = part == number
    changed = labels.copy()
    changed[inside] = np.random.default_rng(seed).permutation(1 - labels[inside])
    after = choose_end(scores, changed, fold, groups)
    np.testing.assert_array_equal(before.scores[inside], after.scores[inside])


def test_their_say_in_the_others_is_real():
    """The property above would hold of a choice that looks at no label at all."""
    moved = 0
    for seed in range(20):
        scores, labels, fold, groups = task(seed=seed)
        one = choose_end(scores, labels, fold, groups).scores
        two = choose_end(scores, 1 - labels, fold, groups).scores
        moved += not np.array_equal(one, two)
    assert moved > 10


def test_parts_keep_blocks_whole():
    scores, labels, _, _ = task(40)
    fold, groups = np.where(np.arange(40) < 30, 0, -1), np.arange(40) // 3
    found = choose_end(scores, labels, fold, groups)
    assert np.isfinite(found.scores[:30]).all()
    assert np.isnan(found.scores[30:]).all()
    assert np.isnan(found.losses[:, 30:]).all()
    for number in range(FOLDS):
        inside = (np.unique(groups[:30], return_inverse=True)[1] % FOLDS) == number
        best = slow_losses(scores[:, :30][:, ~inside], labels[:30][~inside]).argmin()
        np.testing.assert_array_equal(found.scores[:30][inside], scores[best, :30][inside])


def test_one_block_alone_cannot_choose_for_itself():
    scores, labels, _, _ = task(30)
    found = choose_end(scores, labels, np.zeros(30, int), np.zeros(30, int))
    np.testing.assert_array_equal(found.scores, scores[END])


@pytest.mark.parametrize("n", [1, LEAST - 1])
def test_few_rows_choose_nothing(n):
    scores, labels, fold, groups = task(30)
    fold[n:] = -1
    scores[:, n:] = np.nan
    found = choose_end(scores, labels, fold, groups)
    assert found.candidate == END
    np.testing.assert_array_equal(found.scores, scores[END])
    for candidate, one in enumerate(scores):
        log_p = log_probabilities(one[:n], Calibration(1.0, np.zeros(2)))
        np.testing.assert_allclose(found.losses[candidate, :n], -log_p[np.arange(n), labels[:n]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("others", [0, 1])
def test_what_is_no_number_is_never_taken(bad, others):
    """Even where it is the end, and where it would be the first that `argmin` meets."""
    scores, labels, fold, groups = task()
    scores[2] = 9 * np.eye(2)[labels]  # the best by far
    for broken in (0, END, 2):
        spoilt = scores.copy()
        spoilt[broken, 7 if others else slice(None)] = bad
        found = choose_end(spoilt, labels, fold, groups)
        assert found.candidate == (2 if broken != 2 else found.candidate) != broken
        assert np.isfinite(found.scores).all()
        assert (found.losses[broken] == MAX_LOSS).all()


def test_a_row_counts_no_more_than_so_much_however_wrong_it_is():
    scores, labels, fold, groups = task()
    sure = 1e6 * np.eye(2)[labels]
    sure[0] *= -1
    scores[0] = sure
    found = choose_end(scores, labels, fold, groups)
    assert found.losses.max() <= MAX_LOSS
    assert round(MAX_LOSS / np.log(10)) == 12


def test_the_usual_end_is_taken_where_no_other_is_better():
    scores, labels, fold, groups = task(seed=0)
    same = np.repeat(scores[:1], len(scores), axis=0)
    assert choose_end(same, labels, fold, groups, default=2).candidate == 2
    lone = np.full_like(same, np.nan)
    lone[3] = scores[0]
    assert choose_end(lone, labels, fold, groups, default=3).candidate == 3
    np.testing.assert_array_equal(
        choose_end(lone, labels, fold, groups, default=3).scores, scores[0]
    )


def refitted_scores(n=40, k=3, seed=0):
    """What every candidate says, the first four rows never held out."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % k)
    found = rng.normal(size=(REFIT + len(REFIT_ENDS), n, k)) + 2 * np.eye(k)[labels]
    found[REFIT:] /= 7
    found[:, :4] = np.nan
    return found, labels


def test_both_outputs_are_brought_to_one_scale_before_their_mean_is_taken():
    said, labels = refitted_scores()
    found, scales = average_refits(said, labels)
    for place, number in enumerate(REFIT_ENDS):
        own, other = said[number], said[REFIT + place]
        heat = [fit_temperature(one[4:], labels[4:]).scale for one in (own, other)]
        assert scales[place] == pytest.approx((1.0, heat[1] / heat[0]))
        np.testing.assert_allclose(found[REFIT + place], (own + heat[1] / heat[0] * other) / 2)
    np.testing.assert_array_equal(found[:REFIT], said[:REFIT])


@pytest.mark.parametrize("lost", ["all", "missing"])
def test_where_nothing_was_fitted_anew_nothing_is_joined_nor_chosen(lost):
    said, labels = refitted_scores()
    said[REFIT:] = np.nan
    said = said if lost == "all" else said[:REFIT]
    found, _ = average_refits(said, labels)
    np.testing.assert_array_equal(found, said)
    fold = np.where(np.arange(40) < 4, -1, np.arange(40) % 2)
    assert choose_end(found, labels, fold, np.arange(40)).candidate < REFIT


SHORT = ("training.epochs=1.7778", "training.batch_size=8")
HELD = np.arange(0, 36, 5)


def learnt(made):
    """What came of a training, the network, and parts that had moved after each update."""
    outfits, marks = [], []
    steps = replace(made, make=lambda: outfits.append(made.make()) or outfits[-1]).learn()

    def mark(event):
        if event.kind != "step":
            return
        now, owners = take_digests(outfits[-1].network), outfits[-1].network.owners
        moved = {owners[n] for n, digest in made.digests.items() if now[n] != digest}
        if not marks or moved != marks[-1]:
            marks.append(moved)

    return follow(steps, mark), outfits[-1], marks


def names(four_blocks):
    return [block.name for block in four_blocks.extracted.network.blocks]


@pytest.mark.parametrize("n_stages", [1, 2, 4])
def test_parts_join_from_the_top_and_each_moves_once_it_has(four_blocks, n_stages):
    """As many groups as are asked for."""
    plan = planned(four_blocks, "full+gradual", SHORT)
    made = job(four_blocks, plan, end=TrainingEnd(n_stages=n_stages))
    trained, trainable, marks = learnt(made)
    blocks = names(four_blocks)
    assert len(blocks) == 4
    assert marks == [set(blocks[3 - k :]) for k in range(n_stages)]
    assert changed(made, trainable) == marks[-1]
    assert trained.n_stages == n_stages


def test_where_no_group_is_asked_for_nothing_moves_and_that_is_no_fault(four_blocks):
    plan = planned(four_blocks, "full+gradual", SHORT)
    made = job(four_blocks, plan, end=TrainingEnd(n_stages=0))
    trained, trainable, marks = learnt(made)
    assert (trained.n_stages, trained.guards, marks) == (0, (), [])
    assert differing(state(trainable.model), state(made.make().model)) == []


def test_each_stage_has_its_share_of_the_steps_and_a_curve_of_its_own(four_blocks):
    plan = planned(four_blocks, "full+gradual", ("training.epochs=4.4444", "training.batch_size=8"))
    found = []
    follow(job(four_blocks, plan, end=TrainingEnd(n_stages=2)).learn(), found.append)
    assert [e.step for e in found] == [*range(1, 11)]  # half of 20
    factors = [e.values["factor"] for e in found]
    assert factors[:5] == factors[5:] == [1.0, 1.0, 0.853553, 0.5, 0.146447]


def judged(made):
    """An attempt, and the rows that judge it."""
    attempt = TrainingAttempt(made, 1.0, ())
    return attempt, attempt.unfreezing._held


def test_rows_are_set_apart_to_judge_and_are_not_learnt_from(four_blocks):
    made = job(four_blocks, planned(four_blocks, "full+gradual", SHORT), HELD)
    attempt, apart = judged(made)
    fit = attempt.unfreezing.fit_rows
    assert sorted([*fit, *apart]) == made.rows.tolist()
    assert 4 <= len(apart) <= 8
    groups = made.source.labelled.groups()
    assert not set(groups[fit]) & set(groups[apart])
    for strategy, end in (("full", None), ("full+gradual", TrainingEnd())):
        other = job(four_blocks, planned(four_blocks, strategy, SHORT), HELD, end=end)
        assert judged(other)[0].unfreezing.fit_rows.tolist() == made.rows.tolist()


def test_groups_join_while_the_judges_say_that_it_helps(four_blocks):
    plan = planned(four_blocks, "full+gradual", (*SHORT, *jobs.PLAIN), lr=1e-3)
    made = job(four_blocks, plan)
    trained, trainable, _ = learnt(made)
    assert 1 <= trained.n_stages <= 4
    assert changed(made, trainable) == set(names(four_blocks)[4 - trained.n_stages :])
    _, apart = judged(made)
    labels = made.source.targets(apart)
    now, before = (
        float(cross_entropy(torch.from_numpy(held_scores(o, made.source, apart)), labels))
        for o in (trainable, made.make())
    )
    assert now < before


def test_a_group_that_made_it_worse_is_as_it_was_and_that_is_no_fault(four_blocks):
    """So high a rate ruins the first stage: nothing of it may stay, in any part."""
    plan = planned(four_blocks, "full+gradual", (*SHORT, "training.ema_decay=0.9"), lr=0.02)
    made = job(four_blocks, plan, HELD)
    trained, trainable, marks = learnt(made)
    assert marks  # it did move, meanwhile
    assert (trained.n_stages, trained.guards, trained.has_failed) == (0, (), False)
    assert changed(made, trainable) == set()
    begun = made.make()
    assert differing(state(trainable.model), state(begun.model)) == []
    expected = held_scores(begun, made.source, HELD)
    for scores in trained.scores:
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


class Judges:
    """Say yes to so many groups."""

    def __init__(self, yes):
        self.yes = yes

    def __call__(self, unfreezing, number):
        if number >= self.yes:
            trainer = unfreezing.validation.trainer
            trainer.put(unfreezing._weights[0])
            for own, old in zip(trainer.mean, unfreezing._weights[1], strict=True):
                own.copy_(old)
            return False
        unfreezing._save_weights()
        unfreezing.n_joined = number + 1
        return True


@pytest.mark.parametrize("yes", [1, 3])
def test_what_a_group_that_did_not_join_said_is_forgotten(four_blocks, monkeypatch, yes):
    """Every candidate is where a training of that route, with the groups that joined, ends."""
    settings = ("training.epochs=4.4444", "training.batch_size=8", "training.augmentations=2")
    plan = planned(four_blocks, "full+gradual", settings, lr=0.002)
    made = job(four_blocks, plan, HELD)
    monkeypatch.setattr(
        "warmstart.training.early_stopping.GradualUnfreezing.accept",
        lambda unfreezing, number: Judges(yes)(unfreezing, number),
    )
    trained, trainable, _ = learnt(made)
    assert trained.n_stages == yes
    ended = held_scores(trainable, made.source, HELD)
    for candidate, end in enumerate(CANDIDATES[:VALIDATIONS]):
        if end.n_steps(20) >= 5 * yes:  # a stage has five steps
            np.testing.assert_allclose(trained.scores[candidate], ended, rtol=1e-4, atol=1e-4)
        else:
            assert not np.allclose(trained.scores[candidate], ended, rtol=1e-4, atol=1e-4)
    assert not np.allclose(trained.scores[-1], ended)  # a quarter of the way there
