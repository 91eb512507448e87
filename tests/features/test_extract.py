"""An extraction runs each missing example once, stores what it computes, is reproducible."""

import errno
import hashlib
import time

import numpy as np
import pytest

from warmstart.errors import DataError
from warmstart.events import drain
from warmstart.features import cache as features_cache
from warmstart.features import extraction as features_extraction
from warmstart.features.cache import FeatureCache
from warmstart.features.cache_key import BATCH, FeatureKey
from warmstart.features.extraction import (
    AHEAD,
    ExampleSource,
    MissingExample,
    Prefetch,
    extract,
    first_of_each,
)
from warmstart.records.data import Example
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import FeatureLayer

FEATURE_LAYERS = (FeatureLayer(block=1, pool="avg"), FeatureLayer(block=2, pool="avg"))
KEY = FeatureKey(
    network="ab",
    arch="timm:x",
    blocks=("stem", "body"),
    feature_layers=FEATURE_LAYERS,
    preprocessing=Preprocessing(size=(4, 4), resize=4, mean=(0.5,) * 3, std=(0.5,) * 3),
    decoder="pillow 11",
    engine="torch",
    engine_version="torch 2.8",
    threads=2,
)
DECODER = KEY.decoder
N = 75


def example(i, copy_of=None):
    content = i if copy_of is None else copy_of
    digest = hashlib.sha256(content.to_bytes(2, "big")).hexdigest()
    return Example(id=f"{i}.png", label="x", split="train", sha256=digest)


EXAMPLES = [example(i) for i in range(N)]


def pixels(one):
    """An image that its content alone decides."""
    rng = np.random.default_rng(int(one.sha256[:8], 16))
    return rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)


def expected(examples):
    """The two feature layers as `Worker.engine` computes them, one image at a time."""
    rows = [Worker().engine(pixels(one)[None]) for one in examples]
    return [np.concatenate(layer) for layer in zip(*rows, strict=True)]


class Worker:
    """Decodes and passes as an engine would, and counts both."""

    def __init__(self, broken=(), stop_at_pass=None):
        self.broken, self.stop_at_pass = set(broken), stop_at_pass
        self.decoded, self.batches, self.engines = [], [], 0

    def decode(self, one):
        self.decoded.append(one.id)
        if one.id in self.broken:
            raise DataError(f"{one.id} is truncated")
        return pixels(one)

    def make_engine(self):
        self.engines += 1
        return self.engine

    def engine(self, images):
        self.batches.append(len(images))
        if len(self.batches) == self.stop_at_pass:
            raise KeyboardInterrupt
        flat = images.reshape(len(images), -1).astype(np.float32)
        return [flat[:, :3] / 255, flat[:, 3:8] - 7]


def steps_of(root, examples, worker):
    """Extraction as the flow takes it: ask the cache file, decode ahead, extract."""
    cache = FeatureCache(root)
    known = cache.quarantined(DECODER)
    cache_file = cache.cache_file(KEY)
    readable = [one.sha256 for one in examples if one.sha256 not in known]
    todo = first_of_each(examples, cache_file.missing(readable))
    return extract(
        examples,
        ExampleSource(
            cache_file=cache_file,
            feature_cache=cache,
            decoder=DECODER,
            todo=todo,
            decode=worker.decode,
            engine=worker.make_engine() if todo else None,
        ),
    )


def extracted(root, examples, worker):
    return drain(steps_of(root, examples, worker))


def all_bytes(features, examples):
    return [features.read(examples, layer).tobytes() for layer in FEATURE_LAYERS]


def test_every_example_has_its_own_rows_in_the_requested_order(tmp_path):
    features = extracted(tmp_path, EXAMPLES, Worker())
    backwards = EXAMPLES[::-1]
    for layer, slow in zip(FEATURE_LAYERS, expected(backwards), strict=True):
        np.testing.assert_array_equal(features.read(backwards, layer), slow)


def test_a_first_extraction_runs_each_image_once(tmp_path):
    worker = Worker()
    features = extracted(tmp_path, EXAMPLES, worker)
    assert (features.n_extracted, features.n_decoded, worker.engines) == (N, N, 1)
    assert sorted(worker.decoded) == sorted(one.id for one in EXAMPLES)
    assert worker.batches == [BATCH, BATCH, N - 2 * BATCH]


def test_a_second_extraction_decodes_nothing_and_makes_no_engine(tmp_path):
    first = extracted(tmp_path, EXAMPLES, Worker())
    worker = Worker()
    second = extracted(tmp_path, EXAMPLES, worker)
    assert (second.n_extracted, second.n_decoded, worker.engines, worker.decoded) == (0, 0, 0, [])
    assert all_bytes(first, EXAMPLES) == all_bytes(second, EXAMPLES)


def test_fifty_more_images_cost_fifty_runs_and_change_no_bit(tmp_path):
    extracted(tmp_path / "grown", EXAMPLES[:25], Worker())
    worker = Worker()
    grown = extracted(tmp_path / "grown", EXAMPLES, worker)
    assert (grown.n_extracted, grown.n_decoded, len(worker.decoded)) == (50, 50, 50)
    whole = extracted(tmp_path / "whole", EXAMPLES, Worker())
    assert all_bytes(grown, EXAMPLES) == all_bytes(whole, EXAMPLES)


def test_equal_bytes_are_extracted_once(tmp_path):
    examples = [*EXAMPLES[:10], *(example(100 + i, copy_of=i) for i in range(10))]
    worker = Worker()
    features = extracted(tmp_path, examples, worker)
    assert (features.n_extracted, len(worker.decoded)) == (10, 10)
    np.testing.assert_array_equal(
        features.read(examples[:10], FEATURE_LAYERS[0]),
        features.read(examples[10:], FEATURE_LAYERS[0]),
    )


def test_unreadable_images_are_listed_and_the_extraction_goes_on(tmp_path):
    features = extracted(tmp_path, EXAMPLES, Worker(broken=["3.png", "40.png"]))
    reasons = {"3.png": "3.png is truncated", "40.png": "40.png is truncated"}
    assert features.unreadable == reasons
    assert (features.n_extracted, features.n_decoded) == (N - 2, N)
    good = [one for one in EXAMPLES if one.id not in features.unreadable]
    np.testing.assert_array_equal(features.read(good, FEATURE_LAYERS[1]), expected(good)[1])
    with pytest.raises(KeyError):
        features.read([EXAMPLES[3]], FEATURE_LAYERS[0])


def test_unreadable_images_are_not_decoded_again(tmp_path):
    extracted(tmp_path, EXAMPLES, Worker(broken=["3.png"]))
    worker = Worker(broken=["3.png"])
    features = extracted(tmp_path, EXAMPLES, worker)
    assert worker.decoded == []
    assert features.unreadable == {"3.png": "3.png is truncated"}


def test_an_interrupted_extraction_keeps_its_rows_and_goes_on_from_there(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        extracted(tmp_path, EXAMPLES, Worker(stop_at_pass=3))
    assert FeatureCache(tmp_path).info().rows == 2 * BATCH
    features = extracted(tmp_path, EXAMPLES, Worker())
    assert features.n_extracted == N - 2 * BATCH
    np.testing.assert_array_equal(features.read(EXAMPLES, FEATURE_LAYERS[0]), expected(EXAMPLES)[0])


def test_a_extraction_that_its_caller_closes_keeps_its_rows(tmp_path):
    steps = steps_of(tmp_path, EXAMPLES, Worker())
    while next(steps).kind != "step":
        pass
    steps.close()
    assert FeatureCache(tmp_path).info().rows == BATCH


def test_a_full_disk_is_an_os_error(tmp_path, monkeypatch):
    def full(file, block):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(features_cache, "_write_all", full)
    with pytest.raises(OSError, match="No space left"):
        extracted(tmp_path, EXAMPLES, Worker())
    monkeypatch.undo()
    assert extracted(tmp_path, EXAMPLES, Worker()).n_extracted == N


def test_events_count_images_up_to_the_end(tmp_path):
    events = list(steps_of(tmp_path, EXAMPLES, Worker(broken=["3.png"])))
    assert [event.kind for event in events] == ["begin", *["step"] * 3, "end"]
    assert {event.stage for event in events} == {"features"}
    assert events[0].values == {"total": N, "missing": N}
    assert [event.step for event in events[1:]] == sorted(event.step for event in events[1:])
    assert (events[-1].step, events[-1].of) == (N, N)
    assert events[-1].values == {"passed": N - 1, "decoded": N, "unreadable": 1}


def test_order_does_not_depend_on_which_thread_is_slow():
    def slow(one):
        time.sleep(0.004 if int(one.id[:-4]) % 3 == 0 else 0)
        return pixels(one)

    prefetch = Prefetch(EXAMPLES, slow, threads=2)
    assert [one.id for one, _ in prefetch] == [one.id for one in EXAMPLES]
    prefetch.close()


def test_decoding_begins_at_once_and_stays_a_bounded_number_ahead():
    many = [example(i) for i in range(AHEAD + 60)]
    worker = Worker()
    prefetch = Prefetch(many, worker.decode)
    deadline = time.monotonic() + 5
    while len(worker.decoded) < AHEAD and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)  # time to run on, if nothing held it back
    assert len(worker.decoded) == AHEAD
    assert len(list(prefetch)) == len(many)
    prefetch.close()


def test_a_closed_prefetch_drops_what_has_not_begun():
    worker = Worker()
    prefetch = Prefetch(EXAMPLES, lambda one: (time.sleep(0.02), worker.decode(one))[1])
    prefetch.close()
    assert len(worker.decoded) <= 2


def test_a_file_that_vanished_is_left_out_but_not_held_against_its_bytes(tmp_path):
    class Moved(Worker):
        def decode(self, one):
            if one.id == "3.png":
                raise MissingExample("3.png can no longer be read")
            return super().decode(one)

    features = extracted(tmp_path, EXAMPLES, Moved())
    assert set(features.unreadable) == {"3.png"}
    again = extracted(tmp_path, EXAMPLES, Worker())
    assert again.unreadable == {}
    assert again.n_extracted == 1


@pytest.mark.parametrize(
    ("seconds", "n_bytes", "stored"),
    [
        (1e9, 10**9, [N]),
        (1e9, 8 * 4 * BATCH, [2 * BATCH, N - 2 * BATCH]),
        (-1.0, 10**9, None),
        (1e9, 0, None),
    ],
)
def test_rows_wait_for_a_while_and_never_too_many(tmp_path, monkeypatch, seconds, n_bytes, stored):
    monkeypatch.setattr(features_extraction, "FLUSH_S", seconds)
    monkeypatch.setattr(features_extraction, "FLUSH_BYTES", n_bytes)
    appended, plain = [], features_cache.CacheFile.append
    monkeypatch.setattr(
        features_cache.CacheFile,
        "append",
        lambda self, hashes, feature_layers: (
            appended.append(len(hashes)) or plain(self, hashes, feature_layers)
        ),
    )
    features = extracted(tmp_path, EXAMPLES, Worker())
    assert appended == (stored or [BATCH, BATCH, N - 2 * BATCH])
    for layer, rows in zip(FEATURE_LAYERS, expected(EXAMPLES), strict=True):
        np.testing.assert_array_equal(features.read(EXAMPLES, layer), rows)
