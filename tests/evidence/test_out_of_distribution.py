"""Off-topic examples, and a test set from another distribution; clean data hardly ever alarm."""

import numpy as np
import pytest

from warmstart.evidence import data_checks
from warmstart.evidence.data_checks import (
    LARGE,
    LEAST,
    NEAREST,
    SHIFT_LEAST,
    detect_shift,
    find_off_topic,
    off_topic,
    two_samples,
)
from warmstart.evidence.data_checks import off_topic_finding as finding_of


def features(n=200, d=80, classes=4, seed=0):
    """Positive features around a centre a class, some nearer to it than others."""
    rng = np.random.default_rng(seed)
    centres = rng.gamma(2.0, size=(classes, d))
    shape = rng.uniform(1.0, 6.0, size=(n, 1))
    result = centres[np.arange(n) % classes] * rng.gamma(shape, 1 / shape, size=(n, d))
    return result.astype(np.float32)


def strangers(n, d=80, seed=1):
    """Each around a centre of its own."""
    return np.random.default_rng(seed).gamma(0.2, 5.0, size=(n, d)).astype(np.float32)


def singles(x):
    return np.arange(len(x))


def test_strangers_are_found_and_lead_the_ranking():
    x = np.concatenate([features(), strangers(5)])
    result = find_off_topic(x, singles(x))
    assert np.flatnonzero(result.is_off).tolist() == [200, 201, 202, 203, 204]
    assert set(np.argsort(-result.scores)[:5]) == {200, 201, 202, 203, 204}


def test_clean_sets_raise_few_alarms():
    alarms = [find_off_topic(x := features(seed=s), singles(x)).is_off.any() for s in range(20)]
    assert sum(alarms) <= 2


def test_a_class_of_few_is_no_stranger():
    """Eight examples of a kind of their own have each other."""
    rare = features(8, classes=1, seed=9)
    x = np.concatenate([features(), rare])
    assert not find_off_topic(x, singles(x)).is_off.any()


def test_near_copies_and_groups_are_no_witnesses_of_each_other():
    odd = np.repeat(strangers(1), 10, axis=0) * np.linspace(1, 1.1, 10, dtype=np.float32)[:, None]
    x = np.concatenate([features(), odd])
    groups = np.append(np.arange(200), [200] * 10)
    result = find_off_topic(x, groups)
    assert result.is_off[200:].all()
    assert not find_off_topic(x, singles(x)).is_off[200:].any()
    record = off_topic(result, groups, [str(i) for i in range(210)], ["a"] * 210)
    assert (record.count, len(record.off_topic)) == (1, 10)
    assert record.sentence.startswith(
        "1 image looks off-topic (10 with near-duplicates and groups)"
    )


def test_distances_are_those_of_the_slow_definition():
    x = features(60)
    roots = np.sqrt(x.astype(np.float64))
    roots /= np.linalg.norm(roots, axis=1, keepdims=True)
    far = np.linalg.norm(roots[:, None] - roots[None], axis=2)
    np.fill_diagonal(far, np.inf)
    slow = np.log(np.sort(far, axis=1)[:, :NEAREST].mean(axis=1))
    scores = find_off_topic(x, singles(x)).scores
    middle, high = np.quantile(slow, [0.5, 0.9])
    np.testing.assert_allclose(scores, (slow - middle) / (high - middle) * 1.2815515, atol=1e-3)


def test_many_are_compared_with_a_draw(monkeypatch):
    monkeypatch.setattr(data_checks, "MOST", 120)
    monkeypatch.setattr(data_checks, "_CHUNK", 50)
    x = np.concatenate([features(300), strangers(3)])
    assert set(np.flatnonzero(find_off_topic(x, singles(x)).is_off)) >= {300, 301, 302}


@pytest.mark.parametrize("n", [1, NEAREST, LEAST - 1])
def test_of_few_nothing_is_said(n):
    x = np.concatenate([features(n - 1), strangers(1)]) if n > 1 else strangers(1)
    result = find_off_topic(x, singles(x))
    assert result.threshold is None
    assert not result.is_off.any()
    record = off_topic(result, singles(x), [str(i) for i in range(n)], ["a"] * n)
    assert (record.count, record.threshold) == (None, None)
    assert record.sentence == "Too few images to say which are off-topic."
    assert finding_of(record) is None


def test_equal_examples_and_one_group_of_nearly_all_are_not_judged():
    same = np.ones((80, 6), dtype=np.float32)
    assert not find_off_topic(same, singles(same)).is_off.any()
    groups = np.append(np.zeros(74, dtype=int), np.arange(1, 7))
    assert np.isfinite(find_off_topic(features(80), groups).scores).all()


def test_the_record_lists_the_farthest_and_the_finding_names_the_off_topic():
    x = np.concatenate([features(), strangers(2)])
    ids, labels = [f"{i}.jpg" for i in range(202)], ["rose"] * 202
    record = off_topic(find_off_topic(x, singles(x)), singles(x), ids, labels)
    scores = [one.score for one in record.ranked]
    assert scores == sorted(scores, reverse=True)
    assert [one.is_off_topic for one in record.ranked[:3]] == [True, True, False]
    assert all(one.score > record.threshold for one in record.off_topic)
    finding = finding_of(record)
    assert finding.kind == "off-topic"
    assert set(finding.items) == {"200.jpg: rose", "201.jpg: rose"}
    assert finding.sentence.startswith("2 images look off-topic: unlike the images of every class")
    clean = off_topic(find_off_topic(y := features(), singles(y)), singles(y), ids[:200], labels)
    assert (clean.count, clean.sentence) == (0, "No off-topic images found.")
    assert finding_of(clean) is finding_of(None) is None


# ---- distribution shift ----


def sample(n, shift, seed, d=30):
    return (np.random.default_rng(seed).normal(size=(n, d)) + shift).astype(np.float32)


def shift_of(train, test, seed=0):
    return detect_shift(train, test, np.random.default_rng(seed))


def test_a_large_shift_is_found_with_its_accuracy_and_one_source_shows_none():
    train, test = sample(200, 0.0, 0), sample(80, 0.8, 1)
    found = two_samples(train, test, np.random.default_rng(0))
    assert found.accuracy > LARGE
    finding = shift_of(train, test)
    assert finding.kind == "distribution-shift"
    percent = f"{100 * found.accuracy:.0f} % of the time"
    assert f"tells test images from training images {percent}" in finding.sentence
    for seed in range(10):
        assert shift_of(sample(120, 0.0, seed), sample(90, 0.0, 50 + seed), seed) is None


def test_a_real_but_small_shift_is_not_worth_a_warning():
    train, test = sample(500, 0.0, 0), sample(500, 0.6 * np.eye(30)[0], 1)
    assert two_samples(train, test, np.random.default_rng(0)).p < 0.01
    assert shift_of(train, test) is None


def test_too_few_test_images_say_nothing():
    train, rng = sample(200, 0.0, 0), np.random.default_rng(0)
    assert shift_of(train, sample(SHIFT_LEAST - 1, 5.0, 1)) is None
    assert two_samples(train, sample(SHIFT_LEAST - 1, 5.0, 1), rng) is None
    assert two_samples(train, sample(SHIFT_LEAST, 5.0, 1), rng).accuracy == 1.0


def test_a_shift_must_be_clear_beyond_the_permutations(monkeypatch):
    train, test = sample(30, 0.0, 0), sample(30, 0.8, 1)
    assert shift_of(train, test) is not None
    null = two_samples(train, test, np.random.default_rng(0))
    clear = (null.accuracy - null.null_accuracies.mean()) / null.null_accuracies.std()
    for factor, is_found in ((0.99, True), (1.01, False)):
        monkeypatch.setattr(data_checks, "CLEAR", factor * clear)
        assert (shift_of(train, test) is not None) == is_found


def test_only_the_rows_that_are_drawn_are_loaded():
    class Many:
        def __init__(self, values):
            self.values, self.loaded = values, []

        def __len__(self):
            return len(self.values)

        def __getitem__(self, rows):
            self.loaded.append(len(rows))
            return self.values[rows]

    sets = Many(sample(5000, 0.0, 0)), Many(sample(700, 1.0, 1))
    result = shift_of(*sets)
    assert [one.loaded for one in sets] == [[500], [500]]
    assert result == shift_of(*(one.values for one in sets))
    assert result is not None
