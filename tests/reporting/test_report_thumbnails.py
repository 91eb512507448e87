"""Small pictures: small, safe, only of what the record lists, as it lists it."""

import base64
import io
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from warmstart.errors import DataError
from warmstart.records.data import DataRecord, Example
from warmstart.records.inputs import Preprocessing
from warmstart.reporting.report import SIDE, TINY, data_uri, thumbnails


def png(width, height, bands=3):
    noise = np.random.default_rng(0).integers(0, 255, (height, width, bands), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def of(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def listed(**payloads):
    examples = tuple(
        Example(id=id, label="a", split="train", sha256=sha256(payload).hexdigest())
        for id, payload in payloads.items()
    )
    return DataRecord(
        name="d", kind="image", task="classify", layout="", classes=("a",), examples=examples
    )


@pytest.mark.parametrize("size", [(900, 300), (300, 900), (161, 161), (90, 60)])
def test_a_picture_keeps_its_shape_and_fits(size):
    small = of(data_uri(Image.new("RGB", size)))
    assert small.format == "JPEG"
    assert max(small.size) <= SIDE
    assert small.width / small.height == pytest.approx(size[0] / size[1], rel=0.05)


def test_a_tiny_picture_loses_nothing():
    pixels = np.random.default_rng(0).integers(0, 255, (8, TINY, 3), dtype=np.uint8)
    small = of(data_uri(Image.fromarray(pixels)))
    assert np.array_equal(np.asarray(small), pixels)


def test_what_is_not_listed_changed_or_torn_is_left_out():
    good, torn = png(60, 60), png(60, 60)[:200]
    files = {"good": good, "torn": torn, "changed": png(61, 60)}
    record = listed(good=good, torn=torn, changed=png(60, 61), gone=good)
    requests = []

    def load(id):
        requests.append(id)
        if id not in files:
            raise DataError("cannot be read")
        return files[id]

    uris = thumbnails(["good", "torn", "changed", "gone", "unlisted"], record, load, None)
    assert list(uris) == ["good"]
    assert "unlisted" not in requests


def test_bands_are_shown_as_colours():
    bands = np.random.default_rng(0).integers(0, 4000, (20, 30, 6)).astype(np.uint16)
    buffer = io.BytesIO()
    np.save(buffer, bands)
    payload = buffer.getvalue()
    prep = Preprocessing(
        size=(16, 16), resize=16, mean=(0.5,) * 6, std=(0.5,) * 6, ranges=((0.0, 4000.0),) * 6
    )
    record = listed(field=payload)
    assert of(thumbnails(["field"], record, lambda id: payload, prep)["field"]).size == (30, 20)
    assert thumbnails(["field"], record, lambda id: payload, None) == {}


def test_the_same_pictures_give_the_same_text():
    payload = png(200, 150)
    record = listed(a=payload, b=payload)
    one, other = (thumbnails(["b", "a"], record, lambda id: payload, None) for _ in range(2))
    assert list(one.items()) == list(other.items())
    assert list(one) == ["b", "a"]
