"""A warning needs another preprocessing that is better beyond chance."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import ndtri

from extraction import scene_of
from hue_images import fill
from refit import kernel_of, singles
from tiny import PREP, network
from warmstart.evidence import preprocessing as module
from warmstart.evidence.preprocessing import (
    LEAST,
    LEVEL,
    SWAPPED,
    USUAL,
    all_grey,
    is_open,
    preprocessing,
    try_preprocessing,
    warning,
    worth_trying,
)
from warmstart.evidence.probe import best_left_out, open_probe
from warmstart.features.batches import normalised
from warmstart.planning import rules
from warmstart.records.summary import Evidence
from warmstart.stats.intervals import number_groups, standard_error


def kernels(labels, strength, seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(len(labels), 6))
    features[:, :2] += strength * np.eye(2)[labels]
    return [kernel_of(features)]


def labels_of(n=100):
    return np.random.default_rng(9).permutation(np.arange(n) % 2)


def test_the_best_other_way_is_compared_row_by_row():
    labels = labels_of()
    group_rows = np.split(np.arange(100), 50)
    now, some, most = (kernels(labels, s, seed) for seed, s in enumerate((0.5, 1.0, 3.0)))
    result = preprocessing(now, {"some": some, "most": most}, labels, group_rows)
    hits = [best_left_out(x, labels, group_rows, 2).hits(labels) for x in (now, some, most)]
    assert result.details["best"] == "most"
    assert result.value == pytest.approx((hits[2] - hits[0]).mean())
    assert result.details["gain.some"] == pytest.approx((hits[1] - hits[0]).mean())
    error = standard_error(hits[2] - hits[0], number_groups(group_rows))
    assert result.details["error"] == pytest.approx(error)
    assert result.low <= result.value <= result.high


def test_a_clear_gain_is_warned_of():
    labels = labels_of()
    result = preprocessing(
        kernels(labels, 0.5, 0), {"0 to 1": kernels(labels, 3.0, 1)}, labels, singles(100)
    )
    finding = warning(result)
    assert finding.kind == "preprocessing"
    assert finding.items == ("0 to 1",)
    assert "0 to 1" in finding.sentence
    assert f"{100 * result.value:.0f} points" in finding.sentence
    assert is_open(result)


def test_no_gain_no_warning():
    labels = labels_of()
    same = kernels(labels, 1.0, 0)
    result = preprocessing(same, {"the same": same}, labels, singles(100))
    assert result.value == 0.0
    assert warning(result) is None
    assert not is_open(result)
    worse = preprocessing(
        kernels(labels, 3.0, 0), {"worse": kernels(labels, 0.0, 1)}, labels, singles(100)
    )
    assert worse.value < 0
    assert warning(worse) is None
    assert not is_open(worse)


def test_a_gain_that_may_be_chance_asks_for_more_images_and_warns_of_nothing():
    """As good ways by the thousand: few of the best of four are called better."""
    labels = labels_of(48)
    warned, opened = 0, 0
    for seed in range(60):
        now, *others = (kernels(labels, 1.0, 5 * seed + j) for j in range(5))
        result = preprocessing(now, dict(enumerate(map(list, others))), labels, singles(48))
        warned += warning(result) is not None
        opened += is_open(result)
        if result.value + ndtri(LEVEL / 4) * result.details["error"] <= 0 or result.value < LEAST:
            assert warning(result) is None
    assert opened > warned
    assert warned <= 60 * 0.15


def test_nothing_to_try_is_said():
    labels = labels_of(20)
    result = preprocessing(kernels(labels, 1.0, 0), {}, labels, singles(20))
    assert result.value is None
    assert warning(result) is None
    assert not is_open(result)


def test_only_clearly_nearer_ways_are_worth_trying():
    assert worth_trying(1.0, {"a": 0.69, "b": 0.7, "c": 2.0}) == (("b",), ("a",))
    assert worth_trying(1.0, {}) == ((), ())


def test_grey_images_have_no_order_of_channels():
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    assert not all_grey(colour)
    assert all_grey(colour[..., :1])
    assert all_grey(np.repeat(colour[..., :1], 3, axis=3))
    mixed = np.concatenate([np.repeat(colour[:2, ..., :1], 3, axis=3), colour[2:]])
    assert not all_grey(mixed)


def test_images_that_all_belong_together_tell_nothing():
    labels = labels_of(20)
    other = {"0 to 1": kernels(labels, 3.0, 1)}
    result = preprocessing(kernels(labels, 0.5, 0), other, labels, [np.arange(20)])
    assert result.value is result.low is result.high is None
    assert "belong to one group" in result.meaning
    assert warning(result) is None


def test_each_habit_is_what_its_name_says():
    """White, 1, becomes 255 where levels are fed in as they are."""
    mean, spread = USUAL["0 to 255"]
    assert (1 - np.array(mean)) / np.array(spread) == pytest.approx([255] * 3)
    assert USUAL["0 to 1"] == ((0.0,) * 3, (1.0,) * 3)


# ---- tried on a network ----


def settled_on(images, prep):
    """A network whose statistics are those of images that are normalised by `prep`."""
    settled = network("convolutions")
    for norm in (settled.norm, settled.again):
        norm.reset_running_stats()
        norm.momentum = None
    settled.train()
    with torch.no_grad():
        settled(normalised(images, prep))
    return settled.eval()


def test_alternatives_that_come_nearer_to_the_pretraining_data_are_tried(pictures):
    images = open_probe(scene_of(pictures))(99).images
    for wrong, right in (("0 to 255", "0 to 1"), ("0 to 1", "mean 0.5, spread 0.5")):
        preps = {name: replace(PREP, mean=USUAL[name][0], std=USUAL[name][1]) for name in USUAL}
        settled = settled_on(images, preps[right])
        probe = open_probe(scene_of(pictures, settled, prep=preps[wrong]))(24)
        blind, nearer = module._worth_trying(probe)
        assert blind == (SWAPPED,)
        assert right in nearer
        assert wrong not in nearer
        probe = open_probe(scene_of(pictures, settled, prep=preps[right]))(24)
        blind, nearer = module._worth_trying(probe)
        assert wrong not in blind + nearer


def test_grey_pictures_have_no_channels_to_exchange(tmp_path):
    root = fill(tmp_path / "photos", {"blue": 12, "green": 12, "red": 12})
    for path in root.rglob("*.png"):
        with Image.open(path) as picture:
            picture.convert("L").save(path)
    blind, _ = module._worth_trying(open_probe(scene_of(root))(24))
    assert SWAPPED not in blind


def test_without_statistics_every_usual_way_is_tried(pictures):
    names, nearer = module._worth_trying(open_probe(scene_of(pictures, "layers"))(24))
    assert nearer == ()
    assert set(names) == {SWAPPED, *USUAL} - {"mean 0.5, spread 0.5"}


class Saturated(torch.nn.Module):
    """Sees colours between -1 and 1 alone: beyond, everything looks the same."""

    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Conv2d(3, 6, 1)
        torch.nn.init.orthogonal_(self.mix.weight)
        torch.nn.init.zeros_(self.mix.bias)
        self.out = torch.nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.mix(x.clamp(-1.0, 1.0)))
        return self.out(x.mean((2, 3)))


def test_a_wrong_way_to_feed_images_in_is_warned_of_and_the_right_one_named(tmp_path):
    root = fill(tmp_path / "photos", {"blue": 24, "green": 24, "red": 24})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        saturated = Saturated().eval()
    right, wrong = PREP, replace(PREP, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    result = try_preprocessing(open_probe(scene_of(root, saturated, prep=wrong)))
    finding = warning(result)
    assert finding is not None
    assert finding.items[0] in USUAL
    assert result.value > 0.2
    assert warning(try_preprocessing(open_probe(scene_of(root, saturated, prep=right)))) is None


@pytest.mark.parametrize(
    ("value", "nearer", "stages"),
    [
        (0.04, (), [(8, ("a",)), (20, ("a",))]),  # more images while the answer is open
        (0.01, (), [(8, ("a",))]),
        (None, ("b",), [(20, ("a", "b"))]),  # many at once where BatchNorm's statistics speak
    ],
)
def test_images_are_taken_in_two_stages(pictures, monkeypatch, value, nearer, stages):
    seen = []

    def compare(probe, names, nearer):
        seen.append((len(probe.rows), names))
        return Evidence(
            name="preprocessing",
            value=value,
            low=None,
            high=None,
            n=9,
            meaning=".",
            details={"error": 0.05, "best": "x"},
        )

    monkeypatch.setattr(rules, "PREPROCESSING_STAGES", (8, 20))
    monkeypatch.setattr(module, "_compare_preprocessings", compare)
    monkeypatch.setattr(module, "_worth_trying", lambda probe: (("a",), nearer))
    try_preprocessing(open_probe(scene_of(pictures)))
    assert seen == stages
