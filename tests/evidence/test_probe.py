"""A quick linear probe judged on unseen rows, its permutation test, and the images it is run on."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax

from extraction import scene_of
from hue_images import fill
from refit import kernel_of, left_out, singles, told_apart
from tiny import PREP
from warmstart.data.thumbnails import plain_features
from warmstart.evidence.probe import (
    PENALTIES,
    best_left_out,
    best_probabilities,
    depth,
    open_probe,
    permutation_evidence,
)
from warmstart.modalities.image import IMAGE
from warmstart.planning.rules import probe_layers
from warmstart.records.network import FeatureLayer
from warmstart.solve.calibration import fit_temperature, log_losses
from warmstart.solve.kernels import mixed_kernels


def groups_of(rng, n, size):
    return np.array_split(rng.permutation(n), n // size)


@pytest.mark.parametrize("size", [1, 3])
def test_it_says_what_a_head_fitted_without_the_block_says(size):
    rng = np.random.default_rng(size)
    features, labels = told_apart(rng, 30, 3, 1.5)
    group_rows = groups_of(rng, 30, size)
    kernels = [kernel_of(rng.normal(size=(30, 4))), kernel_of(features)]
    head = best_left_out(kernels, labels, group_rows, 3)
    slow = left_out(kernels[head.number], np.eye(3)[labels], head.penalty, group_rows)
    np.testing.assert_allclose(head.scores, slow, atol=1e-8)
    np.testing.assert_array_equal(head.hits(labels), slow.argmax(axis=1) == labels)
    logits = head.calibration.scale * slow + head.calibration.bias
    np.testing.assert_allclose(head.probabilities(), softmax(logits, axis=1), atol=1e-8)


def test_the_kernel_and_penalty_of_least_log_loss_are_kept():
    rng = np.random.default_rng(0)
    features, labels = told_apart(rng, 40, 2, 1.0)
    kernels = [kernel_of(features[:, :2]), kernel_of(features), kernel_of(features[:, 2:])]
    losses = {}
    for number, kernel in enumerate(kernels):
        for penalty in PENALTIES:
            scores = left_out(kernel, np.eye(2)[labels], penalty, singles(40))
            loss = log_losses(scores, labels, fit_temperature(scores, labels)).mean()
            losses[number, penalty] = loss
    head = best_left_out(kernels, labels, singles(40), 2)
    assert (head.number, head.penalty) == min(losses, key=losses.get)
    assert head.number != 2


def test_a_class_that_lies_in_one_group_cannot_be_predicted_without_it():
    labels = np.repeat([0, 1, 2], [4, 8, 8])
    group_rows = [np.arange(4), *np.split(np.arange(4, 20), 16)]
    head = best_left_out([kernel_of(np.eye(3)[labels])], labels, group_rows, 3)
    np.testing.assert_array_equal(head.hits(labels), labels > 0)
    without = best_left_out([kernel_of(np.eye(3)[labels])], labels % 2, group_rows, 3)
    assert without.scores.shape == (20, 3)
    assert (without.scores.argmax(axis=1) < 2).all()  # a class without rows is never predicted


def test_probabilities_alone_are_those_of_the_best_head():
    rng = np.random.default_rng(2)
    features, labels = told_apart(rng, 30, 3, 1.0)
    kernels = [kernel_of(features[:, :1]), kernel_of(features), kernel_of(features[:, 1:])]
    group_rows = groups_of(rng, 30, 2)
    np.testing.assert_array_equal(
        best_probabilities(iter(kernels), labels, group_rows, 3),
        best_left_out(kernels, labels, group_rows, 3).probabilities(),
    )


# ---- permutation test and depth ----

FEATURE_LAYERS = (
    FeatureLayer(block=1, pool="avg"),
    FeatureLayer(block=2, pool="avg"),
    FeatureLayer(block=3, pool="neck"),
)


def make(signal_at, n=80, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 2)
    feature_layers = {layer: rng.normal(size=(n, 6)).astype(np.float32) for layer in FEATURE_LAYERS}
    if signal_at is not None:
        feature_layers[FEATURE_LAYERS[signal_at]][:, :2] += 1.5 * labels[:, None]
    kernels = mixed_kernels(feature_layers.items(), probe_layers(FEATURE_LAYERS))
    return feature_layers, [kernels["last"], kernels["equal"]], labels


def signal(kernels, labels, group_rows, seed=0):
    return permutation_evidence(kernels, labels, group_rows, 199, np.random.default_rng(seed))


@pytest.mark.parametrize("where", [0, 2, None])
def test_a_signal_is_found_at_any_depth_and_none_in_noise(where):
    _, kernels, labels = make(where)
    evidence = signal(kernels, labels, singles(80))
    assert (evidence.details["p"] <= 0.01) == (where is not None)
    assert evidence.value > evidence.high if where is not None else evidence.value <= evidence.high
    assert evidence.low < evidence.details["null_mean"] < evidence.high
    assert 0.05 < evidence.details["mde"] < 0.4
    assert evidence.details["permutations"] <= 199
    assert f"accuracy of {100 * evidence.value:.0f} %" in evidence.meaning


def test_random_labels_hardly_ever_have_a_signal():
    _, kernels, labels = make(0, n=40)
    rng = np.random.default_rng(5)
    p = [signal(kernels, rng.permutation(labels), singles(40), i).details["p"] for i in range(60)]
    assert np.mean(np.array(p) <= 0.05) <= 0.15
    assert 0.3 < np.mean(p) < 0.7


def test_the_detectable_effect_is_that_of_the_effective_size():
    """As many effective rows as Kish counts: of ten large groups ten, of singles all."""
    _, kernels, labels = make(None)
    labels = np.repeat(np.arange(10) % 2, 8)
    group_rows = np.split(np.arange(80), 10)
    alone, together = (signal(kernels, labels, of) for of in (singles(80), group_rows))
    assert together.details["mde"] > alone.details["mde"]
    few = make(None, n=12)
    assert signal(few[1], few[2], singles(12)).details["mde"] > 0.25
    one_group, rare = [np.arange(78), [78], [79]], (np.arange(80) > 77).astype(int)
    one_group = [np.array(rows) for rows in one_group]
    assert signal(kernels, rare, one_group).details["mde"] == 1.0  # next to nothing may move


def test_depth_names_the_block_where_the_signal_is():
    feature_layers, kernels, labels = make(1)
    evidence = depth(feature_layers, kernels, labels, singles(80))
    last, equal = (best_left_out([k], labels, singles(80), 2).hits(labels) for k in kernels)
    assert evidence.value == pytest.approx((equal - last).mean())
    assert 0 < evidence.low < evidence.value < evidence.high <= 1
    assert evidence.details["best_block"] == 2
    for layer, values in feature_layers.items():
        hits = best_left_out([kernel_of(values)], labels, singles(80), 2).hits(labels)
        assert evidence.details[f"block.{layer.block}"] == pytest.approx(hits.mean())


# ---- a few images --------------------------------------------------------------------------


def test_images_are_those_of_the_rows_in_one_order(pictures):
    training_data = scene_of(pictures)
    opened = open_probe(training_data)
    few, every, again = opened(10), opened(99), opened(10)
    assert len(every.rows) == 36
    np.testing.assert_array_equal(few.rows, every.rows[:10])
    np.testing.assert_array_equal(few.images, every.images[:10])
    np.testing.assert_array_equal(few.images, again.images)
    for row, image in zip(every.rows, every.images, strict=True):
        example = training_data.labelled.learn[row]
        payload = (pictures / example.id).read_bytes()
        np.testing.assert_array_equal(image, IMAGE.encode(payload, example.id, PREP))
    np.testing.assert_array_equal(every.labels(), training_data.labelled.labels[every.rows])
    assert set(few.labels()) == {0, 1, 2}
    other = open_probe(replace(training_data, seed=1))(10)
    assert other.rows.tolist() != few.rows.tolist()


def test_kernels_are_those_of_the_cache_and_of_plain_pixels(pictures):
    training_data = scene_of(pictures)
    probe = open_probe(training_data)(20)
    examples = [training_data.labelled.learn[row] for row in probe.rows]
    read = training_data.extracted.reader(examples)
    truth = mixed_kernels(
        [(layer, read(layer)) for layer in probe.training_data.feature_layers], training_data.pair()
    )
    for ours, theirs in zip(probe.cached(), truth.values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    kinds = plain_features(training_data.extracted.thumbnails(examples))
    plain = probe.plain()
    assert len(plain) == len(kinds) + 1
    np.testing.assert_allclose(plain[-1], np.mean(plain[:-1], axis=0))


def test_neither_hold_out_nor_test_is_looked_at(tmp_path):
    root = tmp_path / "photos"
    for number, part in enumerate(("train", "val", "test")):
        fill(root / part, {"blue": 6, "green": 6, "red": 6}, seed=number)
    training_data = scene_of(root)
    assert (len(training_data.labelled.learn), training_data.labelled.holdout) == (36, 18)
    probe = open_probe(training_data)(99)
    assert {training_data.labelled.learn[row].split for row in probe.rows} == {"train"}
    assert len(probe.rows) == 18
