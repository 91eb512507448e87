"""What each evidence says of fixed data, to the last digit that another machine keeps."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import golden
from warmstart.evidence import (
    check,
    domain_gap,
    label_issues,
    learning_curve,
    out_of_distribution,
    preprocessing,
    probe,
    spurious,
    transfer_gain,
)
from warmstart.records.network import FeatureLayer
from warmstart.run import from_scratch
from warmstart.solve.kernels import mixed_kernels

N, K = 60, 3
LABELS = np.arange(N) % K
SINGLES = [np.array([i]) for i in range(N)]
PAIRS = [np.array([i, i + 3]) for i in range(0, N, 6) for i in (i, i + 1, i + 2)]
distribution_shift = off_topic = out_of_distribution
permutation_test = probe_hits = probe
unreadable_texts = domain_gap
check.depth = probe.depth
NAMES = ("ant", "bee", "fly")


def features(strength, width=8, seed=0):
    """Rows with a direction a class. Shapes: (N, width)."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(N, width)) + strength * np.eye(K, width)[LABELS]).astype(np.float32)


def kernel(strength, seed=0):
    one = features(strength, seed=seed)
    return mixed_kernels([("one", one)], {"one": {"one": 1.0}})["one"]


def of_permutation_test():
    rng, both = np.random.default_rng(1), [kernel(1.0), kernel(0.4, 1)]
    result = permutation_test.permutation_evidence(both, LABELS, PAIRS, 99, rng)
    return result, None


def of_learning_curve():
    one = kernel(1.2)
    head = probe_hits.best_left_out([one], LABELS, SINGLES, K)
    text = head.number, head.penalty, head.hits(LABELS), head.probabilities()[:9]
    return text, learning_curve.learning_curve(
        one, head, LABELS, SINGLES, 200, np.random.default_rng(2)
    )


def of_depth():
    feature_layers = {
        FeatureLayer(block=p, pool="avg"): features(0.4 * p, seed=p) for p in (1, 2, 3)
    }
    return check.depth(feature_layers, [kernel(1.2, 3), kernel(0.9, 4)], LABELS, PAIRS)


def of_transfer_gain():
    shuffles = [[kernel(0.3, seed)] for seed in (5, 6, 7)]
    poor = [kernel(1.5)], shuffles, [kernel(0.1, 9)]
    flat = [kernel(0.9)], shuffles, [kernel(1.0, 9)]
    one, other = (
        transfer_gain.transfer_gain(*c, LABELS, g) for c, g in ((poor, PAIRS), (flat, SINGLES))
    )
    return one, other, transfer_gain.is_clear(one), transfer_gain.is_clear(other)


def of_preprocessing():
    others = {"0 to 1": [kernel(1.6, 2)], "swapped": [kernel(0.5, 3)]}
    result = preprocessing.preprocessing([kernel(0.6)], others, LABELS, SINGLES, ("0 to 1",))
    blind = preprocessing.preprocessing([kernel(1.0)], others, LABELS, PAIRS)
    far = {"0 to 1": 0.1, "other": 0.8, "third": 2.0}
    warning = [preprocessing.worth_trying(near, far) for near in (0.2, 0.9, 3.0)]
    return result, preprocessing.warning(result), preprocessing.is_open(blind), blind, warning


def layers(shift):
    rng = np.random.default_rng(3)
    for part in (0, 0, 1):
        mean, spread = rng.normal(size=6), rng.uniform(0.5, 2, 6)
        seen = mean + spread * (shift + rng.normal(size=(20, 6, 9))).transpose(0, 2, 1)
        yield SimpleNamespace(
            block=part,
            source_mean=mean,
            source_var=spread**2,
            mean=seen.mean(1),
            square=(seen**2).mean(1),
        )


def of_domain_gap():
    rng = np.random.default_rng(4)
    return [
        domain_gap.domain_gap([*layers(s)], 2, rng, name) for s, name in ((0.1, ""), (1, "lite0"))
    ]


def of_distribution_shift():
    rng = np.random.default_rng(5)
    near, far = features(0.5, seed=6), features(0.5, seed=7) + 0.9
    return distribution_shift.detect_shift(
        features(0.5), near, rng
    ), distribution_shift.detect_shift(features(0.5), far, rng)


def of_scratch():
    rng = np.random.default_rng(6)
    right = np.array([rng.random(N) < p for p in (0.4, 0.55, 0.7)], float)
    warm, groups = (rng.random(N) < 0.8).astype(float), np.arange(N) // 2
    sizes = np.array([15.0, 30, 60])
    result = from_scratch.scratch(sizes, right, warm, groups, 96, rng)
    return result, [from_scratch.behind(40, right[0], w, groups, 96) for w in (warm, np.ones(N))]


def judged(seed, flips):
    rng = np.random.default_rng(seed)
    odds = np.exp(3 * rng.normal(size=(150, K)))
    p = odds / odds.sum(1, keepdims=True)
    labels = np.array([rng.choice(K, p=row) for row in p])
    labels[:flips] = (p[:flips].argmax(1) + 1) % K
    return label_issues.judge_labels(p, labels, np.arange(150)), labels


def of_label_issues():
    (result, labels), (clean, _) = judged(7, 12), judged(8, 0)
    ids = [f"{i}.jpg" for i in range(150)]
    near_duplicates = [
        (0, 1),
        (40, 41),
        (42, 44),
    ]
    return (
        label_issues.of_classes(result, ids, NAMES, 20),
        label_issues.of_classes(clean, ids, NAMES, 5),
        label_issues.label_noise_ceiling(result, near_duplicates, labels),
        label_issues.label_noise_ceiling(clean, (), labels),
    )


def of_sets():
    rng = np.random.default_rng(9)
    p = 1 / (1 + np.exp(-6 * rng.normal(size=(120, K))))
    truth = (rng.random((120, K)) < p).astype(float)
    sure = np.argsort(-np.abs(p - 0.5).max(1), kind="stable")[:9]
    worst = np.abs(p[sure] - 0.5).argmax(1)
    truth[sure, worst] = 1 - truth[sure, worst]
    result, ids = (
        label_issues.judge_sets(p, truth, np.arange(120)),
        [f"{i}.jpg" for i in range(120)],
    )
    return label_issues.of_sets(result, ids, truth, NAMES, 12)


def of_numbers():
    rng = np.random.default_rng(10)
    text = rng.normal(size=150)
    truth = text + 0.2 * rng.standard_t(4, size=150)
    truth[:6] += np.array([3, -4, 5, 2.5, -3, 6])
    result = label_issues.judge_numbers(text, truth, np.arange(150))
    texts = [f"{v:.3g}" for v in truth]
    return label_issues.of_numbers(result, texts, texts, text, 9)


def of_off_topic():
    x = np.abs(features(3.0, width=40)) + 0.5
    x[5] = np.abs(features(0.0, width=40, seed=8)[5]) ** 3
    result, texts = off_topic.find_off_topic(x, np.arange(N)), [str(i) for i in range(N)]
    return off_topic.off_topic(result, np.arange(N), texts, texts)


def files(**given):
    rng = np.random.default_rng(11)
    width, height = rng.integers(300, 800, (2, N))
    made = {
        "width": width,
        "height": height,
        "is_colour": np.ones(N, bool),
        "n_bytes": (width * height * rng.uniform(0.2, 0.6, N)).astype(np.int64),
        "format": np.full(N, "JPEG"),
    }
    return SimpleNamespace(**(made | given))


def of_metadata_leaks():
    is_first = LABELS == 0
    warning = []
    for given in (
        {},
        {"width": np.where(is_first, 1024, 640), "height": np.where(is_first, 768, 480)},
        {"is_colour": is_first},
        {"format": np.where(is_first, "PNG", "JPEG")},
        {"n_bytes": np.where(is_first, 10**6, 10**4) + np.arange(N)},
        {"width": np.arange(N) * 2 + 600 * is_first + 300},
    ):
        warning.append(
            spurious.metadata_leaks(files(**given), LABELS, NAMES, np.random.default_rng(12))
        )
    truth = np.stack([is_first, LABELS == 1, np.arange(N) < 20], 1).astype(float)
    by_size = files(width=np.where(is_first, 1024, 640))
    rng = np.random.default_rng(13)
    sets = spurious.metadata_leaks_multilabel(by_size, truth, NAMES, rng)
    by_number = files(width=300 + 10 * np.arange(N), height=np.full(N, 400))
    numbers = spurious.metadata_leaks_regression(by_number, np.arange(N) * 1.0, rng)
    return warning, sets, numbers


def borders(steady):
    """Edges of random colours; the first class has one side of one colour where steady."""
    border = np.random.default_rng(14).integers(0, 256, (N, 2, 4, 16, 4), dtype=np.uint8)
    if steady:
        border[LABELS == 0, :, 2] = 200
    return border


def of_borders():
    truth = np.stack([LABELS == 0, LABELS == 1, LABELS == 2], 1).astype(float)
    return [
        (
            spurious.border_finding(borders(s), LABELS, NAMES, SINGLES, 0.9),
            spurious.border_finding_multilabel(borders(s), truth, NAMES),
            spurious.border_accuracy(borders(s), LABELS, SINGLES, K),
        )
        for s in (False, True)
    ]


def of_leaking_columns():
    rng = np.random.default_rng(15)
    parts = [np.arange(N)[part::4] for part in range(4)]
    columns = {
        "code": 10.0 * LABELS[:, None] + rng.normal(size=(N, 1)),
        "age": rng.normal(size=(N, 1)),
        "colour": np.eye(K)[LABELS],
    }
    truth = np.stack([LABELS == 2, LABELS == 1], 1).astype(float)
    return (
        spurious.leaking_columns(columns, LABELS, parts, 0),
        spurious.leaking_columns_multilabel(columns, truth, ("x", "y"), parts, 0),
        spurious.leaking_columns_regression(columns, columns["code"][:, 0] ** 2, parts, 0),
    )


def of_texts():
    rng = np.random.default_rng(16)
    tokens, signs = rng.integers(5, 40, N), rng.integers(30, 160, N)
    few, none = rng.integers(0, 2, N), np.zeros(N, np.int64)
    known = np.stack([tokens, few, signs, none], 1)
    unknown = np.stack([tokens, tokens // 2, signs, signs // 3], 1)
    result = [unreadable_texts.text_domain_gap(one, rng) for one in (known, unknown)]
    return result, None


SCENES = {
    name.removeprefix("of_"): make for name, make in globals().items() if name.startswith("of_")
}


@pytest.mark.parametrize("name", SCENES)
def test_nothing_changed_unnoticed(name, request):
    golden.check(__file__, name, SCENES[name](), request.config.getoption("--pin"))
