"""Borders, columns and file metadata that predict the label; clean data give nothing away."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageDraw

from detailed_images import glances, training_data
from warmstart.evidence import spurious
from warmstart.evidence.spurious import (
    ALONE,
    HALF,
    STRONG,
    STRONG_BYTES,
    border_accuracy,
    border_finding,
    border_finding_multilabel,
    explained_variance,
    informedness,
    leaking_columns,
    leaking_columns_multilabel,
    leaking_columns_regression,
    metadata_leaks,
    metadata_leaks_multilabel,
    metadata_leaks_regression,
    uniform_edges,
)

# ---- borders ----

COLOURS = ["red", "green", "blue"]
SINGLES = [np.array([i]) for i in range(45)]
THREE = np.arange(45) % 3
CLASSES = ["ant", "bee", "fly"]


@pytest.fixture(scope="module")
def clean():
    return [training_data(seed, 128, 96) for seed in range(45)]


def framed(images, colours, sides="trbl"):
    """Copies with a frame of the colour of each; None leaves an image alone."""
    result = []
    for image, colour in zip(images, colours, strict=True):
        image = image.copy()
        w, h = image.size
        boxes = {"t": (0, 0, w, 3), "r": (w - 4, 0, w, h), "b": (0, h - 4, w, h), "l": (0, 0, 3, h)}
        for side in sides if colour else "":
            ImageDraw.Draw(image).rectangle(boxes[side], fill=colour)
        result.append(image)
    return result


def find(images, accuracy=0.9):
    return border_finding(glances(images).border, THREE, CLASSES, SINGLES, accuracy)


def test_clean_images_and_a_frame_that_all_classes_share_are_no_shortcut(clean):
    assert find(clean) is None
    assert find(framed(clean, ["gold"] * 45)) is None


def test_an_edge_of_one_colour_is_found_with_its_class_and_side(clean):
    result = find(framed(clean, [COLOURS[c] for c in THREE]))
    assert result.kind == "spurious-correlation"
    assert len(result.items) == 3
    assert "all four sides" in result.sentence
    result = find(framed(clean, [("gold" if c == 1 else None) for c in THREE], "b"))
    assert result.items == ("bee: bottom",)


def test_borders_that_predict_as_much_as_the_whole_are_found_without_one_colour(clean):
    """Each class has three frames of its own: no edge is uniform, yet the border tells all."""
    shades = [("red", "cyan", "gray"), ("green", "magenta", "black"), ("blue", "yellow", "white")]
    images = framed(clean, [shades[c][k // 3 % 3] for k, c in enumerate(THREE)])
    border = glances(images).border
    assert uniform_edges(border, THREE, 3) == {}
    accuracy = border_accuracy(border, THREE, SINGLES, 3)
    assert accuracy > 0.9
    result = find(images)
    assert f"predict its class with {100 * accuracy:.0f} % accuracy" in result.sentence
    assert find(images, accuracy=0.34) is not None
    half = np.where(np.arange(45) % 2, border.T, glances(clean).border.T).T
    partly = border_accuracy(half, THREE, SINGLES, 3)
    assert 0.55 < partly < 0.9  # of a network that is always right: too little of what it gains
    assert border_finding(half, THREE, CLASSES, SINGLES, 1.0) is None
    assert border_finding(half, THREE, CLASSES, SINGLES, partly) is not None


def test_blank_borders_and_few_rows_say_nothing(clean):
    blank = np.full((45, 2, 4, 16, 4), 255, np.uint8)
    assert border_finding(blank, THREE, CLASSES, SINGLES, 0.9) is None
    few = glances(framed(clean[:3], COLOURS)).border
    assert border_finding(few, THREE[:3], CLASSES, SINGLES[:3], 0.9) is None


def steady(n, n_steady):
    """Noise, but for one colour along the top of the first `n_steady`."""
    border = np.random.default_rng(0).integers(0, 256, (n, 2, 4, 16, 4), dtype=np.uint8)
    border[:n_steady, :, 0] = 99
    return border, (np.arange(n) >= n_steady).astype(np.int64)


def test_each_side_of_each_class_is_a_test():
    """Six of 16 alike by chance: one in 8,008, eight tests of which are less than 0.001."""
    assert uniform_edges(*steady(16, 6), 2) == {0: ("top",)}
    assert uniform_edges(*steady(16, 5), 2) == {}


@pytest.mark.parametrize(("inside", "outside", "is_uniform"), [(20, 9, True), (20, 11, False)])
def test_the_share_of_uniform_edges_must_differ_by_half(inside, outside, is_uniform):
    border, labels = steady(40, 20)
    border[20 : 20 + outside, :, 0] = 99 + 10  # colours within 16 levels count as one
    assert bool(uniform_edges(border, labels, 2)) == is_uniform


@pytest.mark.parametrize(("n", "accuracy"), [(19, 0.0), (20, 1.0)])
def test_borders_of_twenty_rows_say_something(n, accuracy):
    border, labels = steady(n, n // 2)
    border[n // 2 :] = 7
    border[: n // 2] = 222
    assert border_accuracy(border, labels, SINGLES[:n], 2) == accuracy


# ---- columns ----

PARTS = [np.arange(80)[part::4] for part in range(4)]
TWO = np.arange(80) % 2


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_column_that_is_the_label_in_disguise_is_named(rng):
    noise = rng.normal(size=(80, 1))
    columns = {"outcome": TWO[:, None] * 10.0 + rng.normal(0, 1, (80, 1)), "age": noise}
    finding = leaking_columns(columns, TWO, PARTS, 0)
    assert (finding.kind, finding.items) == ("spurious-correlation", ("outcome",))
    assert 'The column "outcome" alone predicts the label of 100 % of the rows.' in finding.sentence
    assert "--set column.outcome=left-out" in finding.sentence
    two = leaking_columns({**columns, "again": columns["outcome"]}, TWO, PARTS, 0)
    assert ", and so do 1 more" in two.sentence
    assert leaking_columns({"age": TWO[:, None] + noise}, TWO, PARTS, 0) is None


def test_a_large_class_alone_and_few_rows_tell_nothing(rng):
    rare = (np.arange(80) < 2).astype(int)
    assert leaking_columns({"age": rng.normal(size=(80, 1))}, rare, PARTS, 0) is None
    few, folds = np.array([0, 0, 1, 1]), [np.array([0, 1]), np.array([2, 3])]
    assert leaking_columns({"x": np.arange(4.0)[:, None]}, few, folds, 0) is None
    assert leaking_columns({"x": TWO[:, None] * 1.0}, TWO, PARTS[:1], 0) is None


@pytest.mark.parametrize(("bands", "is_found"), [(4, True), (5, False)])
def test_a_tree_has_two_leaves_a_class(bands, is_found):
    """A column whose classes alternate in four bands predicts them, one of five bands does not."""
    folds = [np.arange(400)[part::4] for part in range(4)]
    labels = np.arange(400) * bands // 400 % 2
    columns = {"time": np.arange(400.0)[:, None]}
    assert (leaking_columns(columns, labels, folds, 0) is not None) == is_found


def test_two_rows_are_enough_for_a_leaf():
    """Eight classes of three rows, one of which is held out at a time."""
    labels, folds = np.arange(24) % 8, np.split(np.arange(24), 3)
    assert leaking_columns({"code": labels[:, None] * 1.0}, labels, folds, 0).items == ("code",)


def test_columns_of_several_labels_and_of_numbers(rng):
    has, noise = rng.random((80, 2)) < 0.5, rng.normal(size=(80, 1))
    columns = {"noise": noise, "same": has[:, 1:].astype(float)}
    finding = leaking_columns_multilabel(columns, has * 1.0, ["cat", "dog"], PARTS, 0)
    assert finding.items == ("same",)
    assert 'whether "dog" applies' in finding.sentence
    assert leaking_columns_multilabel({"n": noise}, has * 1.0, ["a", "b"], PARTS, 0) is None
    values = rng.uniform(size=80)
    columns = {"noise": noise, "cm": 100 * values[:, None], "rough": (5 * values[:, None]).round()}
    finding = leaking_columns_regression(columns, values, PARTS, 0)
    assert finding.items == ("cm",)
    share = float(finding.sentence.split("explains ")[1].split(" %")[0])
    assert share >= 100 * ALONE
    assert leaking_columns_regression({"noise": noise}, values, PARTS, 0) is None
    assert leaking_columns_regression(columns, values[:10], PARTS, 0) is None


@pytest.mark.parametrize("n_classes", [2, 4, None])
def test_among_many_columns_the_same_are_found_with_few_trees(monkeypatch, n_classes):
    rng, n = np.random.default_rng(1), 240
    parts = np.array_split(rng.permutation(n), 4)
    truth = np.arange(n) % n_classes if n_classes else rng.uniform(0, 3, n)
    columns = {f"c{k}": rng.normal(size=(n, 1)) for k in range(110)}
    columns["plain"] = truth[:, None] + rng.normal(0, 0.02, (n, 1))
    columns["split"] = np.where(truth > truth.mean(), rng.integers(0, 2, n) * 10 - 5, 1.0)[:, None]
    share = (truth - truth.min()) / np.ptp(truth)
    columns["names"] = np.eye(4)[(4 * share).clip(0, 3.99).astype(int)]
    search, score = (
        (leaking_columns, "_accuracy") if n_classes else (leaking_columns_regression, "_tree_r2")
    )
    grown, grow = [], getattr(spurious, score)
    monkeypatch.setattr(spurious, score, lambda *a: grown.append(1) or grow(*a))
    many = search(columns, truth, parts, 0)
    assert len(grown) <= 10
    monkeypatch.setattr(spurious, "MANY", 10**9)
    assert many is not None
    assert many == search(columns, truth, parts, 0)


# ---- file metadata ----


def files(**changes):
    """Figures of 80 files of various sizes and one format, or what is set."""
    rng = np.random.default_rng(0)
    width, height = rng.integers(300, 800, (2, 80))
    made = {
        "width": width,
        "height": height,
        "n_bytes": (width * height * rng.uniform(0.2, 0.6, 80)).astype(np.int64),
        "is_colour": np.ones(80, bool),
        "format": np.full(80, "JPEG"),
    }
    return SimpleNamespace(**(made | changes))


def leaks(labels=TWO, is_sound=False, **changes):
    rng = np.random.default_rng(0)
    names = [f"c{number}" for number in range(int(labels.max()) + 1)]
    return metadata_leaks(files(**changes), labels, names, rng, is_sound)


def test_files_alike_give_nothing_away():
    assert leaks() == ()
    assert leaks(width=np.full(80, 192), height=np.full(80, 192)) == ()


def test_a_size_for_each_class_is_found_with_its_numbers():
    (result,) = leaks(width=np.where(TWO, 1024, 640), height=np.where(TWO, 768, 480))
    assert result.kind == "metadata-leakage"
    assert result.items == (
        "c0: 100 % are 640 x 480 px, 0 % elsewhere",
        "c1: 100 % are 1024 x 768 px, 0 % elsewhere",
    )
    assert result.sentence.startswith("Metadata leakage: the size of an image predicts its class")
    (result,) = leaks(width=np.arange(80) * 2 + np.where(TWO, 900, 300))  # no two are equal
    assert result.items[0].startswith("c0: usually ")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"is_colour": TWO == 0}, "the colour of an image"),
        ({"format": np.where(TWO, "PNG", "JPEG")}, "the file format of an image"),
        ({"n_bytes": np.where(TWO, 10**6, 10**4)}, "the file size of an image"),
        ({"is_sound": True, "width": 500 * TWO + np.arange(80) + 400}, "the length of a clip"),
        ({"is_sound": True, "height": np.where(TWO, 8000, 16_000)}, "the sample rate of a clip"),
        ({"is_sound": True, "format": np.where(TWO, "WAV", "MP3")}, "the file format of a clip"),
    ],
)
def test_other_properties_have_findings_of_their_own(changes, name):
    if "is_sound" in changes:
        length = changes.get("width", np.full(80, 1000))
        changes = {"width": length, "height": np.full(80, 16_000), "n_bytes": 32 * length} | changes
    (result,) = leaks(**changes)
    assert result.sentence.startswith(f"Metadata leakage: {name} predicts its class")


def test_one_class_of_many_may_be_the_only_one_predicted():
    labels = np.arange(80) % 6
    (result,) = leaks(labels, width=np.where(labels == 2, 1111, 640), height=np.full(80, 480))
    assert [item[:2] for item in result.items] == ["c2"]
    four = np.where(np.arange(80) < 4, 1, 0)  # of five files of a class on
    (result,) = leaks(four, width=np.where(four, 1111, 640), height=np.full(80, 480))
    assert [item[:2] for item in result.items] == ["c0"]


@pytest.mark.parametrize(
    ("share", "name", "is_strong"),
    [
        (STRONG - 0.05, "colour", False),
        (STRONG + 0.05, "colour", True),
        (STRONG_BYTES - 0.05, "file size", False),
        (STRONG_BYTES + 0.05, "file size", True),
    ],
)
def test_a_share_of_a_class_is_no_strong_cue(share, name, is_strong):
    which = (TWO == 1) & (np.arange(80) < 80 * share)
    alike = {"width": np.full(80, 640), "height": np.full(80, 480), "n_bytes": np.full(80, 10**5)}
    if name == "colour":
        result = leaks(**(alike | {"is_colour": ~which}))
    else:
        result = leaks(**(alike | {"n_bytes": np.where(which, 10**6, 10**5)}))
    assert [f"the {name} of" in one.sentence for one in result] == [True] * is_strong


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=2, max_size=40))
def test_informedness_is_recall_minus_false_alarms_of_a_leave_one_out_prediction(pairs):
    codes, labels = (np.array(column) for column in zip(*pairs, strict=True))
    predicted = []
    for row in range(len(codes)):
        others = np.arange(len(codes)) != row
        same = labels[others & (codes == codes[row])]
        shares = [(same == k).sum() / max((labels[others] == k).sum(), 1) for k in range(3)]
        predicted.append(int(np.argmax(shares)) if len(same) else -1)
    predicted = np.array(predicted)
    for k, gain in enumerate(informedness(codes, labels, 3)):
        inside = labels == k
        right, wrong = (predicted[inside] == k).sum(), (predicted[~inside] == k).sum()
        slow = right / max(inside.sum(), 1) - wrong / max((~inside).sum(), 1)
        assert gain == pytest.approx(slow)


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-9, 9)), min_size=2, max_size=40))
def test_explained_variance_is_that_of_the_mean_of_other_files(pairs):
    codes, truth = (np.array(column) for column in zip(*pairs, strict=True))
    rows = np.arange(len(codes))
    means = [truth[(codes == codes[row]) & (rows != row)] for row in rows]
    means = np.array([one.mean() if len(one) else truth.mean() for one in means])
    total = ((truth - truth.mean()) ** 2).sum()
    slow = 1 - ((truth - means) ** 2).sum() / max(total, 1e-12)
    assert explained_variance(codes, truth) == pytest.approx(slow, rel=1e-6, abs=1e-6)


def test_files_that_go_with_one_of_several_labels(rng):
    has = rng.random((80, 2)) < 0.5
    plain = {"width": np.full(80, 300), "height": np.full(80, 200)}
    by_size = files(**(plain | {"width": np.where(has[:, 1], 640, 300)}))
    result, *_ = metadata_leaks_multilabel(by_size, has * 1.0, "ab", rng)
    assert result.items == ("b: 100 % are 640 x 200 px, 0 % elsewhere",)
    assert "predicts a label" in result.sentence
    assert not metadata_leaks_multilabel(files(**plain), has * 1.0, "ab", rng)
    rare = has * [1.0, 0.0] + (np.arange(80) < 4)[:, None] * [0.0, 1.0]
    by_size = files(**(plain | {"width": np.where(rare[:, 1], 640, 300)}))
    assert not metadata_leaks_multilabel(by_size, rare, "ab", rng)
    border = rng.integers(0, 255, size=(80, 2, 4, 16, 4)).astype(np.uint8)
    assert border_finding_multilabel(border, has * 1.0, ["cat", "dog"]) is None
    border[has[:, 0], :, 2] = 250
    result = border_finding_multilabel(border, has * 1.0, ["cat", "dog"])
    assert result.items == ("cat: bottom",)
    assert "predicts its label" in result.sentence


@pytest.mark.parametrize(("noise", "is_found"), [(0.5, True), (1.2, False)])
def test_a_size_that_goes_with_a_number_is_named(rng, noise, is_found):
    values = rng.normal(size=80)
    wide = (1000 + 60 * (values + noise * rng.normal(size=80))).astype(int)
    some = files(width=wide, height=np.full(80, 200), n_bytes=100 * wide)
    for is_sound in (False, True):
        result = metadata_leaks_regression(some, values, rng, is_sound)
        assert len(result) == is_found
        if is_found:
            assert float(result[0].sentence.split("explaining ")[1].split(" %")[0]) >= 100 * HALF
            assert "the larger half of the numbers" in result[0].items[0]
