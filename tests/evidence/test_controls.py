"""Evidence for which the network is run again, over tiny networks and drawn pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from extraction import scene_of, table
from hue_images import fill
from tiny import KINDS, PREP, network
from warmstart.data.thumbnails import plain_features
from warmstart.events import drain
from warmstart.evidence import controls, preprocessing
from warmstart.evidence.domain_gap import mean_divergence, measure_domain_gap
from warmstart.evidence.preprocessing import try_preprocessing, warning
from warmstart.evidence.probe import open_probe
from warmstart.evidence.transfer_gain import measure_transfer_gain
from warmstart.features.batches import normalised
from warmstart.modalities.image import IMAGE
from warmstart.planning import rules
from warmstart.records.summary import Evidence
from warmstart.solve.kernels import mixed_kernels

COUNTS = {"blue": 12, "green": 12, "red": 12}


def probes(training_data, seed=0):
    return open_probe(replace(training_data, seed=seed))


# ---- a few images --------------------------------------------------------------------------


def test_images_are_those_of_the_rows_in_one_order(pictures):
    opened = probes(scene_of(pictures))
    few, all_of_them, again = opened(10), opened(99), opened(10)
    assert len(all_of_them.rows) == 36
    np.testing.assert_array_equal(few.rows, all_of_them.rows[:10])
    np.testing.assert_array_equal(few.images, all_of_them.images[:10])
    np.testing.assert_array_equal(few.images, again.images)
    for row, image in zip(all_of_them.rows, all_of_them.images, strict=True):
        example = all_of_them.training_data.labelled.learn[row]
        payload = (pictures / example.id).read_bytes()
        np.testing.assert_array_equal(image, IMAGE.encode(payload, example.id, PREP))
    labels = all_of_them.labels()
    assert [
        all_of_them.training_data.labelled.labels[row] for row in all_of_them.rows
    ] == labels.tolist()
    assert set(few.labels()) == {0, 1, 2}


def test_another_seed_draws_others(pictures):
    training_data = scene_of(pictures)
    assert probes(training_data, 0)(10).rows.tolist() != probes(training_data, 1)(10).rows.tolist()


def test_kernels_are_those_of_the_cache_and_of_plain_pixels(pictures):
    training_data = scene_of(pictures)
    probe = probes(training_data)(20)
    examples = [training_data.labelled.learn[row] for row in probe.rows]
    read = training_data.extracted.reader(examples)
    truth = mixed_kernels(
        [(layer, read(layer)) for layer in probe.training_data.feature_layers], training_data.pair()
    )
    for ours, theirs in zip(probe.cached(), truth.values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    kinds = plain_features(training_data.extracted.thumbnails(examples))
    plain = probe.plain()
    assert len(plain) == len(kinds) + 1
    np.testing.assert_allclose(plain[-1], np.mean(plain[:-1], axis=0))


def test_a_few_large_groups_still_give_several_blocks(tmp_path):
    """Whole groups of a hundred would leave a few images with one group and none to judge by."""
    root = fill(tmp_path / "photos", dict.fromkeys(("blue", "red"), 60))
    files = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    source = table(root, [(f, f.parent, n % 3) for n, f in enumerate(files)])
    training_data = scene_of(source, "layers", label="label", group="person")
    assert [len(rows) for rows in training_data.labelled.group_rows] == [40, 40, 40]
    group_rows = probes(training_data)(20).group_rows()
    assert len(group_rows) == 3
    assert sorted(np.concatenate(group_rows)) == list(range(20))
    result = drain(measure_transfer_gain(probes(training_data), 2, seed=0))
    assert np.isfinite([result.value, result.low, result.high, result.details["error"]]).all()


def test_neither_hold_out_nor_test_is_looked_at(tmp_path):
    root = tmp_path / "photos"
    for number, part in enumerate(("train", "val", "test")):
        fill(root / part, dict.fromkeys(COUNTS, 6), seed=number)
    training_data = scene_of(root)
    assert (len(training_data.labelled.learn), training_data.labelled.holdout) == (36, 18)
    probe = probes(training_data)(99)
    assert {training_data.labelled.learn[row].split for row in probe.rows} == {"train"}
    assert len(probe.rows) == 18


# ---- knowledge -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_random_weights_knows_nothing(kind, pictures):
    training_data = scene_of(pictures, kind)
    module = training_data.extracted.network.backbone
    before = {name: value.clone() for name, value in module.state_dict().items()}
    result = drain(measure_transfer_gain(probes(training_data), 3, seed=0))
    assert (result.name, result.n) == ("transfer_gain", 36)
    assert result.value - 1.64 * result.details["error"] <= 0
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    again = drain(measure_transfer_gain(probes(training_data), 3, seed=0))
    assert result == again


@pytest.mark.parametrize(("value", "stages"), [(0.5, [(12, 2)]), (0.05, [(12, 2), (24, 3)])])
def test_more_images_are_taken_where_the_answer_is_not_plain(pictures, monkeypatch, value, stages):
    sizes = []

    def weigh(trained, shuffles, pixels, labels, group_rows, target, nouns):
        sizes.append((len(labels), len(shuffles)))
        return Evidence(
            name="transfer_gain",
            value=value,
            low=0.0,
            high=1.0,
            n=len(labels),
            meaning=".",
            details={"error": 0.05},
        )

    monkeypatch.setattr(rules, "TRANSFER_GAIN_STAGES", ((12, 2), (24, 3)))
    monkeypatch.setattr(controls, "transfer_gain", weigh)
    result = drain(measure_transfer_gain(probes(scene_of(pictures)), 2, seed=0))
    assert sizes == stages
    assert result.n == stages[-1][0]


def test_many_classes_take_more_images(pictures, monkeypatch):
    monkeypatch.setattr(rules, "TRANSFER_GAIN_STAGES", ((6, 1), (6, 1)))
    assert drain(measure_transfer_gain(probes(scene_of(pictures)), 3, seed=0)).n == 15


# ---- distance ------------------------------------------------------------------------------


def test_the_distance_is_that_of_the_first_layers_here(pictures):
    training_data = scene_of(pictures)
    probe = probes(training_data)(24)
    result = measure_domain_gap(probe)
    assert (result.name, result.n) == ("domain_gap", 24)
    assert result.low <= result.value <= result.high
    module = network("convolutions")
    with torch.no_grad():
        values = module.first(normalised(probe.images, PREP)).double().numpy()
    mean, variance = values.mean(axis=(0, 2, 3)), values.var(axis=(0, 2, 3))
    m, v = (x.double().numpy() for x in (module.norm.running_mean, module.norm.running_var))
    slow = np.median(0.5 * (mean - m) ** 2 / v + 0.5 * (variance / v - 1 - np.log(variance / v)))
    first = [layer for layer in controls._first_blocks(probe, PREP) if layer.block == 1]
    rows = np.arange(len(first[0].mean))
    assert mean_divergence(first[:1], rows) == pytest.approx(slow, rel=0.05)


@pytest.mark.parametrize("kind", ["attention", "layers"])
def test_networks_that_keep_no_statistics_have_none(kind, pictures):
    assert measure_domain_gap(probes(scene_of(pictures, kind))(24)).value is None


# ---- preprocessing -------------------------------------------------------------------------


def settled_on(images, prep):
    """A network whose statistics are those of images fed in by `prep`."""
    module = network("convolutions")
    for norm in (module.norm, module.again):
        norm.reset_running_stats()
        norm.momentum = None
    module.train()
    with torch.no_grad():
        module(normalised(images, prep))
    return module.eval()


@pytest.fixture
def dim(tmp_path):
    """Three hues, and pictures of them as pixels: (36, 32, 32, 3)."""
    root = fill(tmp_path / "photos", COUNTS)
    training_data = scene_of(root)
    return root, probes(training_data)(99).images


def fed_by(mean, std):
    return replace(PREP, mean=(mean,) * 3, std=(std,) * 3)


def test_ways_are_tried_that_come_nearer_to_the_old_data(dim):
    root, images = dim
    usual = preprocessing.USUAL
    for wrong, right in (("0 to 255", "0 to 1"), ("0 to 1", "mean 0.5, spread 0.5")):
        module = settled_on(images, replace(PREP, mean=usual[right][0], std=usual[right][1]))
        prep = replace(PREP, mean=usual[wrong][0], std=usual[wrong][1])
        blind, nearer = controls._worth_trying(probes(scene_of(root, module, prep=prep))(24))
        assert blind == (preprocessing.SWAPPED,)
        assert right in nearer
        assert wrong not in nearer
        prep = replace(PREP, mean=usual[right][0], std=usual[right][1])
        blind, nearer = controls._worth_trying(probes(scene_of(root, module, prep=prep))(24))
        assert wrong not in blind + nearer


def test_grey_pictures_have_no_channels_to_exchange(tmp_path):
    root = fill(tmp_path / "photos", COUNTS)
    for path in root.rglob("*.png"):
        with Image.open(path) as picture:
            picture.convert("L").save(path)
    blind, _ = controls._worth_trying(probes(scene_of(root))(24))
    assert preprocessing.SWAPPED not in blind


def test_without_statistics_every_usual_way_is_tried(pictures):
    names, nearer = controls._worth_trying(probes(scene_of(pictures, "layers"))(24))
    assert nearer == ()
    assert set(names) == {preprocessing.SWAPPED, *preprocessing.USUAL} - {"mean 0.5, spread 0.5"}


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
    root = fill(tmp_path / "photos", dict.fromkeys(COUNTS, 24))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Saturated().eval()
    wrong, right = fed_by(0.0, 1 / 255), fed_by(0.5, 0.5)
    result = try_preprocessing(probes(scene_of(root, module, prep=wrong)))
    finding = warning(result)
    assert finding is not None
    assert finding.items[0] in preprocessing.USUAL
    assert result.value > 0.2
    assert warning(try_preprocessing(probes(scene_of(root, module, prep=right)))) is None


def test_more_images_are_taken_while_the_answer_is_open(pictures, monkeypatch):
    sizes = []

    def compare(probe, names, nearer):
        sizes.append(len(probe.rows))
        return Evidence(
            name="preprocessing",
            value=0.04,
            low=0.0,
            high=0.1,
            n=9,
            meaning=".",
            details={"error": 0.05, "best": "x"},
        )

    monkeypatch.setattr(rules, "PREPROCESSING_STAGES", (8, 20))
    monkeypatch.setattr(controls, "_compare_preprocessings", compare)
    monkeypatch.setattr(controls, "_worth_trying", lambda probe: ((preprocessing.SWAPPED,), ()))
    try_preprocessing(probes(scene_of(pictures)))
    assert sizes == [8, 20]


def test_where_the_old_statistics_speak_many_images_are_taken_at_once(pictures, monkeypatch):
    sizes = []

    def compare(probe, names, nearer):
        sizes.append((len(probe.rows), names, nearer))
        return Evidence(name="preprocessing", value=None, low=None, high=None, n=9, meaning=".")

    monkeypatch.setattr(rules, "PREPROCESSING_STAGES", (8, 20))
    monkeypatch.setattr(controls, "_compare_preprocessings", compare)
    monkeypatch.setattr(controls, "_worth_trying", lambda probe: (("a",), ("b",)))
    try_preprocessing(probes(scene_of(pictures)))
    assert sizes == [(20, ("a", "b"), ("b",))]
