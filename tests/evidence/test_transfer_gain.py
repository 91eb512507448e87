"""What the weights know: the trained network's accuracy minus the better control's."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import stdtrit

from refit import kernel_of, left_out, singles, told_apart
from warmstart.evidence.probe import best_left_out
from warmstart.evidence.transfer_gain import CLEAR, SHUFFLE_SD, is_clear, transfer_gain
from warmstart.stats.intervals import kish, number_groups, standard_error


def few(group_rows):
    """How much wider few blocks make an interval of 90 %."""
    return stdtrit(kish(number_groups(group_rows)) - 1, 0.95) / 1.645


def arms(rng, labels, strengths):
    """Kernels whose features tell the class by so much each."""
    k = int(labels.max()) + 1
    result = []
    for strength in strengths:
        features = rng.normal(size=(len(labels), 8))
        features[:, :k] += strength * np.eye(k)[labels]
        result.append([kernel_of(features)])
    return result


def ask(rng, n=90, k=3, trained=3.0, shuffles=(0.5, 0.8, 0.3), pixels=0.2, group_rows=None):
    labels = rng.permutation(np.arange(n) % k)
    first, pixel, *rest = arms(rng, labels, (trained, pixels, *shuffles))
    group_rows = group_rows or singles(n)
    controls = SimpleNamespace(trained=first, shuffles=rest, pixels=pixel)
    return transfer_gain(*vars(controls).values(), labels, group_rows), controls, labels, group_rows


def slow_hits(kernels, labels, group_rows):
    """Hits of the kept head, fitted anew without each block."""
    k = int(labels.max()) + 1
    head = best_left_out(kernels, labels, group_rows, k)
    scores = left_out(kernels[head.number], np.eye(k)[labels], head.penalty, group_rows)
    return (scores.argmax(axis=1) == labels).astype(float)


def test_the_value_is_what_the_trained_network_has_beyond_the_shuffled_ones():
    rng = np.random.default_rng(0)
    result, controls, labels, group_rows = ask(rng)
    trained = slow_hits(controls.trained, labels, group_rows)
    shuffles = np.array([slow_hits(kernels, labels, group_rows) for kernels in controls.shuffles])
    assert result.details["trained"] == pytest.approx(trained.mean())
    assert result.details["shuffled"] == pytest.approx(shuffles.mean())
    assert result.value == pytest.approx(trained.mean() - shuffles.mean())
    paired = standard_error(trained - shuffles.mean(axis=0), number_groups(group_rows))
    spread = max(np.var(shuffles.mean(axis=1), ddof=1), SHUFFLE_SD**2)
    assert result.details["error"] == pytest.approx(
        few(group_rows) * np.sqrt(paired**2 + spread / 3)
    )
    assert result.low == pytest.approx(result.value - 1.96 * result.details["error"])
    assert (result.n, result.details["shuffles"]) == (90, 3)


def test_pixels_are_the_control_where_they_do_better():
    rng = np.random.default_rng(1)
    result, controls, labels, group_rows = ask(rng, pixels=1.5)
    trained, pixels = (
        slow_hits(x, labels, group_rows) for x in (controls.trained, controls.pixels)
    )
    assert result.details["pixels"] > result.details["shuffled"]
    assert result.value == pytest.approx(trained.mean() - pixels.mean())
    error = standard_error(trained - pixels, number_groups(group_rows))
    assert result.details["error"] == pytest.approx(few(group_rows) * error)


def test_one_shuffle_is_not_taken_for_certain():
    rng = np.random.default_rng(2)
    result, controls, labels, group_rows = ask(rng, shuffles=(0.5,), pixels=0.0)
    gap = slow_hits(controls.trained, labels, group_rows) - slow_hits(
        controls.shuffles[0], labels, group_rows
    )
    paired = standard_error(gap, number_groups(group_rows))
    assert result.details["error"] == pytest.approx(few(group_rows) * np.hypot(paired, SHUFFLE_SD))


def test_blocks_widen_the_interval():
    errors = []
    for group_rows in (None, np.split(np.arange(90), 15)):
        result, *_ = ask(np.random.default_rng(3), group_rows=group_rows)
        errors.append(result.details["error"])
    assert errors[1] != errors[0]


def test_clear_knowledge_is_clear_and_none_is_not():
    clear, *_ = ask(np.random.default_rng(4))
    assert is_clear(clear)
    assert clear.value > CLEAR * clear.details["error"]
    unclear, *_ = ask(np.random.default_rng(5), trained=0.5)
    assert not is_clear(unclear)


def test_random_labels_give_no_knowledge():
    """However good the features: what is asked for is not in them."""
    rng = np.random.default_rng(6)
    features, _ = told_apart(rng, 80, 2, 4.0)
    plain, *others = (rng.normal(size=(80, 8)) for _ in range(3))
    controls = SimpleNamespace(
        trained=[kernel_of(features)],
        shuffles=[[kernel_of(x)] for x in others],
        pixels=[kernel_of(plain)],
    )
    warning = []
    for _ in range(60):
        labels = rng.permutation(np.arange(80) % 2)
        result = transfer_gain(*vars(controls).values(), labels, singles(80))
        warning.append(result.value - 1.64 * result.details["error"] > 0)
        assert not is_clear(result)
    assert np.mean(warning) <= 0.10


def test_images_that_all_belong_together_tell_nothing():
    result, *_ = ask(np.random.default_rng(7), group_rows=[np.arange(90)])
    assert result.value is result.low is result.high is None
    assert not is_clear(result)


def test_arms_that_err_on_the_same_rows_are_not_told_apart_exactly():
    rng = np.random.default_rng(4)
    labels = rng.permutation(np.arange(60) % 3)
    (same,) = arms(rng, labels, (6.0,))
    result = transfer_gain(same, [same], same, labels, singles(60))
    assert result.value == 0.0
    assert result.details["error"] >= 1 / 60
