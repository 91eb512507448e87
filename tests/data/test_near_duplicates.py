"""Near-duplicates are found, look-alikes are not."""

import io
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from detailed_images import glances, training_data
from warmstart.data import near_duplicates
from warmstart.data.near_duplicates import (
    NearDuplicate,
    find_near_duplicates,
    search_vectors,
    unit_features,
)

N = 24


def reencoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def relit(image, factor):
    return image.point([min(round(factor * v), 255) for v in range(256)] * 3)


def cropped(image, left=0.0, top=0.0, right=1.0, bottom=1.0):
    w, h = image.size
    return image.crop((round(left * w), round(top * h), round(right * w), round(bottom * h)))


ALTERATIONS = {
    "re-encoded": reencoded,
    "smaller": lambda i: i.resize((i.width // 3, i.height // 3), Image.BICUBIC),
    "larger": lambda i: i.resize((2 * i.width, 2 * i.height), Image.BICUBIC),
    "mirrored": ImageOps.mirror,
    "cropped at one side": lambda i: cropped(i, left=0.05),
    "cropped all round": lambda i: cropped(i, 0.05, 0.05, 0.95, 0.95),
    "a window": lambda i: cropped(i, 0.01, 0.04, 0.96, 0.99),
    "darker": lambda i: relit(i, 0.6),
    "lighter": lambda i: relit(i, 1.5),
    "gamma": lambda i: i.point([round(255 * (v / 255) ** 1.6) for v in range(256)] * 3),
    "warmer": lambda i: Image.merge(
        "RGB",
        [
            band.point(lambda v, k=k: round(k * v))
            for band, k in zip(i.split(), (1, 0.95, 0.88), strict=True)
        ],
    ),
    "mirrored, cut and small": lambda i: ImageOps.mirror(cropped(i, 0.03, 0.02, 0.98, 0.97)).resize(
        (90, 70)
    ),
}


@pytest.fixture(scope="module")
def scenes():
    return [training_data(seed) for seed in range(N)]


@pytest.mark.parametrize("name", ALTERATIONS)
def test_a_near_duplicate_is_found_and_nothing_else(scenes, name):
    copy = ALTERATIONS[name](scenes[7])
    result = find_near_duplicates(glances([*scenes, copy]))
    assert [(t.first, t.second) for t in result] == [(7, N)]
    assert result[0].similarity > 0.89
    assert result[0].mirrored == ("mirrored" in name)


def test_the_order_of_the_rows_does_not_matter(scenes):
    images = [*scenes, ImageOps.mirror(cropped(scenes[3], left=0.05))]
    result = find_near_duplicates(glances(images[::-1]))
    assert [(t.first, t.second, t.mirrored) for t in result] == [(0, N - 3, True)]


def test_features_find_what_the_thumbnails_misses(scenes, monkeypatch):
    images = [*scenes, reencoded(scenes[5])]
    features = np.random.default_rng(0).normal(size=(N + 1, 40)).astype(np.float32)
    features[N] = features[5] + 0.1
    monkeypatch.setattr(
        "warmstart.data.near_duplicates._coarse", lambda grey: np.zeros((len(grey), 64), np.float32)
    )
    assert [
        (t.first, t.second) for t in find_near_duplicates(glances(images), unit_features(features))
    ] == [(5, N)]


def face(seed):
    """A face in a few strokes, each a little off."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(image)

    def near(*box):
        x, y = rng.integers(-6, 7, 2).tolist()
        return box[0] + x, box[1] + y, box[2] + x, box[3] + y

    draw.ellipse(near(20, 10, 108, 118), outline="black", width=3)
    draw.ellipse(near(42, 40, 56, 52), fill="black")
    draw.ellipse(near(72, 40, 86, 52), fill="black")
    draw.arc(near(45, 70, 85, 100), 0, 180, fill="black", width=3)
    for _ in range(6):  # hair
        draw.line(near(*rng.integers(20, 108, 4).tolist()), fill="black", width=3)
    return image


def test_one_kind_of_drawing_is_not_one_drawing():
    assert find_near_duplicates(glances([face(seed) for seed in range(60)])) == ()


def test_a_pattern_in_other_paint_is_another_picture():
    def board(one, other):
        image = Image.new("RGB", (128, 128), one)
        draw = ImageDraw.Draw(image)
        for x in range(0, 128, 16):
            for y in range(0, 128, 16):
                if (x + y) % 32:
                    draw.rectangle((x, y, x + 15, y + 15), fill=other)
        return image

    boards = [board("white", "red"), board("white", "blue"), board("white", (230, 20, 10))]
    assert [(t.first, t.second) for t in find_near_duplicates(glances(boards))] == [(0, 2)]


def test_a_chain_of_copies_holds_together(scenes):
    altered = [
        ALTERATIONS[name](scenes[2])
        for name in ("darker", "re-encoded", "smaller", "gamma", "a window", "lighter")
    ]
    result = find_near_duplicates(glances([*scenes, *altered]))
    joined = {2}
    for _ in range(7):
        joined |= {
            row for t in result for row in (t.first, t.second) if {t.first, t.second} & joined
        }
    assert joined == {2, *range(N, N + 6)}


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_or_blank_pictures_are_no_trouble(n):
    blank = [Image.new("RGB", (20, 20), "white") for _ in range(n)]
    view = glances(blank) if n else glances([Image.new("L", (2, 2))])
    if not n:
        view = type("Empty", (), {"grey": view.grey[:0], "colour": view.colour[:0]})()
    assert find_near_duplicates(view, unit_features(np.ones((n, 5), np.float32))) == ()


def test_equal_pictures_are_twins_of_similarity_one(scenes):
    (twin,) = find_near_duplicates(glances([*scenes[:4], scenes[1]]))
    assert twin == NearDuplicate(1, 4, pytest.approx(1, abs=0.01), False)


class Lazy:
    """An array of which a few rows at a time are asked for, and never all."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        result = self.values[rows]
        assert len(result) <= 80
        return result


def test_pictures_that_do_not_fit_in_memory_have_the_same_twins(scenes, monkeypatch):
    copies = [make(scenes[n % N]) for n, make in enumerate(ALTERATIONS.values())]
    seen = glances([*scenes, *scenes[20:22], *copies])
    features = np.random.default_rng(0).normal(size=(len(seen.grey), 600)).astype(np.float32)
    expected = find_near_duplicates(seen, unit_features(features))
    assert len(expected) >= len(copies)
    monkeypatch.setattr(near_duplicates, "IN_MEMORY", 10)
    monkeypatch.setattr(near_duplicates, "_FEW", 7)
    monkeypatch.setattr(near_duplicates, "_ROWS", 11)
    lazy = type("Lazily", (), {"grey": Lazy(seen.grey), "colour": Lazy(seen.colour)})()
    assert find_near_duplicates(lazy, unit_features(features)) == expected
    assert find_near_duplicates(lazy, unit_features(near_duplicates.thin(features))) == expected


@dataclass
class FewAtATime:
    """Features that come seven rows at a time."""

    values: np.ndarray

    def __call__(self, layer):
        return self.values

    def some(self, rows):
        return FewAtATime(self.values[rows])

    def chunks(self, feature_layers):
        for at in range(0, len(self.values), 7):
            yield dict.fromkeys(feature_layers, self.values[at : at + 7])


def test_features_read_a_few_rows_at_a_time_are_the_same(monkeypatch):
    """Byte for byte; those of many rows, kept in half the memory, are as alike as they were."""
    features = np.random.default_rng(1).normal(3.0, 2.0, size=(40, 600)).astype(np.float32)
    whole = unit_features(features)
    assert np.allclose((whole**2).sum(axis=1), 1.0)
    assert np.array_equal(search_vectors(FewAtATime(features), "last", 40), whole)
    monkeypatch.setattr(near_duplicates, "EXACT", 39)
    half = search_vectors(FewAtATime(features), "last", 40)
    single = half.astype(np.float32)
    assert half.dtype == np.float16
    assert np.abs(single @ single.T - whole @ whole.T).max() < 1e-3


def test_near_duplicates_among_many_are_found_in_cells(scenes, monkeypatch):
    monkeypatch.setattr(near_duplicates, "EXACT", 20)
    monkeypatch.setattr(near_duplicates, "CELL", 16)
    copies = [make(scenes[n % N]) for n, make in enumerate(ALTERATIONS.values())]
    result = {(t.first, t.second) for t in find_near_duplicates(glances([*scenes, *copies]))}
    assert result >= {(n % N, N + n) for n in range(len(copies))}
