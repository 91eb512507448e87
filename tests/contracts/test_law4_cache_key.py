"""Law 4: the cache key is complete. Change any one of its members and the cache misses."""

import dataclasses

import numpy as np
import pytest
from networks import SAMPLES, SOUND, TABLE, pixels

from warmstart.features.cache import FeatureCache
from warmstart.features.cache_key import FeatureKey
from warmstart.records.inputs import TensorInputs, TextInputs
from warmstart.records.network import FeatureLayer

EXAMPLE = "0a" * 32
INPUTS = {
    "pictures": dataclasses.replace(pixels(8, 1), ranges=((0.0, 9.0),), sound=SOUND),
    "rows": TABLE,
    "samples": SAMPLES,
    "tensors": TensorInputs(shape=(2, 32), dtype="float32", low=-3.0, high=3.0),
    "texts": TextInputs(tokenizer="ab", length=16, most=16, pad=0, vocabulary=9, unknown=1),
}


def key_of(inputs, **changes):
    members = {
        "network": "ab",
        "arch": "timm:x",
        "blocks": ("stem", "body"),
        "feature_layers": (FeatureLayer(block=1, pool="avg"), FeatureLayer(block=2, pool="avg")),
        "preprocessing": inputs,
        "decoder": "pillow 11",
        "engine": "torch",
        "engine_version": "torch 2.8",
        "threads": 2,
    }
    return FeatureKey(**{**members, **changes})


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


@pytest.mark.parametrize("name", INPUTS)
def test_a_changed_member_misses(name, tmp_path):
    key, cache = key_of(INPUTS[name]), FeatureCache(tmp_path)
    with cache.cache_file(key) as cache_file:
        cache_file.append([EXAMPLE], [np.ones((1, 2), np.float32)] * 2)
    with cache.cache_file(dataclasses.replace(key)) as cache_file:
        assert cache_file.missing([EXAMPLE]) == []
    changed = dict(changes(key)) | {".dtype": dataclasses.replace(key, dtype="float64")}
    for where, other in changed.items():
        assert other.digest != key.digest, where
        with cache.cache_file(other) as cache_file:
            assert cache_file.missing([EXAMPLE]) == [EXAMPLE], where
    members = [where.replace("[", ".").split(".")[1:] for where in changed]
    assert {member[0] for member in members} == {f.name for f in dataclasses.fields(FeatureKey)}
    inner = {member[1] for member in members if member[0] == "preprocessing"}
    assert inner == {field.name for field in dataclasses.fields(INPUTS[name])}


def test_a_key_of_pictures_says_nothing_of_sounds():
    """A key without sounds lacks the member: its digest is that of a record without the field."""
    layers = (FeatureLayer(block=1, pool="avg"),)
    plain = {"blocks": ("stem",), "feature_layers": layers, "engine_version": "2.8"}
    key = key_of(pixels(8, 1), **plain, cpu="x86_64", arithmetic="")
    assert key.digest == "95b5723da31fc5674cbe94437c1f9075bb9e34331eb5ec25eb9ce44f30e1e75d"
