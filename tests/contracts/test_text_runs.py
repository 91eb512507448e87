"""Runs on texts: what no other modality has, from windows over long texts to pairs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import tiny
import tiny_text_encoder
import warmstart
from server_client import live
from warmstart.errors import PlanError
from warmstart.serving.model import ServerLimits
from warmstart.serving.serve import ServeOptions, application
from warmstart.training import trainer


@pytest.fixture(scope="module")
def long_texts(tmp_path_factory):
    """Texts of which every third is longer than the encoder reads at once; its label comes late."""
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


def blocks_of(run, fate):
    rows = json.loads((run.path / "weights_ledger.json").read_text("utf-8"))["rows"]
    return {row["block"] for row in rows if row["fate"] == fate}


def test_layers_learn_from_long_and_short_texts(long_texts, tmp_path):
    options = {"strategy": "full", "settings": ["training.epochs=1.9355", "training.lr=1e-3"]}
    run = warmstart.fit(**long_texts, **options, out=tmp_path / "run")
    assert blocks_of(run, "trained") == {"embeddings", "layer.1", "layer.2"}
    found = {finding.kind: finding.sentence for finding in run.summary.findings}
    assert found["windows"].startswith("10 of the 31 texts are longer than 24 tokens")
    assert "truncated" not in found
    assert run.plan.input.size.value == 48
    exported = warmstart.export(run, "onnx", out=tmp_path / "onnx")
    assert "L = 48" in exported.inputs
    assert exported.agreement.same_labels == exported.agreement.n
    late = " ".join(["the"] * 30) + " soup bread"
    answers = run.predict([late, "soup bread", ""])
    assert answers[0].scores.keys() == {"food", "sky", "sport"}
    assert answers[2].error == " is empty"


def test_texts_are_truncated_where_that_is_chosen(long_texts, tmp_path):
    run = warmstart.fit(**long_texts, settings=["input.size=16"], out=tmp_path / "cut")
    kinds = {finding.kind: finding.sentence for finding in run.summary.findings}
    assert "windows" not in kinds
    assert "longer than 16 tokens; only their beginning is read" in kinds["truncated"]


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "temperature"), [(31, 0.0), (12, 0.1)], ids=["all", "some"])
def test_layers_learn_by_pairs_where_that_is_chosen(long_texts, tmp_path, batch, temperature):
    """All texts in one update, or some of them, each told from the others."""
    chosen = {"contrastive": "true", "epochs": 4, "batch_size": batch}
    chosen["contrastive_temperature"] = temperature
    settings = [f"training.{name}={value}" for name, value in chosen.items()]
    run = warmstart.fit(
        **long_texts, strategy="full", lr=1e-3, settings=settings, out=tmp_path / "run"
    )
    assert run.plan.training.contrastive.value is True
    assert run.plan.training.contrastive_temperature.value == temperature
    assert blocks_of(run, "trained") == {"embeddings", "layer.1", "layer.2"}
    again = warmstart.fit(**long_texts, plan=run.path / "plan.toml", out=tmp_path / "again")
    assert tiny.bytes_of(again.path / "model") == tiny.bytes_of(run.path / "model")


def test_pairs_are_compared_in_one_process(monkeypatch):
    chosen = SimpleNamespace(contrastive=True, parallel="data")
    monkeypatch.setattr(trainer, "here", lambda: SimpleNamespace(size=2))
    with pytest.raises(PlanError, match="compares all texts of a batch, and 2 processes share it"):
        trainer.choose_parallelism(None, None, chosen, ())


@pytest.mark.slow
def test_law_8_the_card_rebuilds_the_model_in_a_clean_process(made, tmp_path):
    given, _ = made("texts last:1")
    run = given.fit(tmp_path / "run", strategy="head", settings=())
    card = (run.path / "README.md").read_text("utf-8")
    code = card.partition("## Without warmstart\n\n```python\n")[2].partition("```")[0]
    assert "warmstart" not in code
    code = code.replace('"NFC", "a text"', '"NFC", "the ball and  the goal"')
    job = subprocess.run(
        [sys.executable, "-c", code], cwd=run.path, capture_output=True, text=True, check=False
    )
    assert job.returncode == 0, job.stderr
    expected = run.predict(["the ball and the goal"])[0].scores
    assert ast.literal_eval(job.stdout) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_a_run_is_a_base_model_for_other_texts(made, tmp_path):
    given, run = made("texts last:1")
    data = given.options()["data"]
    follow = warmstart.fit(data, base=run.path, budget="fast", out=tmp_path / "next")
    assert follow.summary.base.name == str(run.path)
    assert "excerpt" in (run.path / "report.html").read_text("utf-8")


# ---- a server -----------------------------------------------------------------------------------

BAD_BODIES = [
    ({"text": " \n"}, 422, "#0 is empty"),
    ({"texts": ["", " "]}, 422, "none of 2 texts could be read"),
    ({"texts": ["a"] * 4}, 413, "more than 3 texts in one request"),
    ({"text": 3}, 422, "text: Input should be a valid string"),
    ({"image": "aGk="}, 422, "image: Extra inputs are not permitted"),
    ([["a"]], 422, "0: Input should be a valid string"),
    ({}, 400, "no text was sent"),
    ("{", 422, "Invalid JSON"),
]


def test_a_server_answers_texts(made):
    run = made("texts last:1")[1]
    expected = run.predict(["the ball and the goal", "wind and rain"])
    first, second = (answer.label for answer in expected)
    with live(application(run.path, ServeOptions(), ServerLimits(images=3))) as server:

        def ask(body, kind="application/json", path="/predict"):
            body = body if isinstance(body, str) else json.dumps(body)
            return server.ask("POST", path, body.encode(), content_type=kind)

        texts = [one.path for one in expected]
        for body in ({"texts": texts}, texts):
            assert [one["label"] for one in ask(body).json["answers"]] == [first, second]
        (answer,) = ask({"text": texts[0]}).json["answers"]
        assert answer["probability"] == pytest.approx(expected[0].probability, abs=1e-4)
        assert ask(texts[1], "text/plain").json["answers"][0]["label"] == second
        assert server.send(("a.txt", texts[1].encode())).json["answers"][0]["label"] == second
        some = ask({"texts": ["wind", "  "]}).json["answers"]
        assert (some[1]["words"], some[1]["error"]) == ("not a text", "#1 is empty")
        for body, status, message in BAD_BODIES:
            got = ask(body)
            assert (got.status, message in got.json["detail"]) == (status, True), got.body
        assert ask("hi", "image/png").status == 415
        assert "only answers to images" in ask({"text": "a"}, path="/explain").json["detail"]
        about = server.ask("GET", "/metadata").json
        assert (about["kind"], about["pictures"]) == ("text", False)
        assert about["input"] == {"tokens": run.plan.input.size.value}
        paths = server.ask("GET", "/openapi.json").json["paths"]
        assert "text/plain" in paths["/predict"]["post"]["requestBody"]["content"]
