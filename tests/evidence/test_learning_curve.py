"""The learning curve: every point is a head fitted on whole blocks and judged on the rest."""

import numpy as np
import pytest

from refit import kernel_of, ridge, singles, told_apart
from warmstart.evidence.check import (
    DRAWS,
    FLAT,
    LEAST_ROWS,
    MOST_BEYOND,
    SHARES,
    anchored,
    learning_curve,
)
from warmstart.evidence.probe import best_left_out
from warmstart.records.summary import Estimate
from warmstart.stats.learning_curve import PowerLaw, expected_gain
from warmstart.stats.permutation import spread_order
from warmstart.tasks.classify import CLASSIFICATION


def ask(features, labels, group_rows, n_all=None, seed=0):
    kernel, k = kernel_of(features), int(labels.max()) + 1
    head = best_left_out([kernel], labels, group_rows, k)
    rng = np.random.default_rng(seed)
    return learning_curve(kernel, head, labels, group_rows, n_all or len(labels), rng), kernel, head


def take(groups, size):
    """Blocks are taken whole until there are `size` rows; at least one is left to judge by."""
    taken = 1
    while len(np.concatenate(groups[:taken])) < size and taken < len(groups) - 1:
        taken += 1
    return np.concatenate(groups[:taken]), np.concatenate(groups[taken:])


@pytest.mark.parametrize("block", [1, 4])
def test_accuracies_are_those_of_heads_fitted_anew(block):
    rng = np.random.default_rng(block)
    features, labels = told_apart(rng, 60, 3, 1.0)
    group_rows = np.array_split(rng.permutation(60), 60 // block)
    result, kernel, head = ask(features, labels, group_rows)
    rng = np.random.default_rng(0)
    wanted = [max(round(share * 60), 6) for share in SHARES]
    sizes, draws = np.empty((2, DRAWS, len(wanted)))
    for number in range(DRAWS):
        rows, ends = spread_order(labels, group_rows, rng)
        groups = np.split(rows, ends[:-1])
        assert sorted(map(tuple, groups)) == sorted(map(tuple, group_rows))
        for place, size in enumerate(wanted):
            learn, rest = take(groups, size)
            scores = ridge(kernel, np.eye(3)[labels], head.penalty, learn, rest)
            sizes[number, place] = len(learn)
            draws[number, place] = (scores.argmax(axis=1) == labels[rest]).mean()
    warning = [result.details[f"accuracy.{round(size)}"] for size in sizes.mean(axis=0)]
    np.testing.assert_allclose(warning, draws.mean(axis=0), atol=1e-9)
    gain = expected_gain(sizes.mean(axis=0), draws, 60, 120, rng)
    assert (result.value, result.low, result.high) == pytest.approx(
        (gain.value, gain.low, gain.high)
    )


def test_a_hard_task_wants_more_and_a_solved_one_does_not():
    rng = np.random.default_rng(2)
    hard, labels = told_apart(rng, 200, 2, 0.8, width=40)
    wants, _, _ = ask(hard, labels, singles(200))
    assert wants.value > 0.02
    assert wants.low <= wants.value <= wants.high
    assert "About 100 more a class would add" in wants.meaning
    easy, labels = told_apart(rng, 1000, 2, 30.0)
    sated, _, _ = ask(easy, labels, singles(1000))
    assert sated.value < FLAT


def test_noise_promises_nothing_beyond_its_error():
    rng = np.random.default_rng(3)
    for seed in range(5):
        features, labels = told_apart(rng, 60, 3, 0.0)
        assert ask(features, labels, singles(60), seed=seed)[0].low == 0.0


@pytest.mark.parametrize(
    ("n", "k", "n_groups", "n_all", "says"),
    [
        (LEAST_ROWS - 1, 3, None, None, "too few examples"),
        (50, 2, None, round(50 * MOST_BEYOND) + 1, "far more examples than were measured"),
        (60, 30, None, None, "too few sizes"),  # every subset must hold two a class
        (75, 30, None, None, "too few sizes"),
        (60, 2, 3, None, "too few sizes"),  # whatever the size, one or two groups are learnt from
    ],
)
def test_where_there_is_no_curve_the_reason_is_said(n, k, n_groups, n_all, says):
    features, labels = told_apart(np.random.default_rng(5), n, k, 2.0, width=40)
    group_rows = np.split(np.arange(n), n_groups) if n_groups else singles(n)
    result, _, _ = ask(features, labels, group_rows, n_all=n_all)
    assert result.value is result.low is result.high is None
    assert result.meaning.startswith("Not measured")
    assert says in result.meaning


def test_three_sizes_are_a_curve():
    features, labels = told_apart(np.random.default_rng(6), 60, 2, 1.0)
    result, _, _ = ask(features, labels, np.split(np.arange(60), 4))
    assert sorted(name for name in result.details if name.startswith("accuracy")) == [
        "accuracy.15",
        "accuracy.30",
        "accuracy.45",
    ]


# ---- the curve ends in the linear probe's estimate ------------------------------------------


def claim(value, n=200):
    return Estimate(metric="accuracy", value=value, low=0.0, high=1.0, n=n, method="nested-cv")


@pytest.fixture(scope="module")
def curve():
    features, labels = told_apart(np.random.default_rng(2), 200, 2, 0.8, width=40)
    return ask(features, labels, singles(200))[0]


def law_of(result):
    return PowerLaw(result.details["scale"], result.details["exponent"])


@pytest.mark.parametrize("value", [0.6, 0.75, 0.9, 0.0, 1.0, -0.2])
def test_the_curve_goes_through_the_estimate_where_its_folds_learnt(curve, value):
    result = anchored(curve, claim(value), 180, 200, 2, CLASSIFICATION)
    law = law_of(result)
    assert law.at(180) == pytest.approx(min(max(value, 0.5 / 180), 1 - 0.5 / 180))
    assert result.details["accuracy.180"] == value
    assert result.value == pytest.approx(law.at(400) - law.at(200))
    assert result.low <= result.value <= result.high
    assert np.isfinite([result.low, result.high, law.scale]).all()


def test_every_point_moves_by_the_same_odds(curve):
    result = anchored(curve, claim(0.8), 180, 200, 2, CLASSIFICATION)
    points = [k for k in curve.details if k.startswith("accuracy.") and k != "accuracy.180"]
    assert len(points) > 2
    odds = [
        np.array([evidence.details[key] / (1 - evidence.details[key]) for key in points])
        for evidence in (curve, result)
    ]
    assert odds[1] / odds[0] == pytest.approx(result.details["scale"] / curve.details["scale"])
    assert result.details["exponent"] == curve.details["exponent"]
    above, below = curve.high - curve.value, curve.value - curve.low
    assert result.high == pytest.approx(result.value + above)
    assert result.low == pytest.approx(max(result.value - below, 0.0))


def test_a_curve_that_ends_there_already_and_one_that_was_not_drawn_stay(curve):
    result = anchored(curve, claim(law_of(curve).at(180)), 180, 200, 2, CLASSIFICATION)
    assert result.value == pytest.approx(law_of(curve).at(400) - law_of(curve).at(200))
    points = {key: value for key, value in result.details.items() if key != "accuracy.180"}
    assert points == pytest.approx({k: curve.details[k] for k in points})
    few = ask(*told_apart(np.random.default_rng(0), 12, 2, 1.0), singles(12))[0]
    assert anchored(few, claim(0.8), 10, 12, 2, CLASSIFICATION) == few
