"""The rows of the verdict's table that this version can reach, each by small real work.

`deeper` and `head` need the tail gain, which is not measured yet: they are the pure
function's tests alone (tests/planning/test_verdict.py).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

from tiny import PREP
from warmstart.events import drain
from warmstart.network.load import load
from warmstart.network.shuffled import shuffled
from warmstart.request import Request
from warmstart.run.fit import check

pytestmark = pytest.mark.slow

SHAPES = {"disc": 0, "triangle": 3, "square": 4, "star": 10}  # corners


def digits(n, classes=10, mix=False):
    """Scans of handwriting, and what they show; with `mix`, labels that say nothing."""
    scans, rng = load_digits(), np.random.default_rng(0)
    rows = rng.permutation(np.flatnonzero(scans.target < classes))[:n]
    labels = rng.permutation(scans.target[rows]) if mix else scans.target[rows]
    return np.rint(scans.images[rows] * 255 / 16).astype(np.uint8), [str(t) for t in labels]


def shapes(n, side=64):
    """Shapes of any size, place, turn and colour on blotches of colour."""
    rng, names = np.random.default_rng(0), [*SHAPES]
    images, labels = [], [names[number % len(names)] for number in range(n)]
    for name in labels:
        blotches = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        picture = blotches.resize((side, side), Image.Resampling.BICUBIC)
        colour = tuple(rng.integers(0, 256, 3).tolist())
        radius, turn = rng.uniform(10, 24), rng.uniform(0, 2 * np.pi)
        x, y = rng.uniform(radius, side - radius, 2)
        pen = ImageDraw.Draw(picture)
        if not SHAPES[name]:
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
        else:
            angles = turn + 2 * np.pi * np.arange(SHAPES[name]) / SHAPES[name]
            far = radius * np.where((name == "star") & (np.arange(len(angles)) % 2 == 1), 0.4, 1)
            corners = zip(x + far * np.cos(angles), y + far * np.sin(angles), strict=True)
            pen.polygon([*corners], fill=colour)
        images.append(np.asarray(picture))
    return np.stack(images), labels


@pytest.fixture(scope="module")
def ignorant():
    """A real design with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model("lcnet_035", num_classes=7).eval()


@pytest.fixture(scope="module")
def learned():
    """The start that comes along."""
    return load("lite0")


def ask(data, module, prep=PREP):
    """Verdict, and evidence by name."""
    verdict = drain(check(Request(data=data, base=module, preprocessing=prep))).verdict
    return verdict, {evidence.name: evidence for evidence in verdict.evidence}


def test_row_1_what_plain_pixels_tell_is_no_lack_of_signal():
    """A start that sees next to nothing: digits can be told, but not from what it sees."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dim = torch.nn.Sequential(
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Conv2d(3, 8, 1),
            torch.nn.Flatten(),
            torch.nn.Linear(8, 4),
        )
    scans, labels = digits(140)
    even = scans - scans.mean(axis=(1, 2), keepdims=True).astype(scans.dtype) + 100  # alike in mean
    verdict, found = ask((even, labels), dim)
    signal = found["permutation_test"]
    assert signal.details["p"] > 0.01
    assert signal.details["plain_p"] <= 0.005
    assert signal.details["plain"] > 0.6
    assert "From plain pixels the accuracy is" in signal.meaning
    assert verdict.kind == "no-transfer"
    assert "but not from its features" in verdict.sentence


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_row_3_a_start_that_knows_nothing_is_no_better_than_scratch(is_shuffled, ignorant, learned):
    """Random weights, and learnt ones out of order: digits can be told, but not thanks to them."""
    module = ignorant
    if is_shuffled:
        module = shuffled(learned.module, np.random.default_rng(5))
    verdict, found = ask(digits(140), module)
    assert found["permutation_test"].details["p"] <= 0.01
    assert found["permutation_test"].value > 0.5
    known = found["transfer_gain"]
    assert known.value + 1.64 * known.details["error"] < 0.10
    assert verdict.kind == "no-transfer"
    assert "Do not fine-tune this base model" in verdict.sentence


def test_row_3_too_few_images_leave_it_open_whether_the_start_helps(learned):
    prep = replace(learned.record.preprocessing, size=(64, 64), resize=64)
    tried = (ask(shapes(n), learned.module, prep) for n in (24, 32, 48))
    verdict, found = next(pair for pair in tried if "not clear" in pair[0].sentence)
    known = found["transfer_gain"]
    assert known.value - 1.64 * known.details["error"] <= 0
    assert known.value + 1.64 * known.details["error"] >= 0.10
    assert verdict.kind == "inconclusive"


def test_row_6_a_start_that_knows_is_unclear_while_nobody_tried_to_tune_it(learned):
    prep = replace(learned.record.preprocessing, size=(64, 64), resize=64)
    verdict, found = ask(shapes(120), learned.module, prep)
    known = found["transfer_gain"]
    assert known.value - 1.64 * known.details["error"] > 0
    assert known.details["trained"] > known.details["shuffled"] + 0.1
    assert found["fine_tuning_gain"].value is None
    assert verdict.kind == "inconclusive"
    assert "this base model knows this kind of picture" in verdict.sentence
