"""Whether upper blocks are fine-tuned beside a linear probe where the user chose no depth."""

from __future__ import annotations

from dataclasses import replace

import pytest

from warmstart.planning.facts import DataFacts
from warmstart.planning.fine_tuning import LEAST_GROUPS, compares_fine_tuning, fine_tuning_seconds
from warmstart.records.network import BlockRecord, NetworkRecord

MEAN = 21_000_000  # multiply-adds of a block: EfficientNet-Lite0 has 384 million in 18 blocks


def _record(macs=MEAN, n_blocks=18):
    block = BlockRecord(
        name="p", parameters=10, shape_in=(8, 8, 8), shape_out=(8, 8, 8), macs=macs, layout="NCHW"
    )
    blocks = tuple(replace(block, name=f"p{i}") for i in range(n_blocks))
    return NetworkRecord(
        blocks=blocks, head_parameters=0, partition="traced", neck_width=8, neck_is_average=True
    )


def _facts(n=300, groups=None, holdout=0):
    return DataFacts(
        n=n,
        n_groups=n if groups is None else groups,
        n_classes=3,
        smallest_class=9,
        holdout=holdout,
    )


def test_fast_never_trains_and_the_others_do():
    assert not compares_fine_tuning(_record(), _facts(), "fast")
    assert compares_fine_tuning(_record(), _facts(), "balanced")
    assert compares_fine_tuning(_record(), _facts(), "thorough")


def test_few_independent_examples_cannot_tell():
    assert not compares_fine_tuning(_record(), _facts(300, LEAST_GROUPS - 1), "balanced")
    assert compares_fine_tuning(_record(), _facts(300, LEAST_GROUPS), "balanced")


@pytest.mark.parametrize("budget", ["balanced", "thorough"])
def test_a_network_that_would_take_long_is_left_alone(budget):
    """Twelve blocks of a large transformer: 60 billion multiply-adds an image."""
    assert not compares_fine_tuning(_record(5_000_000_000, 12), _facts(1000), budget)


def test_texts_train_for_fewer_epochs_and_on_one_version():
    texts = replace(_facts(600), kind="text")
    assert fine_tuning_seconds(_record(), texts, "balanced") < fine_tuning_seconds(
        _record(), _facts(600), "balanced"
    )
    assert fine_tuning_seconds(
        _record(), replace(texts, task="regress"), "balanced"
    ) == fine_tuning_seconds(_record(), _facts(600), "balanced")


def test_more_images_and_more_work_take_longer():
    assert fine_tuning_seconds(_record(), _facts(1000), "balanced") > fine_tuning_seconds(
        _record(), _facts(300), "balanced"
    )
    assert fine_tuning_seconds(_record(2 * MEAN), _facts(), "balanced") == pytest.approx(
        2 * fine_tuning_seconds(_record(), _facts(), "balanced")
    )


def test_a_validation_set_is_the_only_fold():
    assert fine_tuning_seconds(_record(), _facts(holdout=50), "balanced") < fine_tuning_seconds(
        _record(), _facts(), "balanced"
    )
