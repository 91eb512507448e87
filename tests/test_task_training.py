"""Several labels and numbers where layers are trained: what that brings, and going on with it."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tiny
import warmstart
from test_other_tasks import TEST, N, written

pytestmark = pytest.mark.slow

CLOCKED = {"progress.jsonl", "summary.json", "request.json", "report.html", "env.json"}
COLUMNS = {"multilabel": "label", "regress": "light"}


def pictures(seed=0, n=N + TEST):
    """Noise whose light is a number and whose tint has two labels, neither of them plain."""
    rng = np.random.default_rng(seed)
    has, light = rng.random((n, 2)) < 0.5, rng.uniform(60, 180, size=n)
    X = light[:, None, None, None] + rng.normal(0, 20, (n, 1, 1, 3))
    X = X + rng.normal(0, 12, (n, 32, 32, 3))
    X[..., 0] += 50 * has[:, 0, None, None]
    X[..., 2] += 50 * has[:, 1, None, None]
    return np.clip(X, 0, 255).astype(np.uint8), has, light


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures with labels and a number in one table, a start, and a cache."""
    root = tmp_path_factory.mktemp("trained")
    X, has, light = pictures()
    names = ["|".join(n for n, h in zip(("red", "blue"), row, strict=True) if h) for row in has]
    cells = [f"{name},{value:.3f}" for name, value in zip(names, light, strict=True)]
    written(root, "label,light", cells, X)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        patch.chdir(root)
        yield root


def fit(task, out, on_event=None, **options):
    """A run from a table of the pictures; a strategy makes its checks short."""
    return warmstart.fit(
        "t.csv",
        task=task,
        label=COLUMNS[task],
        out=out,
        base=tiny.network(),
        preprocessing=tiny.PREP,
        on_event=on_event,
        **options,
    )


@pytest.mark.parametrize("task", COLUMNS)
def test_tuned_layers_are_not_below_the_head(place, task):
    run = fit(task, place / task, budget="balanced")
    result = {one.name: one for one in run.verdict.evidence}["fine_tuning_gain"]
    # All five folds were held out, or two: then training did not pay and the linear probe ships.
    assert run.plan.training.folds.value == 5
    assert result.n == N or (result.n == 2 * N // 5 and run.summary.shipped.strategy == "head")
    assert run.summary.estimate.n == N
    assert result.high > 0  # no worse beyond chance than a linear probe that learnt from more
    claim, probe = run.summary.estimate, run.summary.linear_probe
    assert claim.value > probe.value - 0.02
    assert run.summary.shipped.strategy in ("head", "ensemble", "last:1")
    test = json.loads((run.path / "summary.json").read_text())["test"]
    assert test["mAP" if task == "multilabel" else "r2"] > 0.65
