"""Extraction: features and thumbnails of every image, each made once, and what cannot be read."""

import numpy as np
import pytest
from PIL import Image

from extraction import collect, look_at
from hue_images import draw
from tiny import PREP
from warmstart.data import thumbnails
from warmstart.data.thumbnails import make_thumbnail, unpack
from warmstart.modalities.image import ImageModality, decode, draft_side


def by_hand(collection):
    """Every image decoded and made a thumbnail of, one after the other."""
    rows = []
    for example in collection.record.examples:
        payload = collection.load(example.id)
        rows.append(make_thumbnail(payload, decode(payload, example.id, draft=draft_side(PREP))))
    return unpack(np.stack(rows))


def same_thumbnails(extracted, collection):
    result, truth = extracted.thumbnails(collection.record.examples), by_hand(collection)
    for name in ("grey", "colour", "border", "width", "height", "n_bytes", "is_colour", "format"):
        np.testing.assert_array_equal(getattr(result, name), getattr(truth, name))


def thumbnail_files(root):
    """The files of thumbnails in a cache: the cache file whose key names no network."""
    return [
        path
        for about in root.glob("*.json")
        if '"network"' not in about.read_text()
        for path in root.glob(f"{about.stem}.*")
    ]


@pytest.fixture
def cache(tmp_path):
    """Where the cache of this test lies (conftest)."""
    return tmp_path / "cache"


def counted(monkeypatch):
    """How many images were decoded, and how many thumbnails made."""
    counts = {"decode": 0, "thumbnail": 0}

    def counting(name, work):
        def call(*args, **options):
            counts[name] += 1
            return work(*args, **options)

        return call

    monkeypatch.setattr(ImageModality, "open", counting("decode", ImageModality.open))
    monkeypatch.setattr(
        thumbnails, "make_thumbnail", counting("thumbnail", thumbnails.make_thumbnail)
    )
    return counts


def test_a_extraction_leaves_a_thumbnail_at_every_image(pictures, monkeypatch):
    counts, collection = counted(monkeypatch), collect(pictures)
    extracted, _ = look_at(collection)
    assert counts == {"decode": 36, "thumbnail": 36}
    same_thumbnails(extracted, collection)


def test_one_thumbnail_serves_every_base_model(pictures, monkeypatch):
    collection = collect(pictures)
    look_at(collection)
    counts = counted(monkeypatch)
    extracted, _ = look_at(collection, "layers")
    assert counts == {"decode": 36, "thumbnail": 0}
    same_thumbnails(extracted, collection)


def test_a_second_extraction_decodes_nothing(pictures, monkeypatch):
    collection = collect(pictures)
    first, _ = look_at(collection)
    counts = counted(monkeypatch)
    second, _ = look_at(collection)
    assert counts == {"decode": 0, "thumbnail": 0}
    examples = collection.record.examples
    for layer in first.feature_layers:
        np.testing.assert_array_equal(first.reader(examples)(layer), second.reader(examples)(layer))


def test_lost_thumbnails_are_made_again_without_the_network(pictures, cache, monkeypatch):
    collection = collect(pictures)
    look_at(collection)
    paths = thumbnail_files(cache)
    assert len(paths) == 3
    for path in paths:
        path.unlink()
    counts = counted(monkeypatch)
    extracted, _ = look_at(collection)
    assert extracted.features.n_extracted == 0
    assert counts == {"decode": 36, "thumbnail": 36}
    same_thumbnails(extracted, collection)


def test_added_images_are_the_only_ones_that_get_a_thumbnail(pictures, monkeypatch):
    look_at(collect(pictures))
    draw(np.random.default_rng(9), 0).save(pictures / "blue" / "new.png")
    counts, collection = counted(monkeypatch), collect(pictures)
    extracted, _ = look_at(collection)
    assert counts == {"decode": 1, "thumbnail": 1}
    same_thumbnails(extracted, collection)


def test_copies_are_made_once(pictures, monkeypatch):
    (pictures / "blue" / "copy.png").write_bytes((pictures / "blue" / "000.png").read_bytes())
    counts, collection = counted(monkeypatch), collect(pictures)
    extracted, _ = look_at(collection)
    assert counts == {"decode": 36, "thumbnail": 36}
    same_thumbnails(extracted, collection)


def test_what_cannot_be_read_has_no_thumbnail(pictures):
    (pictures / "blue" / "torn.png").write_bytes(b"\x89PNG nothing")
    for _ in range(2):
        collection = collect(pictures)
        extracted, _ = look_at(collection)
        assert extracted.unreadable.keys() == {"blue/torn.png"}
        (torn,) = [e for e in collection.record.examples if e.id == "blue/torn.png"]
        with pytest.raises(KeyError):
            extracted.thumbnails([torn])
        readable = [e for e in collection.record.examples if e is not torn]
        assert len(extracted.thumbnails(readable).grey) == 36


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_a_file_that_vanished_is_reported(pictures, cache, stored, harm):
    """Whether its features are stored or not: its thumbnail is not, and cannot be made."""
    collection = collect(pictures)
    if stored:
        look_at(collection)
        for path in thumbnail_files(cache):
            path.unlink()
    if harm == "gone":
        (pictures / "red" / "003.png").unlink()
    else:
        Image.new("RGB", (9, 9)).save(pictures / "red" / "003.png")
    extracted, _ = look_at(collection)
    assert extracted.unreadable.keys() == {"red/003.png"}
    reason = "can no longer be read" if harm == "gone" else "changed while the run was going on"
    assert reason in extracted.unreadable["red/003.png"]
    rest = [e for e in collection.record.examples if e.id not in extracted.unreadable]
    assert len(extracted.thumbnails(rest).grey) == 35
    if harm == "gone":  # nothing is remembered against bytes that were not seen
        draw(np.random.default_rng(9), 0).save(pictures / "red" / "003.png")
    assert look_at(collect(pictures))[0].unreadable == {}
