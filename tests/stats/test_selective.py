import numpy as np
from scipy import stats

from warmstart.stats import selective


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
