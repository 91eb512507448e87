"""An extraction runs each missing example once, stores what it computes, is reproducible."""

import errno
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from detailed_images import training_data
from extraction import collect, look_at
from hue_images import draw
from tiny import PREP
from warmstart.data import thumbnails
from warmstart.data.thumbnails import make_thumbnail, unpack
from warmstart.errors import DataError
from warmstart.events import drain
from warmstart.features import cache, extraction
from warmstart.features.cache import FeatureCache
from warmstart.features.cache_key import BATCH, FeatureKey, ThumbnailKey
from warmstart.features.extraction import (
    AHEAD,
    ExampleSource,
    MissingExample,
    Prefetch,
    StoredThumbnails,
    ThumbnailWriter,
    extract,
    first_of_each,
)
from warmstart.modalities.image import ImageModality, decode, draft_side
from warmstart.records.data import Example
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import FeatureLayer
from warmstart.run.cleaning import near_duplicate_pairs

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


class Worker:
    """Decodes and runs images as an engine would, and counts both."""

    def __init__(self, broken=(), error=DataError, stop_at=None):
        self.broken, self.error, self.stop_at = broken, error, stop_at
        self.decoded, self.batches, self.n_engines = [], [], 0

    def decode(self, one):
        self.decoded.append(one.id)
        if one.id in self.broken:
            raise self.error(f"{one.id} is truncated")
        return pixels(one)

    def make_engine(self):
        self.n_engines += 1
        return self.engine

    def engine(self, images):
        self.batches.append(len(images))
        if len(self.batches) == self.stop_at:
            raise KeyboardInterrupt
        flat = images.reshape(len(images), -1).astype(np.float32)
        return [flat[:, :3] / 255, flat[:, 3:8] - 7]


def steps_of(root, examples, worker):
    """Extraction as a run does it: ask the cache file, decode ahead, extract."""
    folder_cache = FeatureCache(root)
    known = folder_cache.quarantined(KEY.decoder)
    cache_file = folder_cache.cache_file(KEY)
    readable = [one.sha256 for one in examples if one.sha256 not in known]
    todo = first_of_each(examples, cache_file.missing(readable))
    source = ExampleSource(
        cache_file=cache_file,
        feature_cache=folder_cache,
        decoder=KEY.decoder,
        todo=todo,
        decode=worker.decode,
        engine=worker.make_engine() if todo else None,
    )
    return extract(examples, source)


def extracted(root, examples, worker=None):
    return drain(steps_of(root, examples, worker or Worker()))


def check(features, examples):
    """The rows are those that the engine computes one image at a time."""
    rows = [Worker().engine(pixels(one)[None]) for one in examples]
    for layer, expected in zip(FEATURE_LAYERS, zip(*rows, strict=True), strict=True):
        np.testing.assert_array_equal(features.reader(examples)(layer), np.concatenate(expected))


def test_each_image_is_run_once_and_then_no_more(tmp_path):
    worker = Worker()
    features = extracted(tmp_path, EXAMPLES, worker)
    assert (features.n_extracted, features.n_decoded, worker.n_engines) == (N, N, 1)
    assert sorted(worker.decoded) == sorted(one.id for one in EXAMPLES)
    assert worker.batches == [BATCH, BATCH, N - 2 * BATCH]
    check(features, EXAMPLES[::-1])
    worker = Worker()
    again = extracted(tmp_path, EXAMPLES, worker)
    assert (again.n_extracted, again.n_decoded, worker.n_engines, worker.decoded) == (0, 0, 0, [])
    check(again, EXAMPLES)


def test_fifty_more_images_cost_fifty_runs_and_copies_none(tmp_path):
    extracted(tmp_path, EXAMPLES[:25])
    worker, copies = Worker(), [example(100 + i, copy_of=i) for i in range(50)]
    grown = extracted(tmp_path, [*EXAMPLES, *copies], worker)
    assert (grown.n_extracted, grown.n_decoded, len(worker.decoded)) == (50, 50, 50)
    check(grown, [*EXAMPLES, *copies])


@pytest.mark.parametrize("error", [DataError, MissingExample])
def test_unreadable_images_are_listed_and_not_decoded_again(tmp_path, error):
    """A file that vanished is left out, but that is not held against its bytes."""
    broken = ["3.png", "40.png"]
    features = extracted(tmp_path, EXAMPLES, Worker(broken, error))
    assert features.unreadable == {id: f"{id} is truncated" for id in broken}
    assert (features.n_extracted, features.n_decoded) == (N - 2, N)
    check(features, [one for one in EXAMPLES if one.id not in broken])
    with pytest.raises(KeyError):
        features.reader([EXAMPLES[3]])(FEATURE_LAYERS[0])
    worker = Worker()
    again = extracted(tmp_path, EXAMPLES, worker)
    assert sorted(worker.decoded) == ([] if error is DataError else broken)
    assert again.unreadable == (features.unreadable if error is DataError else {})


def test_an_extraction_that_is_stopped_keeps_its_rows_and_goes_on_from_there(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        extracted(tmp_path / "killed", EXAMPLES, Worker(stop_at=3))
    steps = steps_of(tmp_path / "closed", EXAMPLES, Worker())
    while next(steps).kind != "step":
        pass
    steps.close()
    for name, n in (("killed", 2 * BATCH), ("closed", BATCH)):
        assert FeatureCache(tmp_path / name).info().rows == n
        features = extracted(tmp_path / name, EXAMPLES)
        assert features.n_extracted == N - n
        check(features, EXAMPLES)


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_an_os_error(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_write_all", full)
    with pytest.raises(OSError, match="No space left"):
        extracted(tmp_path, EXAMPLES)
    monkeypatch.undo()
    assert extracted(tmp_path, EXAMPLES).n_extracted == N


def test_events_count_images_up_to_the_end(tmp_path):
    events = list(steps_of(tmp_path, EXAMPLES, Worker(broken=["3.png"])))
    assert [event.kind for event in events] == ["begin", *["step"] * 3, "end"]
    assert {event.stage for event in events} == {"features"}
    assert events[0].values == {"total": N, "missing": N}
    assert [event.step for event in events[1:]] == sorted(event.step for event in events[1:])
    assert (events[-1].step, events[-1].of) == (N, N)
    assert events[-1].values == {"passed": N - 1, "decoded": N, "unreadable": 1}


@pytest.mark.parametrize(
    ("seconds", "n_bytes", "n_stored"),
    [
        (1e9, 10**9, [N]),
        (1e9, 8 * 4 * BATCH, [2 * BATCH, N - 2 * BATCH]),
        (-1.0, 10**9, [BATCH, BATCH, N - 2 * BATCH]),
        (1e9, 0, [BATCH, BATCH, N - 2 * BATCH]),
    ],
)
def test_rows_wait_for_a_while_and_never_too_many(
    tmp_path, monkeypatch, seconds, n_bytes, n_stored
):
    monkeypatch.setattr(extraction, "FLUSH_S", seconds)
    monkeypatch.setattr(extraction, "FLUSH_BYTES", n_bytes)
    appended, append = [], cache.CacheFile.append
    monkeypatch.setattr(
        cache.CacheFile,
        "append",
        lambda self, hashes, layers: (appended.append(len(hashes)), append(self, hashes, layers)),
    )
    check(extracted(tmp_path, EXAMPLES), EXAMPLES)
    assert appended == n_stored


# ---- decoding ahead


def test_order_does_not_depend_on_which_thread_is_slow():
    def slow(one):
        time.sleep(0.004 if int(one.id[:-4]) % 3 == 0 else 0)
        return pixels(one)

    prefetch = Prefetch(EXAMPLES, slow, threads=2)
    assert [one.id for one, _ in prefetch] == [one.id for one in EXAMPLES]
    prefetch.close()


def test_decoding_begins_at_once_and_stays_a_bounded_number_ahead():
    many, worker = [example(i) for i in range(AHEAD + 60)], Worker()
    prefetch = Prefetch(many, worker.decode)
    deadline = time.monotonic() + 5
    while len(worker.decoded) < AHEAD and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)  # time to run on, if nothing held it back
    assert len(worker.decoded) == AHEAD
    assert len(list(prefetch)) == len(many)
    prefetch.close()
    worker = Worker()
    prefetch = Prefetch(EXAMPLES, lambda one: (time.sleep(0.02), worker.decode(one)))
    prefetch.close()  # drops what has not begun
    assert len(worker.decoded) <= 2


# ---- thumbnails: put from any thread, stored across crashes

THUMBNAIL_KEY = ThumbnailKey(decoder="pillow 11", draft=32, version=1)
NAMES = [one.sha256 for one in EXAMPLES[:40]]
WIDTH = 7


def thumbnails_of(names):
    """Thumbnails that the contents alone decide."""
    return [np.frombuffer(bytes.fromhex(name)[:WIDTH], np.uint8) for name in names]


def writer_at(root, names=(), key=THUMBNAIL_KEY):
    writer = ThumbnailWriter(FeatureCache(root), key)
    for name, thumbnail in zip(names, thumbnails_of(names), strict=True):
        writer.put(name, thumbnail)
    return writer


def test_thumbnails_come_back_in_the_requested_order(tmp_path):
    writer = writer_at(tmp_path, NAMES[:6])
    assert writer.missing([NAMES[9], NAMES[1], NAMES[8], NAMES[9]]) == [NAMES[9], NAMES[8]]
    names = [NAMES[4], NAMES[0], NAMES[4]]
    result = writer.read(names)  # flushes
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, thumbnails_of(names))
    assert writer.read([]).shape[0] == 0
    with pytest.raises(KeyError, match=NAMES[9]):
        writer.read([NAMES[0], NAMES[9]])
    other = writer_at(tmp_path, NAMES[5:8])  # of two writers each sees the other's
    np.testing.assert_array_equal(other.read(NAMES[:8]), thumbnails_of(NAMES[:8]))
    for change in ({"decoder": "pillow 12"}, {"draft": 64}, {"version": 2}):
        key = replace(THUMBNAIL_KEY, **change)
        assert writer_at(tmp_path, key=key).missing(NAMES[:2]) == NAMES[:2]


def test_many_threads_put_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "_FLUSH", 3)  # so that they write at once, too
    writer = writer_at(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: writer.put(name, *thumbnails_of([name])), NAMES * 3))
    assert writer.missing(NAMES) == []
    np.testing.assert_array_equal(writer.read(NAMES), thumbnails_of(NAMES))
    np.testing.assert_array_equal(writer_at(tmp_path).read(NAMES), thumbnails_of(NAMES))


def test_a_killed_process_and_a_full_disk_lose_the_last_few_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "_FLUSH", 10)
    writer = writer_at(tmp_path, NAMES[:25])
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_write_all", full)
        with pytest.raises(OSError, match="No space"):
            writer.flush()
    del writer  # killed
    again = writer_at(tmp_path)
    assert again.missing(NAMES[:25]) == NAMES[20:25]
    np.testing.assert_array_equal(again.read(NAMES[:20]), thumbnails_of(NAMES[:20]))


# ---- the features of a data set


@pytest.fixture
def counts(monkeypatch):
    """How many images were decoded, and how many thumbnails made, since it was cleared."""
    counts = []

    def counting(name, work):
        return lambda *args, **options: (counts.append(name), work(*args, **options))[1]

    monkeypatch.setattr(ImageModality, "open", counting("decode", ImageModality.open))
    monkeypatch.setattr(thumbnails, "make_thumbnail", counting("thumbnail", make_thumbnail))
    return counts


def checked(collection, counts, n_decoded, n_thumbnails, network="convolutions"):
    """An extraction, with the thumbnails that decoding one image after the other gives."""
    counts.clear()
    result, _ = look_at(collection, network)
    assert (counts.count("decode"), counts.count("thumbnail")) == (n_decoded, n_thumbnails)
    rows = []
    for one in collection.record.examples:
        payload = collection.load(one.id)
        rows.append(make_thumbnail(payload, decode(payload, one.id, draft=draft_side(PREP))))
    expected, ours = unpack(np.stack(rows)), result.thumbnails(collection.record.examples)
    for name in ("grey", "colour", "border", "width", "height", "n_bytes", "is_colour", "format"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(expected, name))
    return result


def remove_thumbnails(root):
    """Remove the cache file whose key names no network."""
    for about in root.glob("*.json"):
        if '"network"' not in about.read_text():
            paths = [*root.glob(f"{about.stem}.*")]
    assert len(paths) == 3
    for path in paths:
        path.unlink()


def test_each_image_has_a_thumbnail_that_serves_every_base_model(pictures, tmp_path, counts):
    (pictures / "blue" / "copy.png").write_bytes((pictures / "blue" / "000.png").read_bytes())
    collection = collect(pictures)
    first = checked(collection, counts, 36, 36)
    checked(collection, counts, 36, 0, "layers")
    again = checked(collection, counts, 0, 0)
    examples = collection.record.examples
    for layer in first.feature_layers:
        np.testing.assert_array_equal(first.reader(examples)(layer), again.reader(examples)(layer))
    remove_thumbnails(tmp_path / "cache")
    assert checked(collection, counts, 36, 36).features.n_extracted == 0
    draw(np.random.default_rng(9), 0).save(pictures / "blue" / "new.png")
    checked(collect(pictures), counts, 1, 1)


def test_what_cannot_be_read_has_no_thumbnail(pictures):
    (pictures / "blue" / "torn.png").write_bytes(b"\x89PNG nothing")
    for _ in range(2):
        collection = collect(pictures)
        result, _ = look_at(collection)
        assert result.unreadable.keys() == {"blue/torn.png"}
        (torn,) = [e for e in collection.record.examples if e.id == "blue/torn.png"]
        with pytest.raises(KeyError):
            result.thumbnails([torn])
        readable = [e for e in collection.record.examples if e is not torn]
        assert len(result.thumbnails(readable).grey) == 36


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_a_file_that_vanished_is_reported(pictures, tmp_path, is_stored, harm):
    """Whether its features are stored or not: its thumbnail is not, and cannot be made."""
    collection, path = collect(pictures), pictures / "red" / "003.png"
    if is_stored:
        look_at(collection)
        remove_thumbnails(tmp_path / "cache")
    path.unlink()
    if harm == "changed":
        Image.new("RGB", (9, 9)).save(path)
    result, _ = look_at(collection)
    assert result.unreadable.keys() == {"red/003.png"}
    reason = "can no longer be read" if harm == "gone" else "changed while the run was going on"
    assert reason in result.unreadable["red/003.png"]
    rest = [e for e in collection.record.examples if e.id not in result.unreadable]
    assert len(result.thumbnails(rest).grey) == 35
    if harm == "gone":  # nothing is remembered against bytes that were not seen
        draw(np.random.default_rng(9), 0).save(path)
    assert look_at(collect(pictures))[0].unreadable == {}


# ---- thumbnails of many examples: read on demand


@pytest.fixture(scope="module")
def thumbnailed(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for number in range(12):
        path = root / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        training_data(number, width=90 + 5 * number).save(path)
    training_data(3, width=105).resize((150, 170)).save(root / "b" / "again.jpg")
    collection = collect(root)
    return collection, look_at(collection)[0]


@pytest.mark.parametrize("limit", [100, 5])
def test_what_is_read_by_rows_is_what_is_stored(thumbnailed, monkeypatch, limit):
    collection, result = thumbnailed
    examples, read, requested = collection.record.examples, type(result).thumbnails, []
    whole = result.thumbnails(examples)
    monkeypatch.setattr(extraction, "MAX_IN_MEMORY", limit)
    monkeypatch.setattr(extraction, "_ROWS", 4)
    stored = StoredThumbnails(result, examples)
    assert len(stored) == len(stored.grey) == len(examples)
    for rows in (np.array([7, 2, 7]), slice(3, 9), slice(None), np.array([], dtype=int)):
        np.testing.assert_array_equal(stored.grey[rows], whole.grey[rows])
        np.testing.assert_array_equal(stored.colour[rows], whole.colour[rows])
    np.testing.assert_array_equal(stored.of(np.array([4, 1])).border, whole.border[[4, 1]])
    monkeypatch.setattr(
        type(result), "thumbnails", lambda s, rows: (requested.append(len(rows)), read(s, rows))[1]
    )
    for name in ("width", "height", "n_bytes", "is_colour", "format"):
        np.testing.assert_array_equal(getattr(stored.files, name), getattr(whole, name))
    assert requested == ([] if limit == 100 else [4, 4, 4, 1])  # never all at once, and once
    assert near_duplicate_pairs(collection, result) == (("b/03.png", "b/again.jpg"),)
