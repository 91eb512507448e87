import numpy as np
import pytest
from PIL import ImageDraw

from detailed_images import glances, training_data
from warmstart.evidence.spurious import border_accuracy, border_finding, uniform_edges

COLOURS = ["red", "green", "blue"]
N = 45
LABELS = np.arange(N) % 3
SINGLES = [np.array([i]) for i in range(N)]
CLASSES = ["ant", "bee", "fly"]


@pytest.fixture(scope="module")
def clean():
    return [training_data(seed, 128, 96) for seed in range(N)]


def framed(image, colour, sides="trbl"):
    image = image.copy()
    w, h = image.size
    boxes = {"t": (0, 0, w, 3), "r": (w - 4, 0, w, h), "b": (0, h - 4, w, h), "l": (0, 0, 3, h)}
    for side in sides:
        ImageDraw.Draw(image).rectangle(boxes[side], fill=colour)
    return image


def find(images, accuracy=0.9, labels=LABELS):
    return border_finding(glances(images).border, labels, CLASSES, SINGLES, accuracy)


def test_clean_pictures_have_no_shortcut(clean):
    assert find(clean) is None


def test_a_frame_of_its_own_colour_for_each_class_is_found(clean):
    result = find([framed(image, COLOURS[c]) for image, c in zip(clean, LABELS, strict=True)])
    assert result.kind == "spurious-correlation"
    assert len(result.items) == 3
    assert "all four sides" in result.sentence


def test_a_bar_along_one_side_of_one_class_is_found(clean):
    images = [framed(i, "gold", "b") if c == 1 else i for i, c in zip(clean, LABELS, strict=True)]
    result = find(images)
    assert result.items == ("bee: bottom",)


def test_a_frame_that_all_classes_share_is_no_shortcut(clean):
    assert find([framed(image, "gold") for image in clean]) is None


def test_borders_that_tell_as_much_as_the_whole_are_found_without_one_colour(clean):
    """Each class has three frames of its own: no edge is steady, yet the border tells all."""
    shades = [("red", "cyan", "gray"), ("green", "magenta", "black"), ("blue", "yellow", "white")]
    images = [
        framed(i, shades[c][k // 3 % 3]) for k, (i, c) in enumerate(zip(clean, LABELS, strict=True))
    ]
    assert uniform_edges(glances(images).border, LABELS, 3) == {}
    result = find(images)
    assert "outermost" in result.sentence
    assert find(images, accuracy=0.34) is not None
    assert border_accuracy(glances(images).border, LABELS, SINGLES, 3) > 0.9


def test_blank_borders_and_few_rows_say_nothing(clean):
    blank = np.full((N, 2, 4, 16, 4), 255, np.uint8)
    assert border_finding(blank, LABELS, CLASSES, SINGLES, 0.9) is None
    few = glances(
        [framed(i, COLOURS[c]) for i, c in zip(clean[:3], LABELS[:3], strict=True)]
    ).border
    assert border_finding(few, LABELS[:3], CLASSES, SINGLES[:3], 0.9) is None


def steady(n, n_steady):
    """Noise, but for one colour along the top of the first `n_steady`."""
    border = np.random.default_rng(0).integers(0, 256, (n, 2, 4, 16, 4), dtype=np.uint8)
    border[:n_steady, :, 0] = 99
    return border, (np.arange(n) >= n_steady).astype(np.int64)


def test_each_side_of_each_class_is_a_look_that_chance_has():
    """Six of 16 alike by chance: one in 8,008, eight looks of which are less than 0.001."""
    assert uniform_edges(*steady(16, 6), 2) == {0: ("top",)}
    assert uniform_edges(*steady(16, 5), 2) == {}


@pytest.mark.parametrize(("n", "accuracy"), [(19, 0.0), (20, 1.0)])
def test_borders_of_twenty_rows_say_something(n, accuracy):
    border, labels = steady(n, n // 2)
    border[n // 2 :] = 7
    border[: n // 2] = 222
    assert border_accuracy(border, labels, SINGLES[:n], 2) == accuracy
