import numpy as np
import pytest

from warmstart.evidence.check import depth
from warmstart.evidence.probe import permutation_evidence
from warmstart.planning.rules import probe_layers
from warmstart.records.network import FeatureLayer
from warmstart.solve.kernels import mixed_kernels

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
    singles = [np.array([i]) for i in range(n)]
    return feature_layers, [kernels["last"], kernels["equal"]], labels, singles


@pytest.mark.parametrize("where", [0, 2])
def test_signal_is_found_at_the_last_and_at_an_early_depth(where):
    _, kernels, labels, singles = make(where)
    evidence = permutation_evidence(kernels, labels, singles, 199, np.random.default_rng(0))
    assert evidence.details["p"] <= 0.01
    assert evidence.value > evidence.high


def test_no_signal_is_found_in_noise_and_the_detectable_effect_is_stated():
    _, kernels, labels, singles = make(None)
    evidence = permutation_evidence(kernels, labels, singles, 199, np.random.default_rng(0))
    assert evidence.details["p"] > 0.01
    assert 0.05 < evidence.details["mde"] < 0.4


def test_few_examples_can_detect_only_large_effects():
    _, kernels, labels, singles = make(None, n=12)
    small = permutation_evidence(kernels, labels, singles, 199, np.random.default_rng(0)).details[
        "mde"
    ]
    assert small > 0.25


def test_depth_names_the_part_where_the_signal_is():
    feature_layers, kernels, labels, singles = make(1)
    evidence = depth(feature_layers, kernels, labels, singles)
    assert evidence.details["best_block"] == 2
    assert evidence.low <= evidence.value <= evidence.high
    assert evidence.value > 0


def test_rows_that_belong_together_leave_less_to_find():
    """As many effective rows as Kish counts: of ten large groups ten, of singles all."""
    _, kernels, labels, singles = make(None)
    labels = np.repeat(np.arange(10) % 2, 8)
    group_rows = np.split(np.arange(80), 10)
    alone, together = (
        permutation_evidence(kernels, labels, of, 199, np.random.default_rng(0)).details["mde"]
        for of in (singles, group_rows)
    )
    assert together > alone
