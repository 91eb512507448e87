"""Laws 5 to 8, 10 and 11 over whole runs: every modality, every task, every strategy."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from runs import CASES

import warmstart
from run_texts import image_words_in
from tiny import bytes_of, lines
from warmstart.errors import ExportError

QUICK = {"convnet head", "texts last:1", "rows head", "tensors full", "numbers last:1"}
MARKED = [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES]
CLAIMS = ("verdict", "shipped", "estimate", "linear_probe", "fine_tuning_gain", "frozen", "base")
CLAIMS += ("guards", "baselines")
FILES = ("plan.toml", "network.json", "weights_ledger.json", "inspection.json")


@pytest.fixture(params=MARKED)
def case(request, made):
    return made(request.param)


def held_out(run):
    return [one for one in lines(run.path, "predictions.jsonl") if one["split"] == "oof"]


def same_model(one, other):
    """And the same claims about it."""
    assert bytes_of(other.path / "model") == bytes_of(one.path / "model")
    assert held_out(other) == held_out(one)
    for name in CLAIMS:
        assert getattr(other.summary, name) == getattr(one.summary, name), name
    for name in ("weights_ledger.json", "network.json"):
        assert (other.path / name).read_bytes() == (one.path / name).read_bytes(), name


def same_run(one, other):
    """What its test set says of the model is the same as well."""
    same_model(one, other)
    assert (other.test, other.summary.readiness) == (one.test, one.summary.readiness)
    assert lines(other.path, "predictions.jsonl") == lines(one.path, "predictions.jsonl")


def values_of(table):
    """Every value of a plan's table, reasons apart."""
    if isinstance(table, list):
        return [value for item in table for value in values_of(item)]
    if not isinstance(table, dict):
        return [table]
    if "because" in table:
        return values_of(table["value"])
    return [value for item in table.values() for value in values_of(item)]


def planned(run):
    return values_of(tomllib.loads((run.path / "plan.toml").read_text("utf-8")))


def test_it_learns_and_speaks_of_its_own_kind(case):
    given, run = case
    summary = run.summary
    assert summary.estimate.value > 0.5 or summary.shipped.strategy != "head"
    modality = run.predictor.modality
    assert (summary.data.kind or "image") == modality.kind
    assert modality.kind == "image" or image_words_in(run.path) == {}
    name = given.name.split()[0]
    assert summary.task == {"sets": "multilabel", "numbers": "regress"}.get(name, "classify")


def test_law_5_what_is_frozen_keeps_its_bytes(case):
    given, run = case
    rows = json.loads((run.path / "weights_ledger.json").read_text("utf-8"))["rows"]
    held = [row for row in rows if row["fate"] in ("frozen", "unchanged", "copied")]
    assert run.summary.frozen.identical
    assert all(row["before"] == row["after"] for row in held)
    frozen = {block.name for block in run.plan.blocks if block.action.value == "frozen"}
    other = {row["fate"] for row in rows if row["block"] in frozen and row not in held}
    assert other <= {"reshaped"}  # before training, where the inputs have other channels
    ships = run.summary.shipped.strategy
    fates = {row["fate"] for row in rows if row["block"] != "head"}
    if ships != "head":
        lora = dict.fromkeys(("last:2+lora", "full+lora"), "merged")
        moved = {**lora, "head+add": "new", "scratch": "new"}
        assert moved.get(given.options()["strategy"], "trained") in fates


def test_law_6_a_plan_that_is_replayed_gives_the_same_run(case, tmp_path):
    """With another cache and no other option typed; the seed was not the usual one."""
    given, run = case
    assert "auto" not in planned(run)
    own = given.objects(("data", "test", "preprocessing", "label", "task"))
    again = warmstart.fit(**own, plan=run.path / "plan.toml", out=tmp_path / "again" / "run")
    same_run(run, again)
    assert planned(again) == planned(run)


def test_law_7_stopped_and_resumed_is_never_stopped(case, tmp_path):
    given, run = case
    stage = "head" if given.name.endswith("head") else "fine_tune"

    def stop(event):
        if (event.stage, event.kind) == (stage, "step") and event.step > (stage != "head"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        given.fit(tmp_path / "cut" / "run", on_event=stop)
    assert (tmp_path / "cut" / "run" / "INTERRUPTED").exists()
    again = warmstart.resume(tmp_path / "cut" / "run", **given.objects(()))
    same_run(run, again)


def test_laws_10_and_11_another_test_set_changes_the_test_score_alone(case, tmp_path, monkeypatch):
    """Other examples, wrongly labelled: nothing that is learnt or claimed has looked at them."""
    given, run = case
    again = given.fit(tmp_path / "other" / "run", is_other=True)
    same_model(run, again)
    for name in FILES:
        assert (again.path / name).read_bytes() == (run.path / name).read_bytes(), name
    score = {"multilabel": "mAP", "regress": "r2"}.get(run.summary.task, "accuracy")
    ours, theirs = (getattr(one.test, score) for one in (run, again))
    assert ours > theirs


def examples_of(given):
    """Of the test set, as files or values that `predict` takes, and as a word for a script."""
    test = given.options().get("test") or given.options()["data"]
    kind = given.name.split()[0]
    if kind == "texts":
        text = test.read_text("utf-8").splitlines()[1].rpartition(",")[0]
        return [text], text
    if kind == "rows":
        return [test], test
    if kind == "tensors":
        np.save(given.root / "one.npy", test[0][0].numpy())
        return [test[0][0]], given.root / "one.npy"
    folder = test if test.is_dir() else test.parent
    path = min(path for path in folder.rglob("*") if path.suffix in (".png", ".wav"))
    return [path], path


def test_law_8_loaded_again_and_exported_it_gives_the_same_answers(case, tmp_path):
    """The script of an export answers in a process that knows nothing of warmstart."""
    given, run = case
    values, word = examples_of(given)
    wanted = run.predict(values)
    if "base" in given.objects(()):
        loaded = warmstart.load(run.path, network=given.options()["base"])
    else:
        loaded = warmstart.load(run.path)
    for one, other in zip(wanted, loaded.predict(values), strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-6)
    exported = warmstart.export(run, "onnx", out=tmp_path / "onnx")
    has_files = run.predictor.modality.form != "arrays"
    assert exported.agreement.images == ("run" if has_files else "noise")
    assert exported.agreement.same_labels == exported.agreement.n
    command = [sys.executable, "-I", str(tmp_path / "onnx" / "predict.py"), str(word)]
    job = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if run.summary.task == "classify":
        for answer, line in zip(wanted, job.stdout.splitlines(), strict=True):
            assert f"{answer.label} {answer.probability:.1%}" in line, job.stderr
    card = (tmp_path / "onnx" / "README.md").read_text("utf-8")
    modality = run.predictor.modality
    if modality.kind != "image":
        assert f"pipeline_tag: {modality.hub_name}-" in card
        assert "image" not in card.partition("## Use")[2] or modality.has_pixels


@pytest.mark.parametrize("name", ["texts last:1", "rows head", "tensors full"])
def test_formats_and_options_for_images_are_refused(made, name, tmp_path):
    run = made(name)[1]
    for to in ("timm", "transformers"):
        with pytest.raises(ExportError, match=f"{to} cannot .*; use --to onnx"):
            warmstart.export(run, to, out=tmp_path / to)
    for option in ("int8", "pixels"):
        with pytest.raises(ExportError, match=f"--{option} is for networks that take images"):
            warmstart.export(run, "onnx", out=tmp_path / option, **{option: True})
    assert not list(tmp_path.glob("*/*"))
