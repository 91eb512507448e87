"""With `--budget thorough`, the same design trained from scratch beside the base model."""

from __future__ import annotations

import numpy as np
import pytest

from hue_images import fill
from tiny import fit
from warmstart.planning import fine_tuning, rules
from warmstart.run import from_scratch
from warmstart.run.from_scratch import scratch

COUNTS = {"blue": 16, "green": 16, "red": 16}
SHORT = {"training.epochs": 0.6667, "training.batch_size": 8, "training.folds": 2}


@pytest.fixture
def short(monkeypatch):
    """As long as a test may be."""
    monkeypatch.setattr(rules, "samples_seen", lambda n, budget="balanced": 48)
    monkeypatch.setattr(fine_tuning, "samples_from_scratch", lambda n: 48)


def run(place, **options):
    fill(place / "pictures", COUNTS)
    usual = {"budget": "thorough", "settings": SHORT, "out": place / "run"}
    return fit(place / "pictures", **{**usual, **options})


def evidence(done):
    return {one.name: one for one in done.verdict.evidence}


@pytest.fixture
def doubtful(monkeypatch):
    """One size never settles it."""
    monkeypatch.setattr(from_scratch, "behind", lambda *result: None)


def test_one_training_is_enough_where_it_stays_far_behind(tmp_path, short):
    result = evidence(run(tmp_path))["scratch"]
    assert result.n == 16  # of 48, held out by the first of three folds
    assert result.high < 0
    assert [name for name in result.details if name.startswith("accuracy.")] == ["accuracy.32"]
    assert result.details["later"] == (1 + result.details["now"]) / 2
    assert "stay behind" in result.meaning


@pytest.mark.parametrize("kind", ["convolutions", "attention"])
def test_networks_from_nothing_are_measured_at_three_sizes(tmp_path, short, doubtful, kind):
    done = run(tmp_path, kind=kind)
    result = evidence(done)["scratch"]
    assert result.n == 48
    assert result.low <= result.value <= result.high
    sizes = [int(name.partition(".")[2]) for name in result.details if name.startswith("accuracy.")]
    assert len(sizes) == 3
    assert sizes == sorted(sizes)
    assert sizes[-1] == 32  # two thirds of 48
    assert done.summary.frozen.identical


def test_it_is_the_same_again_and_moves_nothing_that_ships(tmp_path, short, doubtful, monkeypatch):
    first, second = (run(tmp_path / name) for name in ("a", "b"))
    assert evidence(first)["scratch"] == evidence(second)["scratch"]
    monkeypatch.setattr(from_scratch, "has_signal", lambda p: False)
    without = run(tmp_path / "c")
    assert "scratch" not in evidence(without)
    names = ["model.safetensors", "calibration.json"]
    for name in names:
        assert (first.path / "model" / name).read_bytes() == (
            without.path / "model" / name
        ).read_bytes()


@pytest.mark.parametrize("options", [{"budget": "balanced"}, {"minutes": 1.0}])
def test_it_is_left_out_where_it_was_not_asked_for(tmp_path, short, options):
    assert "scratch" not in evidence(run(tmp_path, **options))


@pytest.mark.parametrize("samples", [48, 3 * 3 * 48])  # of the first training, of all
def test_training_that_would_take_too_long_is_left_out(
    tmp_path, short, doubtful, monkeypatch, samples
):
    seconds = {48: 0.0, 3 * 3 * 48: 0.0} | {samples: 6000.0}
    monkeypatch.setattr(fine_tuning, "scratch_seconds", lambda network, samples: seconds[samples])
    result = evidence(run(tmp_path))["scratch"]
    assert result.value is None
    assert "100 minutes more" in result.meaning


SIZES = np.array([25.0, 50.0, 100.0])


def course(accuracies, warm, n=200, seed=0):
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    hits = np.stack([(order < share * n).astype(float) for share in accuracies])
    return hits, (rng.permutation(n) < warm * n).astype(float)


def measured(accuracies, warm, groups=None):
    hits, own = course(accuracies, warm)
    rows = np.arange(hits.shape[1]) if groups is None else groups
    return scratch(SIZES, hits, own, rows, 96, np.random.default_rng(0))


def test_a_curve_far_below_stays_below_one_that_rises_comes_out_above_an_equal_one_is_open():
    below, above = measured([0.2, 0.25, 0.3], 0.9), measured([0.6, 0.75, 0.85], 0.8)
    assert below.high < -0.3
    assert (below.details["now"], below.details["warm"]) == (0.3, 0.9)
    assert "96 px" in below.meaning
    assert above.value > 0.05
    assert above.details["later"] == pytest.approx(above.value + 0.8)
    level = measured([0.7, 0.7, 0.7], 0.7)
    assert level.low < 0 < level.high
    assert level.low < level.value < level.high


def test_blocks_widen_the_interval():
    alone = measured([0.3, 0.4, 0.5], 0.6)
    groups = np.sort(np.arange(200) % 10)
    hits = np.stack([np.sort(one) for one in course([0.3, 0.4, 0.5], 0.6)[0]])
    own = np.sort(course([0.5], 0.6)[1])
    together = scratch(SIZES, hits, own, groups, 96, np.random.default_rng(0))
    assert together.details["error"] > alone.details["error"]
