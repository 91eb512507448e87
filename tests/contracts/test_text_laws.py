"""The laws of parts, ledger, store, freezing, plans, resuming and test labels, for texts."""

from __future__ import annotations

import ast
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import tiny
import tiny_text_encoder
import warmstart
from run_texts import image_words_in
from server_client import live
from warmstart.errors import ExportError
from warmstart.exporting.graph import to_onnx, to_program, wrap_model
from warmstart.modalities import text as modalities_text
from warmstart.network.feature_layers import feature_layers
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.network.surgery import assemble
from warmstart.serving.model import ServerLimits
from warmstart.serving.serve import ServeOptions, application

pytest.importorskip("transformers", reason="transformers is not installed")

TEXTS = ("the ball", "a very good soup with bread and cheese near the oven", "moon", "rain rain")
KINDS = ("bert", "roberta", "distilbert", "mpnet")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """A folder of each kind."""
    root = tmp_path_factory.mktemp("encoders")
    return {kind: tiny_text_encoder.encoder(root / kind, kind) for kind in KINDS}


def opened(folder, length=16):
    base = load(f"transformers:{folder}")
    inputs = dataclasses.replace(base.record.preprocessing, length=length)
    return base, inputs, np.stack([modalities_text.token_numbers(text, inputs) for text in TEXTS])


LONG = " ".join(("the ball was near a goal", "wind and rain with cloud") * 5)


@pytest.fixture(scope="module")
def asked(encoders, tmp_path_factory):
    """What the runs below are asked."""
    root = tmp_path_factory.mktemp("texts")
    data, test = (
        tiny_text_encoder.table(root / "train.csv"),
        tiny_text_encoder.table(root / "test.csv", 5, seed=1),
    )
    return {
        "data": data,
        "test": test,
        "base": f"transformers:{encoders['bert']}",
        "budget": "fast",
        "strategy": "last:1",
        "settings": ["training.epochs=3.3333"],
    }


@pytest.fixture(scope="module")
def run(asked, tmp_path_factory):
    """A run whose last layer was trained."""
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        return warmstart.fit(**asked, out=root / "run")


def test_no_sentence_of_the_run_speaks_of_images(run):
    assert image_words_in(run.path) == {}


def test_law_5_what_is_frozen_keeps_its_bytes(run):
    assert run.summary.frozen.identical
    assert run.summary.frozen.parameters > 0
    fates = json.loads((run.path / "weights_ledger.json").read_text("utf-8"))["rows"]
    trained = {row["block"] for row in fates if row["fate"] == "trained"}
    assert trained <= {"layer.2"}


def test_law_6_a_plan_replayed_gives_the_same_model(run, asked, tmp_path):
    assert '"auto"' not in (run.path / "plan.toml").read_text("utf-8")
    plain = {name: asked[name] for name in ("data", "test", "base")}
    again = warmstart.fit(**plain, plan=run.path / "plan.toml", out=tmp_path / "again")
    assert tiny.bytes_of(again.path / "model") == tiny.bytes_of(run.path / "model")


def test_law_7_stopped_and_resumed_is_never_stopped(run, asked, tmp_path):
    seen = []

    def stop(event):
        seen.append(event)
        if event.stage == "fine_tune" and event.kind == "step":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        warmstart.fit(**asked, out=tmp_path / "run", on_event=stop)
    assert (tmp_path / "run" / "INTERRUPTED").exists()
    warmstart.resume(tmp_path / "run")
    assert tiny.bytes_of(tmp_path / "run" / "model") == tiny.bytes_of(run.path / "model")


def test_law_10_test_labels_change_nothing_that_is_learnt(run, asked, tmp_path):
    lines = asked["test"].read_text("utf-8").splitlines()
    texts = [line.rpartition(",") for line in lines[1:]]
    labels = [label for _, _, label in texts]
    turned = [
        f"{text},{label}"
        for (text, _, _), label in zip(texts, labels[1:] + labels[:1], strict=True)
    ]
    other = tmp_path / "test.csv"
    other.write_text("\n".join([lines[0], *turned]) + "\n", "utf-8")
    again = warmstart.fit(**{**asked, "test": other}, out=tmp_path / "again")
    assert tiny.bytes_of(again.path / "model") == tiny.bytes_of(run.path / "model")
    assert again.summary.verdict == run.summary.verdict
    assert again.summary.estimate == run.summary.estimate


def test_law_8_the_card_rebuilds_the_model_in_a_clean_process(asked, tmp_path):
    run = warmstart.fit(**{**asked, "strategy": "head", "settings": ()}, out=tmp_path / "run")
    card = (run.path / "README.md").read_text("utf-8")
    code = card.partition("## Without warmstart\n\n```python\n")[2].partition("```")[0]
    assert "warmstart" not in code
    code = code.replace('"NFC", "a text"', '"NFC", "the ball and  the goal"')
    job = subprocess.run(
        [sys.executable, "-c", code], cwd=run.path, capture_output=True, text=True, check=False
    )
    assert job.returncode == 0, job.stderr
    expected = run.predict(["the ball and the goal"])[0].scores
    found = ast.literal_eval(job.stdout)
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_law_8_an_export_answers_as_the_model_does(run, tmp_path, to):
    told = warmstart.export(run, to, out=tmp_path / "out")
    assert told.agreement.images == "run"
    assert told.agreement.same_labels == told.agreement.n == 16
    assert told.kind == "text"
    words = [str(tmp_path / "out" / "predict.py"), "the ball and  the goal", ""]
    done = subprocess.run(
        [sys.executable, "-I", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    (best,) = run.predict(["the ball and the goal"])
    assert f"{best.label} {best.probability:.1%}" in done.stdout
    assert done.stderr.strip().endswith("cannot be read: it is empty")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "pipeline_tag: text-classification" in card
    assert "image" not in card.partition("## Use")[2]


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("timm", {}, "timm cannot hold the head of a text model; use --to onnx"),
        ("transformers", {}, "transformers cannot hold the head of a text model; use --to onnx"),
        (
            "onnx",
            {"pixels": True},
            "--pixels is for networks that take images, and this one takes tex",
        ),
        (
            "onnx",
            {"int8": True},
            "--int8 is for networks that take images, and this one takes texts",
        ),
    ],
)
def test_what_a_model_of_texts_is_not_written_as(run, tmp_path, to, options, message):
    with pytest.raises(ExportError, match=message):
        warmstart.export(run, to, out=tmp_path / "out", **options)


def test_a_server_answers_texts(run):
    expected = run.predict(["the ball and the goal", "wind and rain"])
    with live(application(run.path, ServeOptions(), ServerLimits(images=3))) as server:

        def ask(asked, kind="application/json", path="/predict"):
            body = asked if isinstance(asked, str) else json.dumps(asked)
            return server.ask("POST", path, body.encode(), content_type=kind)

        first, second = (answer.label for answer in expected)
        for asked in ({"texts": [one.path for one in expected]}, [one.path for one in expected]):
            assert [one["label"] for one in ask(asked).json["answers"]] == [first, second]
        (answer,) = ask({"text": expected[0].path}).json["answers"]
        assert answer["probability"] == pytest.approx(expected[0].probability, abs=1e-4)
        assert ask("wind and rain", "text/plain").json["answers"][0]["label"] == second
        assert server.send(("a.txt", b"wind and rain")).json["answers"][0]["label"] == second
        some = ask({"texts": ["wind", "  "]}).json["answers"]
        assert (some[1]["words"], some[1]["error"]) == ("not a text", "#1 is empty")
        for asked, status, told in BAD_BODIES:
            got = ask(asked)
            assert (got.status, told in got.json["detail"]) == (status, True), got.body
        assert ask("hi", "image/png").status == 415
        got = ask({"text": "a"}, path="/explain")
        assert (
            got.json["detail"]
            == "only answers to images can be explained, and this model takes texts"
        )
        told = server.ask("GET", "/metadata").json
        assert (told["kind"], told["input"], told["pictures"]) == ("text", {"tokens": 16}, False)
        assert "on new texts" in told["promise"] or "not measured" in told["promise"]
        paths = server.ask("GET", "/openapi.json").json["paths"]
        assert "text/plain" in paths["/predict"]["post"]["requestBody"]["content"]


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


def test_a_finished_run_answers_texts_and_is_a_start(run, asked, tmp_path):
    answers = run.predict(["the ball and the goal", "", "wind and rain"])
    assert [answer.label is None for answer in answers] == [False, True, False]
    assert answers[1].error == " is empty"
    follow = warmstart.fit(asked["data"], base=run.path, budget="fast", out=tmp_path / "next")
    assert follow.summary.base.name == str(run.path)
    assert "excerpt" in (run.path / "report.html").read_text("utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_law_8_graphs_of_every_kind_take_rows_of_any_length(encoders, kind):
    onnxruntime = pytest.importorskip("onnxruntime")
    base, short, _ = opened(encoders[kind])
    for inputs in (short, dataclasses.replace(short, length=32, most=16)):
        network = cut(base.module, inputs)
        last, drawn = feature_layers(network.record)[-1], torch.Generator().manual_seed(0)
        model = assemble(network, [last], torch.randn(3, 32, generator=drawn), torch.zeros(3))
        served = wrap_model(model.requires_grad_(False), inputs)
        session = onnxruntime.InferenceSession(to_onnx(served, {}))
        program = to_program(served).module()
        rows = np.stack([modalities_text.token_numbers(text, inputs) for text in (*TEXTS, LONG)])
        for some in (rows, rows[2:3, :6] if inputs is short else rows[2:3]):
            given = np.ascontiguousarray(some, np.int64)
            expected = served(torch.from_numpy(given))[0].numpy()
            found = session.run(["logits"], {"tokens": given})[0]
            np.testing.assert_allclose(found, expected, atol=1e-4)
            again = program(torch.from_numpy(given))[0].numpy()
            np.testing.assert_allclose(again, expected, atol=1e-4)
