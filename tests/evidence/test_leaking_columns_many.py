"""Many columns: those that cannot tell are passed over, those that do are found."""

from __future__ import annotations

import numpy as np
import pytest

from warmstart.evidence import spurious
from warmstart.evidence.spurious import leaking_columns, leaking_columns_regression

N = 240
PARTS = np.array_split(np.random.default_rng(1).permutation(N), 4)


def columns(truth, n=150):
    rng = np.random.default_rng(0)
    result = {f"c{k}": rng.normal(size=(N, 1)) for k in range(n)}
    result["plain"] = truth[:, None] + rng.normal(0, 0.02, (N, 1))
    result["split"] = np.where(truth > truth.mean(), rng.integers(0, 2, N) * 10 - 5, 1.0)[:, None]
    share = (truth - truth.min()) / np.ptp(truth)
    result["names"] = np.eye(4)[(4 * share).clip(0, 3.99).astype(int)]
    return result


@pytest.mark.parametrize("n_classes", [2, 4])
def test_among_many_columns_the_same_are_found(monkeypatch, n_classes):
    labels = np.arange(N) % n_classes
    given = columns(labels.astype(float))
    many = leaking_columns(given, labels, PARTS, 0)
    monkeypatch.setattr(spurious, "MANY", 10**9)
    assert many is not None
    assert many == leaking_columns(given, labels, PARTS, 0)


def test_the_same_of_numbers(monkeypatch):
    truth = np.random.default_rng(2).uniform(0, 3, N)
    given = columns(truth)
    many = leaking_columns_regression(given, truth, PARTS, 0)
    monkeypatch.setattr(spurious, "MANY", 10**9)
    assert many is not None
    assert many == leaking_columns_regression(given, truth, PARTS, 0)


def test_few_trees_are_grown_for_many_columns(monkeypatch):
    labels, grown = np.arange(N) % 2, []
    accuracy = spurious._accuracy
    monkeypatch.setattr(spurious, "_accuracy", lambda *a: grown.append(1) or accuracy(*a))
    leaking_columns(columns(labels.astype(float), 2000), labels, PARTS, 0)
    assert len(grown) <= 10
