"""Law 4: the cache key is complete. Change any one of its members and the store misses."""

import dataclasses

import numpy as np
import pytest

from warmstart.features.cache import FeatureCache
from warmstart.features.cache_key import FeatureKey
from warmstart.records.inputs import Preprocessing, Sound
from warmstart.records.network import FeatureLayer

SOUND = Sound(
    sample_rate=8000, seconds=1.0, window=200, hop=40, mels=64, low=20.0, high=4000.0, range_db=40.0
)
KEY = FeatureKey(
    network="ab",
    arch="timm:x",
    blocks=("stem", "body"),
    feature_layers=(FeatureLayer(block=1, pool="avg"), FeatureLayer(block=2, pool="avg")),
    preprocessing=Preprocessing(
        size=(8, 8), resize=8, mean=(0.5,), std=(0.5,), ranges=((0.0, 9.0),), sound=SOUND
    ),
    decoder="pillow 11",
    engine="torch",
    engine_version="torch 2.8",
    threads=2,
)
EXAMPLE = "0a" * 32


def changes(value):
    """Each way to change one plain member of a value, however deep: (where, changed value)."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            for where, new in changes(getattr(value, field.name)):
                yield f".{field.name}{where}", dataclasses.replace(value, **{field.name: new})
    elif isinstance(value, tuple):
        if value:
            yield "[reversed and longer]", (*value[::-1], value[0])
        for i, item in enumerate(value):
            for where, new in changes(item):
                yield f"[{i}]{where}", (*value[:i], new, *value[i + 1 :])
    elif isinstance(value, bool):
        yield "", not value
    elif isinstance(value, (int, float)):
        yield "", value + 1
    elif isinstance(value, str):
        yield "", value + "x"
    else:
        raise TypeError(f"say here how to change a {type(value).__name__}")


CHANGES = dict(changes(KEY)) | {".dtype": dataclasses.replace(KEY, dtype="float64")}


def test_every_member_is_changed_here():
    changed = {where.lstrip(".").partition(".")[0].partition("[")[0] for where in CHANGES}
    assert changed == {field.name for field in dataclasses.fields(FeatureKey)}
    inner = {where.split(".")[2].partition("[")[0] for where in CHANGES if ".preproc" in where}
    assert inner == {field.name for field in dataclasses.fields(Preprocessing)}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = FeatureCache(tmp_path_factory.mktemp("law4"))
    with store.cache_file(KEY) as cache_file:
        cache_file.append([EXAMPLE], [np.ones((1, 2), np.float32)] * 2)
    return store


def test_the_same_key_hits(store):
    with store.cache_file(dataclasses.replace(KEY)) as cache_file:
        assert cache_file.missing([EXAMPLE]) == []


@pytest.mark.parametrize("where", CHANGES)
def test_a_changed_member_misses(store, where):
    assert CHANGES[where].digest != KEY.digest
    with store.cache_file(CHANGES[where]) as cache_file:
        assert cache_file.missing([EXAMPLE]) == [EXAMPLE]


def test_a_key_of_pictures_says_nothing_of_sounds():
    """A key without sounds lacks the member: its digest is that of a record without the field."""
    prep = Preprocessing(size=(8, 8), resize=8, mean=(0.5,), std=(0.5,))
    key = FeatureKey(
        network="ab",
        arch="timm:x",
        blocks=("stem",),
        feature_layers=(FeatureLayer(block=1, pool="avg"),),
        preprocessing=prep,
        decoder="pillow 11",
        engine="torch",
        engine_version="2.8",
        threads=2,
        cpu="x86_64",
        arithmetic="",
    )
    assert key.digest == "95b5723da31fc5674cbe94437c1f9075bb9e34331eb5ec25eb9ce44f30e1e75d"
