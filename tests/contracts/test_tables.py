"""The laws over tables: cache key, frozen parts, plans, resuming, test labels, fitted columns."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import tables
import warmstart
from run_texts import image_words_in
from tiny import bytes_of, lines
from warmstart.data.tables import type_columns
from warmstart.features.cache_key import FeatureKey
from warmstart.modalities.table import encode_row, pack
from warmstart.network.partition import cut
from warmstart.network.table_network import draw
from warmstart.records.inputs import TableInputs
from warmstart.records.network import FeatureLayer

SMALL = {"settings": ["training.epochs=4", "training.folds=1"], "budget": "fast"}


def rows_of(body):
    names = tables.COLUMNS[:-1]
    return [dict(zip(names, row, strict=False)) for row in body]


def inputs_of(body):
    rows = rows_of(body)
    typed = type_columns(rows, [f"line {n}" for n in range(len(rows))], "t.csv")
    return TableInputs(columns=typed.columns)


def encoded(body, inputs):
    return np.stack([encode_row(pack(row), "row", inputs) for row in rows_of(body)])


# ---- law 1 and 4 --------------------------------------------------------------------------


def test_parts_and_head_compose_to_the_network_for_any_columns():
    import torch

    for body in (tables.rows(30), tables.rows(30, missing=False)):
        inputs = inputs_of(body)
        module = draw(inputs, 3, 1)
        values = torch.from_numpy(encoded(body, inputs))
        torch.testing.assert_close(cut(module, inputs).logits(values), module(values))


def test_the_cache_key_misses_where_a_column_is_scaled_otherwise():
    inputs = inputs_of(tables.rows(30))
    first, *others = inputs.columns
    changed = TableInputs(columns=(replace(first, mean=first.mean + 1), *others))
    keys = {
        FeatureKey(
            network="n",
            arch="a",
            blocks=("columns",),
            feature_layers=(FeatureLayer(block=1, pool="avg"),),
            preprocessing=prep,
            decoder="cells 1",
            engine="torch",
            engine_version="t",
            threads=1,
        ).digest
        for prep in (inputs, changed)
    }
    assert len(keys) == 2


# ---- whole runs ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run with a test part, all layers trained from nothing, and what it was asked."""
    root = tmp_path_factory.mktemp("first")
    data, test = tables.table(root / "t.csv", 40), tables.table(root / "test.csv", 12, seed=7)
    asked = {"data": data, "test": test, "strategy": "scratch", **SMALL}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        return warmstart.fit(**asked, out=root / "run"), asked


def test_no_sentence_of_the_run_speaks_of_images(first):
    assert image_words_in(first[0].path) == {}


def test_parts_that_are_frozen_stay_as_they_were(first, tmp_path):
    base, asked = str(first[0].path), {**first[1], "strategy": "last:1"}
    run = warmstart.fit(**asked, base=base, out=tmp_path / "run")
    assert run.summary.frozen.identical
    ledger = json.loads((run.path / "weights_ledger.json").read_text())["rows"]
    frozen = [row for row in ledger if row["block"] in ("columns", "mix", "blocks.0")]
    assert {row["fate"] for row in frozen} == {"frozen"}
    assert all(row["before"] == row["after"] for row in frozen)


def test_a_plan_that_is_replayed_gives_the_same_run(first, tmp_path):
    run, asked = first
    plain = {name: asked[name] for name in ("data", "test")}
    again = warmstart.fit(**plain, plan=run.path / "plan.toml", out=tmp_path / "again")
    assert bytes_of(again.path / "model") == bytes_of(run.path / "model")
    assert again.estimate == run.estimate


def test_a_stopped_run_goes_on_as_if_it_had_not_been(first, tmp_path):
    run, asked = first

    def stop(event):
        if event.stage == "fine_tune" and event.kind == "step" and event.step > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        warmstart.fit(**asked, out=tmp_path / "cut", on_event=stop)
    again = warmstart.resume(tmp_path / "cut")
    assert bytes_of(again.path / "model") == bytes_of(run.path / "model")
    assert again.summary.baselines == run.summary.baselines


def test_permuting_the_test_labels_changes_the_test_metrics_alone(first, tmp_path):
    run, asked = first
    body = list(csv.reader(asked["test"].open()))[1:]
    other = [[*row[:3], {"ill": "well", "well": "ill"}[row[3]]] for row in body]
    test = tables.write(tmp_path / "test.csv", other)
    again = warmstart.fit(**{**asked, "test": test}, out=tmp_path / "run")
    assert bytes_of(again.path / "model") == bytes_of(run.path / "model")
    for name in ("plan.toml", "inspection.json"):
        assert (again.path / name).read_bytes() == (run.path / name).read_bytes()
    for name in ("verdict", "shipped", "estimate", "baselines"):
        assert getattr(again.summary, name) == getattr(run.summary, name)
    assert again.test.accuracy == pytest.approx(1 - run.test.accuracy)


def test_nothing_that_is_fitted_looks_at_the_test_rows(first, tmp_path):
    run, asked = first
    wild = [["9e6", "-9e6", "east", row[3]] for row in tables.rows(12, seed=7)]
    test = tables.write(tmp_path / "test.csv", wild)
    again = warmstart.fit(**{**asked, "test": test}, out=tmp_path / "run")
    assert bytes_of(again.path / "model") == bytes_of(run.path / "model")
    oof = [
        [p for p in lines(r.path, "predictions.jsonl") if p["split"] == "oof"] for r in (run, again)
    ]
    assert oof[0] == oof[1]


# ---- law 11 -------------------------------------------------------------------------------


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
