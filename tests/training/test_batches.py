"""Inputs of training: the augmentations that a plan says, made when asked for or read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import jobs
from tiny import PREP, SCHEDULE
from warmstart.modalities.image import IMAGE
from warmstart.records.network import FeatureLayer
from warmstart.training.augmentations import (
    Augmentations,
    augmentation_numbers,
    draw_batches,
    numbered_augmentation,
)
from warmstart.training.batches import CachedBatches

PLAIN = replace(SCHEDULE, batch_size=8)
VARIED = [{"crop": 0.5}, {"flip": True}, {"color_jitter": 0.1}]


# ---- which augmentation --------------------------------------------------------------------


@given(
    n=st.integers(1, 30),
    batch=st.integers(1, 16),
    augmentations=st.integers(0, 5),
    how=st.sampled_from(VARIED),
    seed=st.integers(0, 99),
)
def test_each_image_shows_its_augmentations_in_turn(n, batch, augmentations, how, seed):
    chosen = replace(PLAIN, augmentations=augmentations, **how)
    seen: dict[int, list[int]] = {}
    for rows, visits in draw_batches(n, batch, 12, np.random.default_rng(seed)):
        for row, number in zip(rows, augmentation_numbers(visits, chosen), strict=True):
            seen.setdefault(int(row), []).append(int(number))
    for numbers in seen.values():
        turn = [
            1 + visit % augmentations if augmentations else 1 + visit
            for visit in range(len(numbers))
        ]
        assert numbers == turn


@pytest.mark.parametrize("augmentations", [0, 4])
def test_where_nothing_varies_it_is_the_image_itself(augmentations):
    chosen = replace(PLAIN, augmentations=augmentations)
    assert not chosen.is_varied
    assert augmentation_numbers(np.arange(9), chosen).tolist() == [0] * 9
    assert all(replace(chosen, **how).is_varied for how in VARIED)


# ---- live ----------------------------------------------------------------------------------


@pytest.fixture
def training_data(pictures):
    return jobs.training_data(pictures)


def test_live_inputs_are_augmentations_of_the_prepared_pictures(training_data, pictures):
    plan = jobs.planned(
        training_data, "full", ("training.crop=0.4", "training.color_jitter=0.3"), seed=5
    )
    source = jobs.context(training_data, plan).source
    assert source.cut == 0
    rows, numbers = np.array([3, 30, 3, 0]), np.array([0, 1, 7, 2])
    (found,) = source.batch(rows, numbers, ())
    assert found.is_contiguous(memory_format=torch.channels_last)
    for place, (row, number) in enumerate(zip(rows, numbers, strict=True)):
        example = training_data.labelled.learn[row]
        image = IMAGE.encode((pictures / example.id).read_bytes(), example.id, PREP)
        seen = numbered_augmentation(
            image, example.sha256, int(number), Augmentations(0.4, True, 0.3), 5
        )
        slow = (torch.from_numpy(seen).double() / 255 - 0.5) / 0.5
        torch.testing.assert_close(
            found[place].double(), slow.permute(2, 0, 1), rtol=1e-5, atol=1e-6
        )
    assert torch.equal(source.batch(rows, numbers, ())[0], found)  # pixels were not written to


def test_the_targets_are_the_labels_of_the_rows(training_data):
    context = jobs.context(training_data, jobs.planned(training_data, "full"))
    rows = np.array([35, 0, 17, 0])
    assert context.targets(rows).tolist() == training_data.labelled.labels[rows].tolist()
    (plain,) = context.plain(rows, ())
    assert torch.equal(plain, context.source.batch(rows, np.zeros(4, int), ())[0])


# ---- stored --------------------------------------------------------------------------------


class CacheFile:
    """Rows that tell whose they are: 100 * augmentation + content, then feature layers."""

    def __init__(self, view, broken=()):
        self.view, self.broken, self.asked = view, set(broken), 0

    def fetch(self, hashes):
        self.asked += 1
        if self.broken & set(hashes):
            raise KeyError(next(iter(self.broken & set(hashes))))
        base = np.array([100 * self.view + int(h) for h in hashes], np.float16)
        return base[:, None] + np.arange(7, dtype=np.float16) / 8


def stored(broken=()):
    passed = []

    def again(number, content):
        passed.append((number, content))
        return CacheFile(number).fetch([content])[0]

    cache_files = tuple(CacheFile(view, broken if view == 1 else ()) for view in range(3))
    contents = tuple(str(n) for n in range(20))
    columns = {
        FeatureLayer(block=1, pool="avg"): slice(4, 5),
        FeatureLayer(block=2, pool="grid2"): slice(5, 7),
    }
    return CachedBatches(cache_files, contents, 2, (2, 1, 2), columns, again), passed


@given(
    asked=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 2)), min_size=1, max_size=20),
    broken=st.sets(st.integers(0, 19), max_size=5),
)
def test_stored_inputs_come_in_the_order_asked_for_whatever_is_damaged(asked, broken):
    source, passed = stored(frozenset(str(n) for n in broken))
    rows, numbers = (np.array(column) for column in zip(*asked, strict=True))
    feature_layers = [
        FeatureLayer(block=2, pool="grid2"),
        FeatureLayer(block=2, pool="neck"),
        FeatureLayer(block=3, pool="avg"),
    ]
    main, grid = source.batch(rows, numbers, feature_layers)
    assert (main.dtype, main.shape[1:]) == (torch.float32, (2, 1, 2))
    base = torch.tensor([100.0 * view + row for row, view in asked])
    expected = base[:, None] + torch.arange(7) / 8
    assert torch.equal(main.flatten(1), expected[:, :4])
    assert torch.equal(grid, expected[:, 5:7])
    lost = [(view, str(row)) for row, view in asked if view == 1 and row in broken]
    assert passed == lost  # only what is damaged is made again


def test_feature_layers_come_in_the_order_that_the_head_has_them():
    source, _ = stored()
    feature_layers = [FeatureLayer(block=2, pool="grid2"), FeatureLayer(block=1, pool="avg")]
    main, *found = source.batch(np.array([4]), np.array([0]), feature_layers)
    assert [t.tolist() for t in found] == [[[4.625, 4.75]], [[4.5]]]
    assert main.is_contiguous(memory_format=torch.channels_last)
