"""Law 4 for stored activations: change any member of their key, and the cache misses."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from warmstart.features.cache import FeatureCache
from warmstart.features.cache_key import MAIN, ActivationKey, Column, FeatureKey, ScratchKey
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import FeatureLayer

EXTRACTION = FeatureKey(
    network="ab",
    arch="timm:x",
    blocks=("stem", "body"),
    feature_layers=(),
    decoder="pillow 11",
    preprocessing=Preprocessing(size=(8, 8), resize=8, mean=(0.5,), std=(0.5,)),
    engine="torch",
    engine_version="torch 2.8",
    threads=2,
    augmentation="crop=0.35 seed=0 view=1",
)
KEY = ActivationKey(
    extraction=EXTRACTION,
    cut=2,
    layers=(FeatureLayer(block=1, pool="avg"), FeatureLayer(block=2, pool="avg")),
    dtype="float32",
)
EXAMPLE = "0a" * 32
CHANGED = {
    "network": "abc",
    "arch": "timm:y",
    "blocks": ("stem", "body", "top"),
    "decoder": "pillow 12",
    "preprocessing": dataclasses.replace(EXTRACTION.preprocessing, resize=9),
    "engine": "traced",
    "engine_version": "torch 2.9",
    "threads": 3,
    "augmentation": "crop=0.35 seed=0 view=2",
    "arithmetic": "COMPATIBLE",
    "cpu": "another",
    "batch": 33,
    "version": EXTRACTION.version + 1,
}
KEYS = {
    **{
        name: dataclasses.replace(KEY, extraction=dataclasses.replace(EXTRACTION, **{name: value}))
        for name, value in CHANGED.items()
    },
    "cut": dataclasses.replace(KEY, cut=1),
    "fewer layers": dataclasses.replace(KEY, layers=KEY.layers[:1]),
    "another order": dataclasses.replace(KEY, layers=KEY.layers[::-1]),
    "another pool": dataclasses.replace(
        KEY, layers=(KEY.layers[0], FeatureLayer(block=2, pool="grid2"))
    ),
    "dtype": dataclasses.replace(KEY, dtype="float16"),
}


def test_every_member_is_changed_here():
    members = {field.name for field in dataclasses.fields(FeatureKey)}
    assert (
        members - {"feature_layers", "dtype"} == CHANGED.keys()
    )  # these two are the activations' own


def test_all_keys_are_apart_from_each_other_and_from_the_extraction():
    digests = {key.digest for key in (KEY, EXTRACTION, *KEYS.values())}
    assert len(digests) == len(KEYS) + 2
    assert json.loads(json.dumps(KEY.plain)) == KEY.plain


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    cache = FeatureCache(tmp_path_factory.mktemp("activations"))
    with cache.cache_file(KEY) as cache_file:
        cache_file.append([EXAMPLE], [np.ones((1, 5), np.float32)] * 3)
    return cache


def test_the_same_key_hits(cache):
    with cache.cache_file(dataclasses.replace(KEY)) as cache_file:
        assert cache_file.missing([EXAMPLE]) == []
        assert list(cache_file.columns) == [MAIN, "1.avg", "2.avg"]


@pytest.mark.parametrize("name", KEYS)
def test_a_changed_member_misses(cache, name):
    with cache.cache_file(KEYS[name]) as cache_file:
        assert cache_file.missing([EXAMPLE]) == [EXAMPLE]


def test_rows_of_one_run_alone_are_told_by_their_columns():
    key = ScratchKey(feature_layers=(Column(name="3.avg"), Column(name="3.neck")))
    assert key.plain == {"feature_layers": ["3.avg", "3.neck"], "dtype": "float32"}
    assert key != ScratchKey(feature_layers=(Column(name="3.avg"),))
