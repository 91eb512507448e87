"""What the statistics say of fixed data, to the last digit that another machine keeps."""

from __future__ import annotations

import numpy as np
import pytest

import golden
from warmstart.solve import ridge
from warmstart.solve.kernels import mixed_kernels
from warmstart.stats import (
    cka,
    intervals,
    learning_curve,
    metrics,
    paired,
    permutation,
    selective,
)

N = 40
LABELS = np.arange(N) % 3
BLOCKS = np.arange(N) // 2
SINGLES = [np.array([i]) for i in range(N)]
PAIRS = [np.array([i, i + 3]) for i in range(0, 36, 6) for i in (i, i + 1, i + 2)]
PAIRS += [np.arange(36, 40)]


def coins(share, seed=0, n=N):
    return (np.random.default_rng(seed).random(n) < share).astype(float)


def numbers(seed=0, *shape):
    return np.random.default_rng(seed).normal(size=shape or N)


def of_intervals():
    uneven = np.array([0, 0, 0, 1, 1, 2])
    few = np.array([1.0, 0, 1, 1, 0, 1])
    return (
        intervals.number_groups(PAIRS),
        intervals.kish(uneven),
        [intervals.standard_error(numbers(), b) for b in (BLOCKS, np.zeros(N), np.arange(N))],
        [intervals.effective_size(coins(p), BLOCKS) for p in (0.1, 0.5, 1.1)],
        intervals.effective_size(few, uneven),
        intervals.effective_size(few, np.zeros(6)),
        [
            intervals.accuracy_interval(coins(p), b)
            for p in (0.5, 0.9, 1.1)
            for b in (BLOCKS, LABELS)
        ],
        intervals.accuracy_interval(coins(0.5), BLOCKS, 2.5),
        intervals.accuracy_interval(3 * few, uneven),
    )


def of_wilson():
    """Half a degree of freedom, one and two; no example, few, many; both ends."""
    some = [(0.3, 10.0, d) for d in (0.0, 0.5, 0.999, 1.0, 2.0, 1e9)]
    some += [(0.3, n, 5.0) for n in (-1.0, 0.0, 0.5, 1.0, 2.0, 1000.0)]
    some += [(p, 12.5, 11.0) for p in (0.0, 0.05, 0.5, 1.0)]
    return [intervals.wilson(*each) for each in some], intervals.wilson(0.4, 30, 29, 0.8)


def of_paired():
    a, b = coins(0.8), coins(0.6, 1)
    uneven = np.minimum(np.arange(N), 12)
    told = [
        paired.difference(one, other, groups, np.random.default_rng(2), 300)
        for one, other in ((a, b), (b, a), (a, a), (a, a * 0))
        for groups in (BLOCKS, uneven, np.zeros(N))
    ]
    means = [paired.mean_interval(a, groups) for groups in (BLOCKS, uneven, np.zeros(N))]
    two = [paired.mean_interval(np.array([0.2, 0.7, 0.4]), np.array(g)) for g in ([0, 0, 1],)]
    p = [0.04, 0.01, 0.03, 0.01, 0.9, 0.5]
    return told, means, two, paired.holm(p), paired.holm([0.2]), paired.holm([])


def of_paired_hits():
    a, b = coins(0.8), coins(0.6, 1)
    found = [
        paired.hits_difference(one, other, groups, inflation)
        for one, other in ((a, b), (b, a), (a, a), (a, 1 - a))
        for groups in (np.arange(N), BLOCKS, np.minimum(np.arange(N), 3))
        for inflation in (1.0, 2.0)
    ]
    return found, paired.hits_difference(np.ones(1), np.zeros(1), np.zeros(1, int))


def of_gap():
    return intervals.gap((0.8, 0.7, 0.85), (0.6, 0.5, 0.75)), intervals.gap(
        (0.1, 0.0, 0.3), (0.6, 0.5, 1.0)
    )


def of_conformal():
    errors = np.abs(numbers())
    return (
        selective.margin(errors, np.arange(N)),
        selective.margin(errors, BLOCKS),
        selective.margin(errors, BLOCKS, 0.5),
        selective.margin(errors, np.arange(N) // 5),
        [selective.margin(np.arange(float(n)), np.arange(n)) for n in (8, 9, 10, 19, 20)],
        selective.margin(errors, np.arange(N), 0.001),
    )


def of_curve():
    sizes = np.array([10.0, 20, 30, 45, 60])
    rise = np.array([0.5, 0.62, 0.66, 0.75, 0.78])
    draw = np.clip(rise + 0.04 * numbers(3, 8, 5), 0, 1)
    rng = np.random.default_rng(4)
    return (
        learning_curve.fit_power_law(sizes, rise),
        learning_curve.fit_power_law(sizes, rise[::-1]),
        learning_curve.fit_power_law(sizes, np.array([0.0, 0.5, 0.9, 1.0, 1.0])),
        learning_curve.PowerLaw(0.3, 0.4).at(50),
        learning_curve.PowerLaw(2.0, 0.0).at(7),
        learning_curve.expected_gain(sizes, draw, 60, 120, rng),
        learning_curve.expected_gain(sizes, draw[:, ::-1], 60, 120, rng, 50),
    )


def of_draws():
    return [
        permutation.spread_order(LABELS, group_rows, np.random.default_rng(5))
        for group_rows in (SINGLES, PAIRS)
    ]


def of_cka():
    one, other = numbers(6, 12, 5), numbers(7, 12, 30)
    flat, wrong = np.full((12, 3), 7.0), np.full((12, 3), np.nan)
    mixed = np.hstack([one, other])
    pairs = [(one, other), (one, mixed), (one, one @ numbers(8, 5, 5)), (flat, flat)]
    pairs += [(flat, one), (one, flat), (wrong, one), (one, wrong), (one[:4], other[:4])]
    pairs += [(flat + 1e-8 * numbers(9, 12, 3), one), (1e-9 * one, 1e9 * mixed)]
    told = []
    for a, b in ((one[:3], other[:3]), (one, other[:5])):
        with pytest.raises(ValueError, match="rows of features") as caught:
            cka.cka(a, b)
        told.append(str(caught.value))
    return [cka.cka(a, b) for a, b in pairs], told, cka.agreement(one, other[:, :5])


def of_selection():
    hits = np.stack([coins(p, m) for m, p in enumerate((0.4, 0.9, 0.85, 0.5, 0.9, 0.1))])
    hits = np.vstack([hits, hits[1:2]])
    rng = np.random.default_rng(11)
    stood = [paired.rank_models(hits, np.arange(N), rng, inflation) for inflation in (1.0, 3.0)]
    one = paired.Difference(-0.1, -0.3, 0.05, 0.2)
    return stood, paired.rank_models(hits[:1], BLOCKS, rng), paired.widen(one, 2.0)


def of_selective():
    """Errors that count in part, no example, none right; ties; dependent examples."""
    bounds = [
        (0, 59, 0.05),
        (0.5, 10.5, 0.05),
        (3, 3, 0.05),
        (4, 3, 0.05),
        (0, 0, 0.1),
        (2, 100, 0.01),
    ]
    sure = np.random.default_rng(12).random(400)
    right = (np.random.default_rng(13).random(400) < 0.6 + 0.45 * sure).astype(float)
    told = [
        selective.confident_threshold(values, right, n)
        for values in (sure, sure.round(1), np.ones(400), 1 - sure)
        for n in (400, 150)
    ]
    few = [
        selective.confident_threshold(np.linspace(0.5, 1, n), np.ones(n), n) for n in (1, 2, 200)
    ]
    promised = [selective.error_bound(e) for e in (0.0, 0.04, 0.06, 0.3)]
    return [selective.upper_bound(*each) for each in bounds], told, few, promised


def of_precision():
    answers = numbers(14, 12, 4)
    truth = (numbers(15, 12, 4) > 0.4).astype(float)
    truth[:, 2] = 0
    tied = answers.round()
    many = np.stack([answers, answers[::-1], -answers], axis=1).astype(np.float32)
    same = np.stack([truth] * 3, axis=1).astype(np.float32)
    return (
        metrics.precision_shares(answers, truth),
        metrics.precision_shares(tied, truth),
        metrics.precision_shares(answers, 0 * truth),
        metrics.precisions(tied[:, 0], truth[:, 0] > 0),
        metrics.quick_precisions(many, same),
        metrics.quick_precisions(many, 0 * same),
    )


def of_permuted():
    """Blocks of one label and of two; of one size and of several; all in one."""
    told = []
    for groups in (np.arange(N), np.arange(N) % 3 + 3 * (BLOCKS % 5), BLOCKS, np.zeros(N, int)):
        rng = np.random.default_rng(16)
        found = [permutation.group_shuffler(LABELS, groups)(rng) for _ in range(2)]
        moved = permutation.movable(LABELS, np.stack(found, axis=1))
        told.append((["".join(map(str, one)) for one in found], moved))
    return told, permutation.movable(np.zeros(4, int), np.zeros((4, 1), int))


def inverses(strength, seed=17):
    one = (numbers(seed, N, 6) + strength * np.eye(3, 6)[LABELS]).astype(np.float32)
    kernel = mixed_kernels([("one", one)], {"one": {"one": 1.0}})["one"]
    return [ridge.inverse(kernel, penalty) for penalty in (0.1, 1.0)]


def of_signal_test():
    """A strong signal stops early; none does, too; two blocks can hardly be permuted."""
    halves = [np.flatnonzero(LABELS == 0), np.flatnonzero(LABELS > 0)]
    told = []
    for strength, group_rows, count in (
        (2.0, SINGLES, 999),
        (0.0, SINGLES, 999),
        (0.5, PAIRS, 150),
        (1.0, halves, 60),
        (0.7, SINGLES, 30),
    ):
        rng = np.random.default_rng(18)
        found = permutation.permutation_test(inverses(strength), LABELS, group_rows, rng, count)
        null = found.null_accuracies
        told.append((found.p, found.accuracy, found.permutations, found.moved, null[:5], len(null)))
    # Settled within the first fifty, it goes on to a hundred and no further.
    rng = np.random.default_rng(18)
    usual = permutation.permutation_test(inverses(0.0, 21), LABELS, SINGLES, rng, 999)
    return told, usual.p, usual.permutations


SCENES = {
    name.removeprefix("of_"): make for name, make in globals().items() if name.startswith("of_")
}


@pytest.mark.parametrize("name", SCENES)
def test_nothing_changed_unnoticed(name, request):
    golden.check(__file__, name, SCENES[name](), request.config.getoption("--pin"))
