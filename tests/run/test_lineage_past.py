"""What a run keeps of its past: hashes, and when two points are of one picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from warmstart.network.model_folder import read_bundle
from warmstart.records.data import Example
from warmstart.records.network import FeatureLayer
from warmstart.run.base_model import (
    LEARNT,
    TrainingPast,
    hash_number,
    near_duplicate_limit,
    past_arrays,
    past_of,
)
from warmstart.solve.kernels import Sketch
from warmstart.training.out_of_distribution import Neighbours


def example(name, sha256=None):
    return Example(id=name, label="a", split="train", sha256=sha256 or name * 64)


def test_a_run_keeps_its_own_and_those_before_it_once_and_sorted():
    kept = past_arrays(
        frozenset({5, hash_number("b" * 64)}), [example("b"), example("a"), example("a")]
    )
    assert kept[LEARNT].tolist() == [5, hash_number("a" * 64), hash_number("b" * 64)]
    assert kept[LEARNT].dtype == np.uint64


def test_where_the_past_is_not_known_nothing_is_stored():
    assert past_arrays(None, [example("a")]) == {}


def test_it_is_read_back_as_it_was_stored(finished):
    bundle = read_bundle(finished.path)
    past = past_of(bundle, ["nowhere"])
    assert past.is_whole
    assert past.inheritable == frozenset(bundle.neighbours[LEARNT].tolist())
    assert len(past.hashes) == len(bundle.ids)
    assert not past.holds(example("0"))


def test_of_an_older_run_what_can_be_read_is_known_and_that_some_is_missing(finished):
    bundle = read_bundle(finished.path)
    arrays = {name: array for name, array in bundle.neighbours.items() if name != LEARNT}
    older = replace(bundle, neighbours=arrays)
    expected = past_of(bundle, ()).hashes
    assert past_of(older, [str(finished.path)]).inheritable == expected
    partly = past_of(older, ["nowhere", str(finished.path)])
    assert (partly.hashes, partly.is_whole, partly.inheritable) == (expected, False, None)


@pytest.mark.parametrize("n", [2, 40, 1500])
def test_the_limit_is_a_part_of_the_least_distances(n):
    points = np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)
    apart = np.sqrt(((points[:, None] - points) ** 2).sum(axis=2))
    np.fill_diagonal(apart, np.inf)
    least = np.quantile(apart.min(axis=1), 0.05)
    assert near_duplicate_limit(points) == pytest.approx(
        0.4 * least, rel=1e-3 if n <= 1000 else 0.1
    )


def test_one_point_has_no_limit():
    assert near_duplicate_limit(np.zeros((1, 4), np.float32)) == 0.0


def test_copies_are_found_and_other_pictures_are_not():
    points = np.random.default_rng(0).normal(size=(700, 6)).astype(np.float32)
    sketch = Sketch(np.arange(6), np.ones(6, np.float32), 6)
    offset, scale = np.full(6, 3, np.float32), np.full(6, 2, np.float32)
    known = Neighbours(offset, scale, sketch, points)
    past = TrainingPast(
        frozenset(),
        True,
        known,
        (FeatureLayer(block=1, pool="avg"), FeatureLayer(block=2, pool="avg")),
    )
    limit, rng = near_duplicate_limit(points), np.random.default_rng(1)
    aside = rng.normal(size=(700, 6))
    aside /= np.linalg.norm(aside, axis=1)[:, None]
    shift = np.where(np.arange(700) % 2, 1.1, 0.9) * limit
    moved = np.concatenate([points[:1], points + shift[:, None] * aside]).astype(np.float32)
    nearest = np.sqrt(((moved[:, None] - points) ** 2).sum(axis=2)).min(axis=1)
    features = moved / scale + offset
    examples = [example(str(row), "0" * 64) for row in range(701)]

    def read(block):
        rows = [int(e.id) for e in block]
        return lambda layer: features[rows, :2] if layer.block == 1 else features[rows, 2:]

    result = [int(e.id) for e in past.near_duplicates(examples, read)]
    assert result == np.flatnonzero(nearest < limit).tolist()
    assert 300 < len(result) < 400
