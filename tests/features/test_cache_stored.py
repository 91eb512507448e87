"""Stored features as a source: all at once, some, and a few at a time are the same."""

import hashlib

import numpy as np
import pytest

from warmstart.errors import ModelError
from warmstart.features import cache
from warmstart.features.cache import FeatureCache, StoredFeatures
from warmstart.features.cache_key import FeatureKey
from warmstart.records.data import Example
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import FeatureLayer
from warmstart.solve.kernels import Chunked

N, WIDTHS = 30, (3, 5)
SMALL, LARGE = FeatureLayer(block=1, pool="avg"), FeatureLayer(block=2, pool="neck")
KEY = FeatureKey(
    network="ab",
    arch="timm:x",
    blocks=("stem", "body"),
    feature_layers=(SMALL, LARGE),
    preprocessing=Preprocessing(size=(8, 8), resize=8, mean=(0.5,), std=(0.5,)),
    decoder="pillow 11",
    engine="torch",
    engine_version="torch 2.8",
    threads=2,
)


def examples():
    hashes = [hashlib.sha256(bytes([n])).hexdigest() for n in range(N)]
    return tuple(
        Example(id=f"{n}.png", label="a", split="train", sha256=h) for n, h in enumerate(hashes)
    )


def table(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(N, width)).astype(np.float32) for width in WIDTHS]


@pytest.fixture
def cache_file(tmp_path):
    with FeatureCache(tmp_path).cache_file(KEY) as opened:
        opened.append([e.sha256 for e in examples()], table())
        yield opened


def joined(reader, feature_layers):
    result = [*reader.chunks(feature_layers)]
    return {
        layer: np.concatenate([chunk[layer] for chunk in result]) for layer in feature_layers
    }, result


@pytest.mark.parametrize("feature_layers", [[SMALL], [LARGE], [SMALL, LARGE], [LARGE, SMALL]])
@pytest.mark.parametrize("n_bytes", [1, 100, 10**6])
def test_chunks_are_all_rows_in_order(cache_file, monkeypatch, feature_layers, n_bytes):
    monkeypatch.setattr(cache, "CHUNK_BYTES", n_bytes)
    monkeypatch.setattr(cache, "CHUNK_ROWS", 11)
    reader = StoredFeatures(cache_file, examples())
    result, blocks = joined(reader, feature_layers)
    for layer in feature_layers:
        np.testing.assert_array_equal(result[layer], table()[KEY.feature_layers.index(layer)])
        np.testing.assert_array_equal(result[layer], reader(layer))
    assert max(len(chunk[feature_layers[0]]) for chunk in blocks) <= min(11, max(n_bytes // 12, 1))
    assert isinstance(reader, Chunked)


def test_some_rows_in_their_order(cache_file):
    reader = StoredFeatures(cache_file, examples()).some(np.array([7, 2, 7])).some(np.array([1, 0]))
    np.testing.assert_array_equal(reader(LARGE), table()[1][[2, 7]])
    np.testing.assert_array_equal(joined(reader, [LARGE])[0][LARGE], table()[1][[2, 7]])


def test_of_no_examples_there_are_no_rows(cache_file):
    result, _ = joined(StoredFeatures(cache_file, ()), [SMALL, LARGE])
    assert [values.shape for values in result.values()] == [(0, 3), (0, 5)]


def test_an_example_that_is_not_there_is_a_key_error(cache_file):
    stranger = Example(id="x", label="a", split="train", sha256="0" * 64)
    with pytest.raises(KeyError, match="0" * 64):
        StoredFeatures(cache_file, (stranger,))(SMALL)
    with pytest.raises(KeyError, match="0" * 64):
        joined(StoredFeatures(cache_file, (*examples(), stranger)), [LARGE])


def test_values_that_are_no_numbers_are_counted_over_all_examples(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK_ROWS", 4)
    values = table()
    values[1][[5, 20], 2] = np.nan, np.inf
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        cache_file.append([e.sha256 for e in examples()], values)
        reader = StoredFeatures(cache_file, examples())
        reader(SMALL)
        said = r"not numbers for 2 of 30 images \(first: 5.png, at block 2\)"
        for ask in (
            lambda: reader(LARGE),
            lambda: joined(reader, [SMALL, LARGE]),
            lambda: reader.some(np.arange(15, 25))(LARGE),
        ):
            with pytest.raises(ModelError, match=said):
                ask()
