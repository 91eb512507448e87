"""The output of a trained network: as it was trained, or in the mean with one in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import jobs
from jobs import FEW, job, planned
from warmstart.events import drain
from warmstart.solve.calibration import fit_temperature
from warmstart.training import score
from warmstart.training.early_stopping import (
    CANDIDATES,
    END,
    REFIT,
    REFIT_ENDS,
    ChosenEnd,
    TrainingEnd,
    choose_end,
    held_scores,
)
from warmstart.training.output import PENALTY, RefitHead, average_refits, calibrate_head, may_refit
from warmstart.training.score import head_scores

HELD = np.arange(0, 36, 5)


@pytest.fixture(scope="module")
def training_data(tmp_path_factory):
    with jobs.picture_folder(tmp_path_factory, "output") as data:
        yield jobs.training_data(data)


@pytest.fixture(scope="module")
def trained(training_data):
    """A training of the uppermost part on all rows: its plan, job, network."""
    plan = planned(training_data, "last:1", FEW)
    made = job(training_data, plan)
    return plan, made, drain(made.learn()).trainable


def scores(n=40, k=3, seed=0):
    """What every candidate says, the first four rows never held out."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % k)
    found = rng.normal(size=(REFIT + len(REFIT_ENDS), n, k)) + 2 * np.eye(k)[labels]
    found[REFIT:] /= 7
    found[:, :4] = np.nan
    return found, labels


def test_both_outputs_are_brought_to_one_scale_before_their_mean_is_taken():
    said, labels = scores()
    found, scales = average_refits(said, labels)
    for place, number in enumerate(REFIT_ENDS):
        own, other = said[number], said[REFIT + place]
        heat = [fit_temperature(one[4:], labels[4:]).scale for one in (own, other)]
        assert scales[place] == pytest.approx((1.0, heat[1] / heat[0]))
        np.testing.assert_allclose(found[REFIT + place], (own + heat[1] / heat[0] * other) / 2)
    np.testing.assert_array_equal(found[:REFIT], said[:REFIT])


@pytest.mark.parametrize("lost", ["all", "missing"])
def test_where_nothing_was_fitted_anew_nothing_is_joined_nor_chosen(lost):
    said, labels = scores()
    said[REFIT:] = np.nan
    said = said if lost == "all" else said[:REFIT]
    found, _ = average_refits(said, labels)
    np.testing.assert_array_equal(found, said)
    fold = np.where(np.arange(40) < 4, -1, np.arange(40) % 2)
    assert choose_end(found, labels, fold, np.arange(40)).candidate < REFIT


def test_the_output_that_ships_says_what_the_mean_of_both_says(training_data, trained):
    plan, made, trainable = trained
    head = score.fit_on(training_data, plan, made.rows)
    again = RefitHead(training_data, plan, made.context.source)
    chosen = ChosenEnd(REFIT, np.empty(0), np.empty(0))
    scales = ((2.0, 3.0), (9.0, 9.0), (9.0, 9.0))
    output, reader = again.end(trainable, head, chosen, scales)
    examples = training_data.examples(HELD)
    own = held_scores(trainable, made.context, HELD)
    other = again.held_scores(trainable, head, made.rows, HELD)
    said = head.scale * head_scores(output, reader(examples))
    np.testing.assert_allclose(said, (2 * own + 3 * other) / 2, rtol=1e-4, atol=1e-4)
    assert output.penalty == PENALTY
    alone, _ = again.end(trainable, head, replace(chosen, candidate=END), scales)
    assert alone.feature_layers == trainable.feature_layers


def test_rows_held_out_are_answered_by_an_output_that_never_saw_them(training_data, trained):
    plan, made, trainable = trained
    head = score.fit_on(training_data, plan, made.rows)
    again = RefitHead(training_data, plan, made.context.source)
    keep = np.setdiff1d(made.rows, HELD)
    plain = again.held_scores(trainable, head, keep, HELD)
    labels = training_data.labelled.labels.copy()
    labels[HELD] = (labels[HELD] + 1) % 3
    wrong = replace(training_data, labelled=replace(training_data.labelled, labels=labels))
    other = RefitHead(wrong, plan, made.context.source).held_scores(trainable, head, keep, HELD)
    np.testing.assert_array_equal(plain, other)


@pytest.mark.parametrize(
    ("strategy", "may"),
    [
        ("last:1", True),
        ("full", True),
        ("head+add", False),
        ("scratch", False),
    ],
)
def test_layers_that_began_at_random_keep_the_output_that_was_trained_on_them(
    training_data, strategy, may
):
    plan = planned(training_data, strategy, FEW)
    made = job(training_data, plan, HELD)
    trainable = made.make()
    assert may_refit(trainable) == may
    head = score.fit_on(training_data, plan, made.rows)
    found = RefitHead(training_data, plan, made.context.source).held_scores(
        trainable, head, made.rows, HELD
    )
    assert np.isfinite(found).all() == may
    assert found.shape == (len(HELD), 3)


def test_a_trained_head_is_calibrated_by_rows_that_were_held_out(training_data, trained):
    plan, made, _ = trained
    head = score.fit_on(training_data, plan, made.rows)
    n = len(made.rows)
    labels, fold = training_data.labelled.labels, np.arange(n) % 2
    said = head.scale * np.eye(3)[labels]
    found = calibrate_head(head, said, labels, fold, np.arange(n))
    assert found.calibration.scale == fit_temperature(np.eye(3)[labels], labels).scale
    assert (found.probabilities.argmax(axis=1) == labels).all()
    assert (found.fold == fold).all()


def test_ends_with_another_output_come_after_all_others():
    assert len(CANDIDATES) == REFIT
    ends = [ChosenEnd(REFIT + n, np.empty(0), np.empty(0)).end for n in range(len(REFIT_ENDS))]
    assert ends == [CANDIDATES[END], TrainingEnd(share=0.5), TrainingEnd(share=0.25)]
