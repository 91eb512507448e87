"""What pretraining is worth: the pretrained network's accuracy minus the better control's."""

import numpy as np
import pytest
import torch
from scipy.special import stdtrit

from extraction import scene_of, table
from hue_images import fill
from refit import kernel_of, left_out, singles, told_apart
from tiny import KINDS
from warmstart.events import drain
from warmstart.evidence import check as module
from warmstart.evidence.check import (
    CLEAR,
    SHUFFLE_SD,
    is_clear,
    measure_transfer_gain,
    transfer_gain,
)
from warmstart.evidence.probe import best_left_out, open_probe
from warmstart.planning import rules
from warmstart.records.summary import Evidence
from warmstart.stats.intervals import kish, number_groups, standard_error


def few(group_rows):
    """How much wider few blocks make an interval of 90 %."""
    return stdtrit(kish(number_groups(group_rows)) - 1, 0.95) / 1.645


def arms(rng, labels, strengths):
    """Kernels whose features tell the class by so much each."""
    k = int(labels.max()) + 1
    result = []
    for strength in strengths:
        features = rng.normal(size=(len(labels), 8))
        features[:, :k] += strength * np.eye(k)[labels]
        result.append([kernel_of(features)])
    return result


def ask(rng, n=90, k=3, trained=3.0, shuffles=(0.5, 0.8, 0.3), pixels=0.2, group_rows=None):
    """The evidence, and the hits (n,) of each of its probes, refitted without each group."""
    labels, group_rows = rng.permutation(np.arange(n) % k), group_rows or singles(n)
    first, pixel, *rest = arms(rng, labels, (trained, pixels, *shuffles))
    result = transfer_gain(first, rest, pixel, labels, group_rows)
    if len(group_rows) < 2:
        return result, None, None, None, None
    groups = number_groups(group_rows)
    few = stdtrit(kish(groups) - 1, 0.95) / 1.645  # how much wider few groups make an interval
    own, raw, *shuffled = (slow_hits(x, labels, group_rows) for x in (first, pixel, *rest))
    return result, own, raw, np.array(shuffled), lambda gap: (standard_error(gap, groups), few)


def slow_hits(kernels, labels, group_rows):
    """Hits of the kept head, fitted anew without each block."""
    k = int(labels.max()) + 1
    head = best_left_out(kernels, labels, group_rows, k)
    scores = left_out(kernels[head.number], np.eye(k)[labels], head.penalty, group_rows)
    return (scores.argmax(axis=1) == labels).astype(float)


@pytest.mark.parametrize("group_rows", [None, np.split(np.arange(90), 15)], ids=["rows", "groups"])
def test_the_value_is_what_the_pretrained_network_has_beyond_the_shuffled_ones(group_rows):
    result, own, _, shuffled, error_of = ask(np.random.default_rng(0), group_rows=group_rows)
    assert result.details["trained"] == pytest.approx(own.mean())
    assert result.details["shuffled"] == pytest.approx(shuffled.mean())
    assert result.value == pytest.approx(own.mean() - shuffled.mean())
    paired, few = error_of(own - shuffled.mean(axis=0))
    spread = max(np.var(shuffled.mean(axis=1), ddof=1), SHUFFLE_SD**2)
    error = few * np.sqrt(max(paired, 1 / 90) ** 2 + spread / 3)
    assert result.details["error"] == pytest.approx(error)
    assert result.low == pytest.approx(result.value - 1.96 * error)
    assert result.high == pytest.approx(min(result.value + 1.96 * error, 1.0))
    assert (result.n, result.details["shuffles"]) == (90, 3)
    assert f"accuracy of {100 * own.mean():.0f} % with the pretrained weights" in result.meaning


def test_pixels_are_the_control_where_they_do_better():
    result, own, raw, shuffled, error_of = ask(np.random.default_rng(1), pixels=1.5)
    assert result.details["pixels"] == raw.mean() > shuffled.mean()
    assert result.value == pytest.approx(own.mean() - raw.mean())
    paired, few = error_of(own - raw)
    assert result.details["error"] == pytest.approx(few * paired)


def test_one_shuffle_is_not_taken_for_certain():
    result, own, _, shuffled, error_of = ask(np.random.default_rng(2), shuffles=(0.5,), pixels=0.0)
    paired, few = error_of(own - shuffled[0])
    assert result.details["error"] == pytest.approx(few * np.hypot(paired, SHUFFLE_SD))


def test_clear_knowledge_is_clear_and_none_is_not():
    clear, *_ = ask(np.random.default_rng(4))
    assert is_clear(clear)
    assert clear.value > CLEAR * clear.details["error"]
    unclear, *_ = ask(np.random.default_rng(5), trained=0.5)
    assert not is_clear(unclear)


def test_random_labels_give_no_knowledge():
    """However good the features: what is asked for is not in them."""
    rng = np.random.default_rng(6)
    features, _ = told_apart(rng, 80, 2, 4.0)
    plain, *others = ([kernel_of(rng.normal(size=(80, 8)))] for _ in range(3))
    warning = []
    for _ in range(60):
        labels = rng.permutation(np.arange(80) % 2)
        result = transfer_gain([kernel_of(features)], others, plain, labels, singles(80))
        warning.append(result.value - 1.64 * result.details["error"] > 0)
        assert not is_clear(result)
    assert np.mean(warning) <= 0.10


def test_images_that_all_belong_together_tell_nothing():
    result, *_ = ask(np.random.default_rng(7), group_rows=[np.arange(90)])
    assert result.value is result.low is result.high is None
    assert not is_clear(result)


def test_arms_that_err_on_the_same_rows_are_not_told_apart_exactly():
    rng = np.random.default_rng(4)
    labels = rng.permutation(np.arange(60) % 3)
    (same,) = arms(rng, labels, (6.0,))
    result = transfer_gain(same, [same], same, labels, singles(60))
    assert result.value == 0.0
    assert result.details["error"] >= 1 / 60


# ---- measured on a network ----


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_random_weights_knows_nothing(kind, pictures):
    training_data = scene_of(pictures, kind)
    backbone = training_data.extracted.network.backbone
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    result = drain(measure_transfer_gain(open_probe(training_data), 3, seed=0))
    assert (result.name, result.n) == ("transfer_gain", 36)
    assert result.value - 1.64 * result.details["error"] <= 0
    after = backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in backbone.modules())
    again = drain(measure_transfer_gain(open_probe(training_data), 3, seed=0))
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
    monkeypatch.setattr(module, "transfer_gain", weigh)
    result = drain(measure_transfer_gain(open_probe(scene_of(pictures)), 2, seed=0))
    assert sizes == stages
    assert result.n == stages[-1][0]


def test_shuffles_of_the_same_images_serve_again(pictures, monkeypatch):
    drawn, draw = [], module.control_features
    monkeypatch.setattr(module, "control_features", lambda *a: drawn.append(1) or draw(*a))
    monkeypatch.setattr(rules, "TRANSFER_GAIN_STAGES", ((15, 1), (15, 3)))
    result = drain(measure_transfer_gain(open_probe(scene_of(pictures)), 3, seed=0))
    assert (len(drawn), result.details["shuffles"]) == (3, 3)


def test_many_classes_take_more_images(pictures, monkeypatch):
    monkeypatch.setattr(rules, "TRANSFER_GAIN_STAGES", ((6, 1), (6, 1)))
    assert drain(measure_transfer_gain(open_probe(scene_of(pictures)), 3, seed=0)).n == 15


def test_a_few_large_groups_still_give_several_blocks(tmp_path):
    """Whole groups of a hundred would leave a few images with one group and none to judge by."""
    root = fill(tmp_path / "photos", dict.fromkeys(("blue", "red"), 60))
    files = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    source = table(root, [(f, f.parent, n % 3) for n, f in enumerate(files)])
    training_data = scene_of(source, "layers", label="label", group="person")
    assert [len(rows) for rows in training_data.labelled.group_rows] == [40, 40, 40]
    group_rows = open_probe(training_data)(20).group_rows()
    assert len(group_rows) == 3
    assert sorted(np.concatenate(group_rows)) == list(range(20))
    result = drain(measure_transfer_gain(open_probe(training_data), 2, seed=0))
    assert np.isfinite([result.value, result.low, result.high, result.details["error"]]).all()
