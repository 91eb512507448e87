"""Several labels and numbers where layers are trained: what that brings, and going on with it."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tiny
import warmstart
from test_other_tasks import TEST, N, written
from tiny import bytes_of, lines

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


class Stop(BaseException):
    """Somebody closes the run."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures with labels and a number in one table, a start, and a cache."""
    root = tmp_path_factory.mktemp("trained")
    X, has, light = pictures()
    names = ["|".join(n for n, h in zip(("red", "blue"), row, strict=True) if h) for row in has]
    cells = [f"{name},{value:.3f}" for name, value in zip(names, light, strict=True)]
    written(root, "label,light", cells, X)
    tiny.weights(root, tiny.CONVNEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        patch.chdir(root)
        yield root


def fit(task, out, on_event=None):
    """A run that tries its upper layers, as `balanced` does."""
    return warmstart.fit(
        "t.csv", task=task, label=COLUMNS[task], out=out, start="test_convnext.safetensors",
        arch=tiny.CONVNEXT, settings=["training.passes=400"], on_event=on_event,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(place):
    """A finished run of each task."""
    return {task: fit(task, place / "whole" / task) for task in COLUMNS}


@pytest.mark.parametrize("task", COLUMNS)
def test_tuned_layers_are_not_below_the_head(runs, task):
    run = runs[task]
    found = {one.name: one for one in run.verdict.evidence}["tail_gain"]
    assert found.n == N
    assert found.value > -0.02
    assert run.summary.shipped.strategy in ("head", "blend", "last:6")
    test = json.loads((run.path / "summary.json").read_text())["test"]
    assert test["mAP" if task == "multilabel" else "r2"] > 0.7


@pytest.mark.parametrize("task", COLUMNS)
def test_a_training_goes_on_where_it_was_stopped(runs, place, task):
    def see(event):
        if (event.stage, event.kind) == ("tune", "step") and event.values.get("lesson") == 2:
            raise Stop

    with pytest.raises(Stop):
        fit(task, place / "stopped" / task, see)
    again = warmstart.resume(place / "stopped" / task)
    ours, theirs = bytes_of(again.path), bytes_of(runs[task].path)
    assert {n for n in {*ours, *theirs} if ours.get(n) != theirs.get(n)} <= CLOCKED
    assert lines(again.path, "predictions.jsonl") == lines(runs[task].path, "predictions.jsonl")
