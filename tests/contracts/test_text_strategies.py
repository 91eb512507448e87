"""Every depth, low-rank updates and windows over long texts, from a table to an answer."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

import tiny
import tiny_text_encoder
import warmstart
from warmstart.errors import PlanError
from warmstart.training import trainer

pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Texts of which every third is longer than the encoder reads at a time; it tells late."""
    root = tmp_path_factory.mktemp("long")
    rng = np.random.default_rng(0)
    lines = ["text,label"]
    for number, (text, label) in enumerate(tiny_text_encoder.rows(10)):
        ahead = " ".join(rng.choice(tiny_text_encoder.FILLERS, 25)) if number % 3 == 0 else ""
        lines.append(f"{ahead} {text},{label}")
    lines += ["né 😀 مرحبا,sky", '"  ",food']
    (root / "t.csv").write_text("\n".join(lines) + "\n", "utf-8")
    encoder = tiny_text_encoder.encoder(root / "encoder", max_position_embeddings=24)
    return {"data": root / "t.csv", "base": f"transformers:{encoder}", "budget": "fast"}


FATES = {
    "full": ({"embeddings", "layer.1", "layer.2"}, "trained"),
    "last:1": ({"layer.2"}, "trained"),
    "last:2+lora": ({"layer.1", "layer.2"}, "merged"),
}


@pytest.mark.parametrize("strategy", FATES)
def test_every_depth_learns_from_long_and_short_texts(asked, tmp_path, strategy):
    settings = ["training.epochs=1.9355", "training.lr=1e-3"]
    run = warmstart.fit(**asked, strategy=strategy, settings=settings, out=tmp_path / "run")
    blocks, fate = FATES[strategy]
    rows = json.loads((run.path / "weights_ledger.json").read_text("utf-8"))["rows"]
    assert {row["block"] for row in rows if row["fate"] == fate} == blocks
    assert run.summary.frozen.identical
    found = {finding.kind: finding for finding in run.summary.findings}
    assert found["windows"].sentence.startswith("10 of the 31 texts are longer than 24 tokens")
    assert "truncated" not in found
    assert run.plan.input.size.value == 48
    late = " ".join(["the"] * 30) + " soup bread"
    answers = run.predict([late, "soup bread", ""])
    assert answers[0].scores.keys() == {"food", "sky", "sport"}
    assert answers[2].error == " is empty"


def test_a_run_on_long_texts_is_exported_and_cut_where_wished(asked, tmp_path):
    run = warmstart.fit(**asked, strategy="head", out=tmp_path / "run")
    told = warmstart.export(run, "onnx", out=tmp_path / "onnx")
    assert "L = 48" in told.inputs
    assert told.agreement.same_labels == told.agreement.n
    cut = warmstart.fit(**asked, settings=["input.size=16"], out=tmp_path / "cut")
    kinds = {finding.kind: finding.sentence for finding in cut.summary.findings}
    assert "windows" not in kinds
    assert "longer than 16 tokens; only their beginning is read" in kinds["truncated"]
    again = warmstart.fit(**asked, plan=run.path / "plan.toml", out=tmp_path / "again")
    assert tiny.bytes_of(again.path / "model") == tiny.bytes_of(run.path / "model")


def test_pairs_are_compared_in_one_process(monkeypatch):
    chosen = SimpleNamespace(contrastive=True, parallel="data")
    monkeypatch.setattr(trainer, "here", lambda: SimpleNamespace(size=2))
    with pytest.raises(PlanError, match="compares all texts of a batch, and 2 processes share it"):
        trainer.choose_parallelism(None, None, chosen, ())


@pytest.mark.parametrize(("batch", "temperature"), [(31, 0.0), (12, 0.1)], ids=["all", "some"])
def test_layers_learn_by_pairs_where_that_is_wished(asked, tmp_path, batch, temperature):
    """All texts in one update, or some of them, each told from the others."""
    wished = ["training.contrastive=true", "training.epochs=4", f"training.batch_size={batch}"]
    wished.append(f"training.contrastive_temperature={temperature}")
    run = warmstart.fit(**asked, strategy="full", lr=1e-3, settings=wished, out=tmp_path / "run")
    assert run.plan.training.contrastive.value is True
    assert run.plan.training.contrastive_temperature.value == temperature
    rows = json.loads((run.path / "weights_ledger.json").read_text("utf-8"))["rows"]
    assert {row["block"] for row in rows if row["fate"] == "trained"} == FATES["full"][0]
    again = warmstart.fit(**asked, plan=run.path / "plan.toml", out=tmp_path / "again")
    assert tiny.bytes_of(again.path / "model") == tiny.bytes_of(run.path / "model")
