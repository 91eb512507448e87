import numpy as np
from scipy import stats

from warmstart.stats import selective
from warmstart.stats.selective import margin


def test_upper_bound_is_clopper_pearson():
    for errors, n, delta in [(0, 10, 0.05), (3, 40, 0.01), (9, 10, 0.1)]:
        bound = selective.upper_bound(errors, n, delta)
        assert abs(stats.binom.cdf(errors, n, bound) - delta) < 1e-9


def test_the_promise_is_kept_on_new_data():
    """Over many draws, the error among new "sure" examples exceeds the promise in <= 5 %."""
    rng = np.random.default_rng(0)
    broken = promised = 0
    for _ in range(300):
        confidence = rng.uniform(0.3, 1, size=400)
        correct = (rng.random(400) < confidence**0.5).astype(float)
        threshold = selective.confident_threshold(confidence, correct, 400)
        if threshold is None:
            continue
        promised += 1
        # Uniform confidence above the threshold; the true error there by integration.
        error = 1 - np.mean(np.linspace(threshold, 1, 2001) ** 0.5)
        broken += error > selective.error_bound(1 - correct.mean())
    assert promised > 60
    assert broken / promised <= 0.05


def test_few_or_dependent_examples_promise_nothing():
    confidence, correct = np.linspace(0.5, 1, 300), np.ones(300)
    assert selective.confident_threshold(confidence, correct, 300) is not None
    assert selective.confident_threshold(confidence, correct, 12.0) is None


def test_ties_are_sure_together():
    confidence = np.repeat([0.9, 0.5], 300)
    correct = np.concatenate([np.ones(300), np.tile([1.0, 0.0], 150)])
    assert selective.confident_threshold(confidence, correct, 600) == 0.9


def test_a_bound_that_is_just_what_was_promised_keeps_it(monkeypatch):
    confidence, right = np.linspace(0.5, 1, 60), np.ones(60)
    monkeypatch.setattr(
        selective, "upper_bound", lambda errors, n, delta: selective.error_bound(0.0)
    )
    assert selective.confident_threshold(confidence, right, 60) == 0.5


# ---- Intervals that keep their promise.


def test_new_errors_lie_inside_as_often_as_promised():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(600):
        errors = np.abs(rng.standard_t(3, size=60))
        inside.append((np.abs(rng.standard_t(3, size=200)) <= margin(errors, np.arange(60))).mean())
    assert 0.89 < np.mean(inside) < 0.92


def test_copies_promise_no_more_than_one_of_them():
    groups = np.repeat(np.arange(5), 4)
    assert margin(np.arange(20.0), groups) is None  # five independent errors promise nothing
    wide = margin(np.arange(80.0), np.repeat(np.arange(20), 4))
    assert wide >= margin(np.arange(80.0), np.arange(80))


def test_the_margin_is_a_rank_of_the_errors():
    """The ceil(0.9 (n + 1))-th smallest, none below n = 9; half as many for a half."""
    ranks = [selective.margin(np.arange(1.0, n + 1), np.arange(n)) for n in (8, 9, 10, 19, 20)]
    assert ranks == [None, 9, 10, 18, 19]
    assert selective.margin(np.arange(1.0, 21), np.arange(20), 0.5) == 11
    assert selective.margin(np.arange(1.0, 21), np.arange(20), 0.001) == 1


def test_bounds_at_their_ends_and_coverages_tried():
    assert selective.upper_bound(3, 3, 0.05) == selective.upper_bound(0, 0, 0.05) == 1
    assert [selective.error_bound(e) for e in (0.0, 0.04, 0.06, 0.3)] == [0.02, 0.02, 0.03, 0.15]
    assert selective.confident_threshold(np.ones(1), np.ones(1), 1) is None
    confidence = np.arange(400) / 400
    correct = (np.arange(400) >= 100).astype(float)  # wrong up to a quarter
    n_tries = 9  # ceil(log2 400)
    for coverage in np.linspace(1, 1 / n_tries, n_tries):  # the slow definition
        count = round(coverage * 400)
        wrong = 400 - correct[-count:].sum() - (400 - count)
        if selective.upper_bound(wrong, count, 0.05 / n_tries) <= 0.125:
            break
    assert selective.confident_threshold(confidence, correct, 400) == confidence[400 - count]
