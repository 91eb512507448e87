"""What names the rows of an engine and the activations of the frozen blocks (law 4: of both)."""

from dataclasses import fields, replace
from importlib.metadata import PackageNotFoundError
from typing import get_args

import numpy as np
import pytest

from warmstart.features import cache_key
from warmstart.features.cache import FeatureCache
from warmstart.features.cache_key import (
    ENGINE_TITLES,
    MAIN,
    ActivationKey,
    EngineName,
    FeatureKey,
    engine_version,
    installed_engines,
)
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import FeatureLayer

ALL = get_args(EngineName)


@pytest.fixture
def installed(monkeypatch):
    """The packages that seem to be installed."""
    versions = {"torch": "2.8", "onnxruntime": "1.20", "openvino": "2025.1"}

    def version_of(name):
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(cache_key, "version_of", version_of)
    return versions


@pytest.mark.parametrize(
    ("package", "changed"),
    [("torch", ALL), ("onnxruntime", ("onnxruntime",)), ("openvino", ("openvino",))],
)
def test_another_version_gives_other_rows_of_the_engines_that_use_it(installed, package, changed):
    before = {name: engine_version(name) for name in ALL}
    installed[package] = "99"
    assert tuple(name for name in ALL if engine_version(name) != before[name]) == changed


@pytest.mark.parametrize("gone", ["onnxruntime", "openvino"])
def test_what_is_not_installed_is_not_offered(installed, gone):
    assert installed_engines() == ALL
    del installed[gone]
    assert installed_engines() == tuple(n for n in ALL if n != gone)
    with pytest.raises(PackageNotFoundError):
        engine_version(gone)
    assert ENGINE_TITLES.keys() == set(ALL)


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
AVG = [FeatureLayer(block=block, pool="avg") for block in (1, 2)]
KEY = ActivationKey(extraction=EXTRACTION, cut=2, layers=tuple(AVG), dtype="float32")
EXAMPLE = "0a" * 32
CHANGED = {
    "network": "abc",
    "arch": "timm:y",
    "blocks": ("stem", "body", "top"),
    "decoder": "pillow 12",
    "preprocessing": replace(EXTRACTION.preprocessing, resize=9),
    "engine": "traced",
    "engine_version": "torch 2.9",
    "threads": 3,
    "augmentation": "crop=0.35 seed=0 view=2",
    "arithmetic": "COMPATIBLE",
    "cpu": "another",
    "batch": 33,
    "version": EXTRACTION.version + 1,
}
KEYS = [replace(KEY, extraction=replace(EXTRACTION, **{k: v})) for k, v in CHANGED.items()] + [
    replace(KEY, cut=1),
    replace(KEY, layers=KEY.layers[:1]),
    replace(KEY, layers=KEY.layers[::-1]),
    replace(KEY, layers=(AVG[0], FeatureLayer(block=2, pool="grid2"))),
    replace(KEY, dtype="float16"),
]


def test_the_key_of_activations_is_complete(tmp_path):
    members = {field.name for field in fields(FeatureKey)}  # less the two of the activations' own
    assert members - {"feature_layers", "dtype"} == CHANGED.keys()
    assert len({key.digest for key in (KEY, EXTRACTION, *KEYS)}) == len(KEYS) + 2
    cache = FeatureCache(tmp_path)
    with cache.cache_file(KEY) as cache_file:
        cache_file.append([EXAMPLE], [np.ones((1, 5), np.float32)] * 3)
    with cache.cache_file(replace(KEY)) as cache_file:
        assert cache_file.missing([EXAMPLE]) == []
        assert list(cache_file.columns) == [MAIN, "1.avg", "2.avg"]
    for key in KEYS:
        with cache.cache_file(key) as cache_file:
            assert cache_file.missing([EXAMPLE]) == [EXAMPLE]
