"""Law 11: what is fitted is fitted inside each fold, label-free scaling over training rows apart.

The exception is measured: scaling fitted inside each outer fold, by brute force, gives the
same estimate. That nothing fitted looks at the test set: test_runs.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import tables
from tiny import bytes_of, fit
from warmstart.data.splits import folds
from warmstart.data.tables import type_columns
from warmstart.modalities.table import encode_row, pack
from warmstart.records.inputs import TableInputs
from warmstart.solve import ridge
from warmstart.solve.calibration import fit_temperature, log_losses
from warmstart.solve.kernels import apply_scaling, fit_scaling, mixed_kernels

PENALTY = 0.3  # a fixed head: nothing but the scaling differs
N, DRAWS = 100, 12


def pooled(rng):
    """Positive features of very different sizes: ReLU outputs averaged over 16 places."""
    labels = rng.integers(0, 4, N)
    centres = 0.1 * rng.gamma(1.0, 1.0, (4, 150))
    values = np.maximum(rng.normal(centres[labels][:, None], 1.0, (N, 16, 150)), 0).mean(axis=1)
    return values * 10.0 ** rng.uniform(-2, 2, 150), labels


def digits(rng):
    """Real scans: features that never vary, and some that vary in a few rows only."""
    pixels, labels = load_digits(return_X_y=True)
    rows = rng.choice(len(labels), N, replace=False)
    return pixels[rows], labels[rows]


def scored(features, labels, keep, scaling):
    """Ridge by plain normal equations on the kept rows: scores of all rows."""
    rows = apply_scaling(features, scaling).astype(np.float64)
    mean, targets = rows[keep].mean(axis=0), np.eye(labels.max() + 1)[labels]
    inner = rows[keep] - mean
    solved = np.linalg.solve(
        inner @ inner.T + PENALTY * np.eye(len(keep)), targets[keep] - targets[keep].mean(axis=0)
    )
    return (rows - mean) @ (inner.T @ solved) + targets[keep].mean(axis=0)


def estimate(features, labels, fold, *, inside):
    """Hits and calibrated log-losses out of fold, the scaling fitted inside each fold or once."""
    hits, losses = np.empty(len(labels)), np.empty(len(labels))
    for number in range(fold.max() + 1):
        keep, out = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        scaling = fit_scaling(features[keep] if inside else features)
        scores = scored(features, labels, keep, scaling)[out]
        kernel = mixed_kernels([("layer", features[keep])], {"one": {"layer": 1.0}})["one"]
        dual = ridge.fit(kernel, np.eye(labels.max() + 1)[labels[keep]], PENALTY)
        left_out = ridge.left_out(dual, [np.array([row]) for row in range(len(keep))])
        calibration = fit_temperature(left_out, labels[keep])
        hits[out] = scores.argmax(axis=1) == labels[out]
        losses[out] = log_losses(scores, labels[out], calibration)
    return hits, losses


@pytest.mark.parametrize("draw", [pooled, digits])
def test_scaling_inside_the_folds_moves_the_estimate_by_less_than_a_tenth_of_its_error(draw):
    moved, errors = [], []
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        features, labels = draw(rng)
        features = features.astype(np.float32)
        fold = folds(labels, np.arange(N), 10, rng)
        shared, nested = (estimate(features, labels, fold, inside=i) for i in (False, True))
        moved.append([b.mean() - a.mean() for a, b in zip(shared, nested, strict=True)])
        errors.append([values.std(ddof=1) / np.sqrt(N) for values in nested])
    # One draw's accuracy moves in steps of a whole example: the law is on the mean of draws.
    assert (np.abs(np.mean(moved, axis=0)) < 0.1 * np.mean(errors, axis=0)).all()
    assert (np.abs(moved)[:, 1] < 0.1 * np.array(errors)[:, 1]).all()


def test_a_leak_of_labels_through_the_scaling_would_be_seen():
    """The same measure does see a scaling that looks at labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, N)
    noise = rng.normal(size=(N, 400)).astype(np.float32)
    fold = folds(labels, np.arange(N), 10, rng)
    honest = estimate(noise, labels, fold, inside=True)[0].mean()
    gap = noise[labels == 1].mean(axis=0) - noise[labels == 0].mean(axis=0)
    peeked = estimate(noise * gap**2, labels, fold, inside=False)[0].mean()
    assert abs(honest - 0.5) < 0.2
    assert peeked > 0.8


def test_a_run_without_a_test_part_ships_the_same_model(split_pictures, tmp_path):
    with_test = fit(split_pictures, out=tmp_path / "a")
    without = fit(split_pictures / "train", out=tmp_path / "b")
    ours, theirs = bytes_of(with_test.path / "model"), bytes_of(without.path / "model")
    assert ours.keys() == theirs.keys()
    same = {name for name in ours if ours[name] == theirs[name]}
    assert ours.keys() - same == {"neighbours.safetensors"}  # it holds ids, here "train/…"


# ---- columns of a table ------------------------------------------------------------------------


def rows_of(body):
    names = tables.COLUMNS[:-1]
    return [dict(zip(names, row, strict=False)) for row in body]


def inputs_of(body):
    rows = rows_of(body)
    typed = type_columns(rows, [f"line {n}" for n in range(len(rows))], "t.csv")
    return TableInputs(columns=typed.columns)


def encoded(body, inputs):
    return np.stack([encode_row(pack(row), "row", inputs) for row in rows_of(body)])


def test_columns_told_inside_the_folds_move_the_estimate_by_less_than_a_tenth_of_its_error():
    """What columns are is told without labels, from all training rows: the exception, measured."""
    moved, errors = [], []
    for seed in range(40):
        body = tables.rows(60, seed=seed, noise=1.2)
        labels = np.array([row[3] for row in body])
        fold = np.random.default_rng(seed).permutation(60) % 5
        hits = {True: np.empty(60), False: np.empty(60)}
        for number in range(5):
            keep, out = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            for inside in (True, False):
                inputs = inputs_of([body[row] for row in keep] if inside else body)
                values = encoded(body, inputs)
                model = LogisticRegression(max_iter=500).fit(values[keep], labels[keep])
                hits[inside][out] = model.predict(values[out]) == labels[out]
        moved.append(hits[True].mean() - hits[False].mean())
        errors.append(hits[True].std(ddof=1) / np.sqrt(60))
    assert abs(np.mean(moved)) < 0.1 * np.mean(errors)
