"""Near-duplicates are found, look-alikes are not; what --fix leaves out, no more and no less."""

import io
import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from detailed_images import glances, training_data
from warmstart.data import near_duplicates
from warmstart.data.dataset import Collection
from warmstart.data.near_duplicates import (
    NearDuplicate,
    correlate,
    details,
    find_exclusions,
    find_near_duplicates,
    nearest,
    register,
    search_vectors,
    unit_features,
    warp,
    with_near_duplicates,
)
from warmstart.nouns import Wording
from warmstart.records.data import DataRecord, Example
from warmstart.run.cleaning import find_duplicates

N = 24


def reencoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def cropped(image, left=0.0, top=0.0, right=1.0, bottom=1.0):
    w, h = image.size
    return image.crop((round(left * w), round(top * h), round(right * w), round(bottom * h)))


def toned(image, red, green=None, blue=None, gamma=1.0):
    """Each channel times a factor, after a gamma curve."""
    factors = (red, green or red, blue or red)
    return image.point(
        [min(round(255 * k * (v / 255) ** gamma), 255) for k in factors for v in range(256)]
    )


ALTERATIONS = {
    "re-encoded": reencoded,
    "smaller": lambda i: i.resize((i.width // 3, i.height // 3), Image.BICUBIC),
    "larger": lambda i: i.resize((2 * i.width, 2 * i.height), Image.BICUBIC),
    "mirrored": ImageOps.mirror,
    "cropped at one side": lambda i: cropped(i, left=0.05),
    "cropped all round": lambda i: cropped(i, 0.05, 0.05, 0.95, 0.95),
    "a window": lambda i: cropped(i, 0.01, 0.04, 0.96, 0.99),
    "darker": lambda i: toned(i, 0.6),
    "lighter": lambda i: toned(i, 1.5),
    "gamma": lambda i: toned(i, 1, gamma=1.6),
    "warmer": lambda i: toned(i, 1, 0.95, 0.88),
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
    (pair,) = find_near_duplicates(glances([*scenes, copy]))
    assert (pair.first, pair.second, pair.mirrored) == (7, N, "mirrored" in name)
    assert pair.similarity > 0.89


def test_the_order_of_the_rows_does_not_matter(scenes):
    images = [*scenes, ImageOps.mirror(cropped(scenes[3], left=0.05))]
    (pair,) = find_near_duplicates(glances(images[::-1]))
    assert (pair.first, pair.second, pair.mirrored) == (0, N - 3, True)


def test_equal_pictures_have_similarity_one(scenes):
    (pair,) = find_near_duplicates(glances([*scenes[:4], scenes[1]]))
    assert pair == NearDuplicate(1, 4, pytest.approx(1, abs=0.01), False)


def test_features_find_what_the_thumbnails_miss(scenes, monkeypatch):
    images = glances([*scenes, reencoded(scenes[5])])
    features = np.random.default_rng(0).normal(size=(N + 1, 40)).astype(np.float32)
    features[N] = features[5] + 0.1
    monkeypatch.setattr(
        near_duplicates, "_coarse", lambda grey: np.zeros((len(grey), 64), np.float32)
    )
    (pair,) = find_near_duplicates(images, unit_features(features))
    assert (pair.first, pair.second) == (5, N)


def face(seed):
    """A face in a few strokes, each a little off."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(image)

    def near(*box):
        return (np.array(box) + np.tile(rng.integers(-6, 7, 2), 2)).tolist()

    draw.ellipse(near(20, 10, 108, 118), outline="black", width=3)
    for eye in ((42, 40, 56, 52), (72, 40, 86, 52)):
        draw.ellipse(near(*eye), fill="black")
    draw.arc(near(45, 70, 85, 100), 0, 180, fill="black", width=3)
    for _ in range(6):  # hair
        draw.line(near(*rng.integers(20, 108, 4)), fill="black", width=3)
    return image


def board(one, other):
    image = Image.new("RGB", (128, 128), one)
    draw = ImageDraw.Draw(image)
    for x in range(0, 128, 16):
        for y in range(x % 32, 128, 32):
            draw.rectangle((x, y, x + 15, y + 15), fill=other)
    return image


def test_look_alikes_are_no_copies():
    """Drawings of one kind, and a pattern in other paint."""
    assert find_near_duplicates(glances([face(seed) for seed in range(60)])) == ()
    boards = [board("white", "red"), board("white", "blue"), board("white", (230, 20, 10))]
    (pair,) = find_near_duplicates(glances(boards))
    assert (pair.first, pair.second) == (0, 2)


def test_a_chain_of_copies_holds_together(scenes):
    names = ("darker", "re-encoded", "smaller", "gamma", "a window", "lighter")
    result = find_near_duplicates(glances([*scenes, *(ALTERATIONS[n](scenes[2]) for n in names)]))
    joined = {2}
    for _ in range(7):
        joined |= {
            row for t in result for row in (t.first, t.second) if {t.first, t.second} & joined
        }
    assert joined == {2, *range(N, N + 6)}


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_or_blank_pictures_are_no_trouble(n):
    view = glances([Image.new("RGB", (20, 20), "white")] * 3).of(np.arange(n))
    assert find_near_duplicates(view, unit_features(np.ones((n, 5), np.float32))) == ()


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


def test_pictures_that_do_not_fit_in_memory_have_the_same_pairs(scenes, monkeypatch):
    copies = [make(scenes[n % N]) for n, make in enumerate(ALTERATIONS.values())]
    seen = glances([*scenes, *scenes[20:22], *copies])
    features = np.random.default_rng(0).normal(size=(len(seen.grey), 600)).astype(np.float32)
    expected = find_near_duplicates(seen, unit_features(features))
    assert len(expected) >= len(copies)
    for name, value in (("IN_MEMORY", 10), ("_FEW", 7), ("_ROWS", 11)):
        monkeypatch.setattr(near_duplicates, name, value)
    lazy = type("Lazily", (), {"grey": Lazy(seen.grey), "colour": Lazy(seen.colour)})()
    assert find_near_duplicates(lazy, unit_features(features)) == expected
    monkeypatch.setattr(near_duplicates, "EXACT", 20)
    monkeypatch.setattr(near_duplicates, "CELL", 16)
    result = {(t.first, t.second) for t in find_near_duplicates(seen)}
    assert result >= {(n % N, N + 2 + n) for n in range(len(copies))}


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


# ---- registration ---------------------------------------------------------------------------

STILL = np.array([[1, 0, 1, 0]], np.float32)


@pytest.fixture(scope="module")
def grey():
    return glances([training_data(0)]).grey


def test_the_pose_at_rest_changes_nothing_and_channels_move_like_grey(grey):
    x = details(grey, 64)
    moved, inside = warp(x, STILL)
    np.testing.assert_allclose(moved, x, atol=1e-3)
    assert inside.min() == 1
    pose = np.array([[0.95, 0.05, 1.05, -0.02]], np.float32)
    three, _ = warp(np.stack([x, 2 * x, -x], axis=-1), pose)
    np.testing.assert_allclose(three[..., 1], 2 * warp(x, pose)[0], atol=1e-3)


@given(st.floats(0.93, 1.07), st.floats(-0.05, 0.05), st.floats(0.93, 1.07), st.floats(-0.05, 0.05))
@settings(max_examples=20)
def test_a_moved_picture_is_found_where_it_was_put(across, right, down, up):
    x = details(glances([training_data(0)]).grey, 64)
    pose = np.array([[across, right, down, up]], np.float32)
    target, inside = warp(x, pose)
    result, likeness = register(target, x, STILL.copy(), steps=12)
    assert likeness[0] > 0.95
    np.testing.assert_allclose(result, pose, atol=0.02)
    assert correlate(target, warp(x, result)[0], inside)[0] > 0.95


def test_brightness_and_contrast_do_not_count_but_sign_does(grey):
    x = details(grey, 32)
    ones = np.ones_like(x)
    assert correlate(x, 0.3 * x + 50, ones)[0] == pytest.approx(1, abs=0.01)
    assert correlate(x, -x, ones)[0] == pytest.approx(-1, abs=0.01)


def test_blank_pictures_are_alike_to_nothing():
    blank = details(np.full((1, 64, 64), 200, np.uint8), 64)
    noisy = details(np.random.default_rng(0).integers(199, 202, (1, 64, 64)).astype(np.uint8), 64)
    assert correlate(blank, blank, np.ones_like(blank))[0] == pytest.approx(0, abs=1e-3)
    assert register(noisy, blank, STILL.copy(), 3)[1][0] < 0.5


# ---- nearest neighbours -----------------------------------------------------------------------


def units(n, d, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(max_examples=40)
@given(n=st.integers(5, 60), count=st.integers(1, 4), n_sides=st.integers(1, 2))
def test_of_few_rows_it_is_the_definition(n, count, n_sides):
    sides = [units(n, 8, seed) for seed in range(n_sides)]
    similarity = np.max([sides[0].astype(float) @ side.T.astype(float) for side in sides], axis=0)
    np.fill_diagonal(similarity, -np.inf)
    expected = np.sort(similarity, axis=1)[:, ::-1][:, :count]
    result = np.take_along_axis(similarity, nearest(sides[0], sides, count), axis=1)
    np.testing.assert_allclose(np.sort(result, axis=1)[:, ::-1], expected, atol=1e-6)


@pytest.fixture
def cells(monkeypatch):
    """Cells of a hundred rows, cut again where they are larger, from 200 rows on."""
    monkeypatch.setattr(near_duplicates, "EXACT", 200)
    monkeypatch.setattr(near_duplicates, "CELL", 100)


def pairs_alike(n, d, closeness):
    """n rows, of which every pair (0, 1), (2, 3) … is alike by about `closeness`."""
    first, noise = units(n // 2, d), units(n // 2, d, 1)
    second = closeness * first + np.sqrt(1 - closeness**2) * noise
    both = np.stack([first, second / np.linalg.norm(second, axis=1, keepdims=True)], axis=1)
    return both.reshape(n, d)


@pytest.mark.parametrize(("closeness", "share"), [(0.99, 0.999), (0.9, 0.98), (0.8, 0.93)])
def test_of_many_rows_copies_are_found(cells, closeness, share):
    vectors = pairs_alike(3000, 32, closeness)
    partner = np.arange(3000) ^ 1
    one_way = (nearest(vectors, [vectors], 4) == partner[:, None]).any(axis=1)
    assert (one_way | one_way[partner]).mean() > share


def test_a_copy_seen_from_another_side_is_found(cells):
    vectors = pairs_alike(2000, 32, 0.98)
    other, is_odd = vectors[:, ::-1].copy(), (np.arange(2000) % 2 == 1)[:, None]
    queries, turned = np.where(is_odd, other, vectors), np.where(is_odd, vectors, other)
    result = nearest(queries, [queries, turned], 4)
    assert (result == (np.arange(2000) ^ 1)[:, None]).any(axis=1).mean() > 0.98


@pytest.mark.parametrize("n_kinds", [0, 1, 2])
def test_rows_that_are_all_alike_end_and_no_row_is_its_own_neighbour(cells, n_kinds):
    n = 1500
    vectors = np.zeros((n, 16), np.float32)
    if n_kinds:
        vectors = np.repeat(units(n_kinds, 16), n // n_kinds, axis=0)
    result = nearest(vectors, [vectors, vectors], 4)
    assert result.shape == (n, 4)
    assert ((result >= 0) & (result < n)).all()
    assert (result != np.arange(n)[:, None]).all()
    assert all(len(set(row)) == 4 for row in result.tolist())
    if n_kinds == 2:
        assert ((result < n // 2) == (np.arange(n) < n // 2)[:, None]).mean() > 0.99


def test_the_search_among_cells_is_no_search_among_all(monkeypatch):
    """Products of pairs, counted: 8 times the rows must not cost 64 times as many."""
    costs, plain = [], near_duplicates._CellSearch._search_cell

    def counted(search, queries, members):
        costs[-1] += len(queries) * len(members)
        plain(search, queries, members)

    monkeypatch.setattr(near_duplicates._CellSearch, "_search_cell", counted)
    monkeypatch.setattr(near_duplicates, "EXACT", 100)
    monkeypatch.setattr(near_duplicates, "CELL", 64)
    for n in (1000, 8000):
        costs.append(0)
        vectors = units(n, 8)
        nearest(vectors, [vectors], 4)
    assert costs[1] < min(32 * costs[0], 0.15 * 8000**2)


# ---- findings ---------------------------------------------------------------------------------

WORDING = Wording(source="photos/", before="photos/", remove="the folder")


def example(id, label="a", split="train", sha256=None, group=None):
    sha256 = sha256 or f"hash of {id}"
    return Example(id=id, label=label, split=split, sha256=sha256, group=group)


def collection(*examples, problems=()):
    record = DataRecord(
        name="photos",
        kind="image",
        task="classify",
        layout="class folders",
        classes=tuple(sorted({e.label for e in examples if e.split == "train"})),
        examples=tuple(examples),
        problems=problems,
    )
    return Collection(record=record, load=lambda _: b"", title="", wording=WORDING)


def findings(pairs, *examples):
    """The kind and the items of each finding; pairs as "ab cd" or of ids."""
    pairs = [*map(tuple, pairs.split())] if isinstance(pairs, str) else pairs
    problems = with_near_duplicates(collection(*examples), pairs).record.problems
    return [(problem.kind, problem.items) for problem in problems]


def left_out(pairs, *examples):
    """What --fix leaves out, after exact copies were settled."""
    whole = collection(*examples, problems=find_duplicates(examples))
    return find_exclusions(with_near_duplicates(whole, pairs).record)


A, B, C, D = (example(name) for name in "abcd")
X = example("x", label="x")  # another label
H, T = example("h", split="holdout"), example("t", split="test")


def test_findings_within_the_training_set():
    assert findings("ba", A, B, C) == [("near-duplicate", ("b",))]
    assert findings("ab cb", A, B, C, D) == [("near-duplicate", ("b", "c"))]
    assert findings("ax", A, X, C) == [("conflict", ("a", "x"))]
    assert findings("ax ac", A, X, C) == [("conflict", ("a", "c", "x"))]
    # Two cells of one patient, each with its near copy: what shares a group is no copy.
    cells = [replace(e, label="aaxx"[i], group="p1") for i, e in enumerate((A, B, C, D))]
    assert findings("ab cd", *cells) == [("near-duplicate", ("b", "d"))]


def test_findings_across_the_splits():
    assert findings("at", A, replace(T, label="x")) == [("leakage", ("t",))]
    assert findings("ah", A, replace(H, label="x")) == [("leakage", ("h",))]
    assert findings("ht", A, H, T) == [("leakage", ("t",))]
    assert findings("ht", A, replace(H, split="test"), replace(T, label="x")) == []


def test_exact_copies_are_not_named_again():
    a, b, h = replace(A, sha256="s"), replace(B, sha256="s"), replace(H, split="test", sha256="s")
    assert findings("ac bc", a, b, C) == [("near-duplicate", ("c",))]
    assert findings("ac ch ct", a, C, h, T) == [("near-duplicate", ("c",)), ("leakage", ("t",))]


def test_pairs_are_noted_sorted_beside_earlier_problems():
    earlier = find_duplicates([example("a", sha256="s"), example("b", sha256="s")])
    whole = collection(A, B, C, D, problems=earlier)
    noted = with_near_duplicates(whole, [("d", "c"), ("b", "a")]).record
    assert noted.near_duplicates == (("a", "b"), ("c", "d"))
    assert noted.problems[: len(earlier)] == earlier
    assert with_near_duplicates(whole, []).record == whole.record


def test_pictures_of_one_scene_are_not_mistaken_for_copies():
    """A fixed camera: everything is alike, and the labels are about something else."""
    pairs = [(str(i), str(i + 1)) for i in range(19)]
    rows = [example(str(i), "ab"[i % 2]) for i in range(20)]
    record = with_near_duplicates(collection(*rows), pairs).record
    (note,) = record.problems
    assert (record.near_duplicates, note.kind, note.items) == ((), "near-duplicate", ())
    assert "fixed scene" in note.sentence
    rows = [example(str(i), "ab"[i // 10]) for i in range(20)]
    assert len(with_near_duplicates(collection(*rows), pairs).record.near_duplicates) == 19


@st.composite
def data_sets(draw):
    """Examples of all splits, some with equal bytes, and some pairs of near-duplicates."""
    examples = [
        example(
            f"{i:02}",
            draw(st.sampled_from("xy")),
            draw(st.sampled_from(["train", "train", "holdout", "test"])),
            draw(st.sampled_from(["s1", "s2", f"own {i}", f"own {i}"])),
        )
        for i in range(draw(st.integers(2, 12)))
    ]
    ids = st.sampled_from([e.id for e in examples])
    pairs = draw(st.lists(st.tuples(ids, ids), max_size=6))
    return examples, [pair for pair in pairs if pair[0] != pair[1]]


@given(data_sets())
def test_exactly_what_is_promised_is_left_out(case):
    """By the slow definition: look at every pair of every example."""
    examples, pairs = case
    order = {"train": 0, "holdout": 1, "test": 2}
    near = {frozenset(pair) for pair in pairs}
    whole = collection(*examples, problems=find_duplicates(examples))
    problems = with_near_duplicates(whole, pairs).record.problems
    expected = {id for p in problems if p.kind == "conflict" for id in p.items}
    for place, one in enumerate(examples):
        for number, other in enumerate(examples):
            is_same = other.sha256 == one.sha256
            is_copy = is_same or frozenset((one.id, other.id)) in near
            is_further = one.split == other.split == "train" and is_same and number < place
            if (order[other.split] > order[one.split] and is_copy) or is_further:
                expected.add(one.id)
    result = left_out(pairs, *examples)
    assert result.keys() == expected
    assert all(result.values())
    assert not any(e.split == "test" and e.id in result for e in examples)


@given(data_sets(), st.randoms(use_true_random=False))
def test_test_labels_change_neither_findings_nor_what_goes(case, rng: random.Random):
    examples, pairs = case
    other = [replace(e, label=rng.choice("xy")) if e.split == "test" else e for e in examples]
    assert findings(pairs, *examples) == findings(pairs, *other)
    assert left_out(pairs, *examples) == left_out(pairs, *other)


def test_each_exclusion_has_its_reason():
    t, u = example("t", split="test"), example("u", split="test", sha256="s")
    reasons = left_out([("a", "t")], A, replace(B, sha256="s"), C, t, u)
    assert reasons == {"a": "near-duplicate of t in the test set", "b": "copy of u in the test set"}
    copies = [replace(e, sha256="s") for e in (A, B, C)]
    reasons = left_out([("d", "e")], *copies, D, example("e"))
    assert reasons == {"b": "exact copy of a", "c": "exact copy of a"}
