"""Several labels and numbers from data to a run folder, and what is done with it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import warmstart
from tiny import PREP, fit, lines, network, weights
from warmstart.api.run import Run
from warmstart.auditing.judge import _open_run
from warmstart.cli.main import main
from warmstart.errors import ExportError, ModelError
from warmstart.events import drain
from warmstart.network.external_classifier import InputHandling
from warmstart.records.answer import LabelAnswer, NumberAnswer
from warmstart.records.summary import LabelScores, NumberScores
from warmstart.run.fit import check
from warmstart.run.predictor import evaluate
from warmstart.run.suggest import suggest

N, TEST = 60, 20


def pictures(seed=0, n=N + TEST):
    """Noise whose colour has two labels, red and blue, and whose light is a number."""
    rng = np.random.default_rng(seed)
    has = rng.random((n, 2)) < 0.5
    light = rng.uniform(60, 180, size=n)
    X = light[:, None, None, None] + rng.normal(0, 12, (n, 32, 32, 3))
    X[..., 0] += 60 * has[:, 0, None, None]
    X[..., 2] += 60 * has[:, 1, None, None]
    return np.clip(X, 0, 255).astype(np.uint8), has, light / 10


def written(folder, header, cells, X):
    """A table of these pictures, the last of them a test part."""
    folder.mkdir(exist_ok=True)
    rows = [f"path,{header},split"]
    for number, (pixels, cell) in enumerate(zip(X, cells, strict=True)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{cell},{'test' if number >= N else 'train'}")
    (folder / "t.csv").write_text("\n".join(rows))
    return folder / "t.csv"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of each task, from tables, and those tables."""
    root = tmp_path_factory.mktemp("tasks")
    X, has, light = pictures()
    named = ["|".join(np.array(["red", "blue"])[row]) for row in has]
    sets = written(root / "sets", "label", named, X)
    numbers = written(root / "numbers", "light", [f"{value:.3f}" for value in light], X)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        base = {"base": weights(root), "arch": "timm:lcnet_035"}
        made = {
            "multilabel": fit(sets, task="multilabel", out=root / "m", **base),
            "regress": fit(numbers, label="light", out=root / "r", **base),
        }
    return made, {"multilabel": sets, "regress": numbers}


@pytest.mark.parametrize(("task", "kind"), [("multilabel", LabelScores), ("regress", NumberScores)])
def test_a_run_says_what_it_is_worth(runs, task, kind):
    run, table = runs[0][task], runs[1][task]
    summary = run.summary
    assert (summary.task, summary.estimate.metric) == (
        task,
        {"multilabel": "mAP", "regress": "r2"}[task],
    )
    assert isinstance(summary.test, kind)
    assert summary.estimate.value > 0.5
    assert summary.verdict.kind in ("linear-probe", "inconclusive")
    column = "light" if task == "regress" else None
    again = drain(evaluate(run.path, table, label=column))
    assert (again.n, again.low) == pytest.approx((summary.test.n, summary.test.low), rel=1e-4)
    page = (run.path / "report.html").read_text("utf-8")
    assert 'id="answers"' in page
    card = (run.path / "README.md").read_text("utf-8")
    assert {"multilabel": "macro F1", "regress": "mean absolute error"}[task] in card


def test_several_labels_are_answered(runs):
    run = runs[0]["multilabel"]
    X, has, _ = pictures(seed=5, n=20)
    answers = run.predict(list(X))
    assert all(isinstance(answer, LabelAnswer) for answer in answers)
    right = [
        set(a.labels) == set(np.array(["red", "blue"])[row])
        for a, row in zip(answers, has, strict=True)
    ]
    assert np.mean(right) > 0.5
    line = lines(run.path, "predictions.jsonl")[0]
    assert set(line["scores"]) == {"red", "blue"}
    assert set(line["labels"]) <= {"red", "blue"}


def test_numbers_are_answered_with_an_interval(runs):
    run = runs[0]["regress"]
    X, _, light = pictures(seed=5, n=40)
    answers = run.predict(list(X))
    assert all(isinstance(answer, NumberAnswer) for answer in answers)
    inside = [a.low <= v <= a.high for a, v in zip(answers, light, strict=True)]
    assert np.mean(inside) > 0.7
    line = lines(run.path, "predictions.jsonl")[0]
    assert line["low"] < line["value"] < line["high"]
    assert run.predict(["nowhere.png"])[0].error


@pytest.mark.parametrize("task", ["multilabel", "regress"])
def test_shuffled_targets_give_no_signal(task, tmp_path):
    X, has, light = pictures()
    order = np.random.default_rng(3).permutation(len(X))
    run = fit((X, has.astype(int)[order] if task == "multilabel" else light[order]))
    assert (run.verdict.kind, run.summary.shipped.strategy) == ("no-signal", "none")


@pytest.mark.parametrize("task", ["multilabel", "regress"])
def test_exports_say_the_same(runs, task, tmp_path):
    run = runs[0][task]
    done = warmstart.export(run.path, "torch", out=tmp_path / "torch")
    assert done.agreement.difference < 0.02
    with pytest.raises(ExportError, match="holds classifiers, and this model predicts"):
        warmstart.export(run.path, "timm", out=tmp_path / "timm")


@pytest.mark.parametrize("task", ["multilabel", "regress"])
def test_eight_bits_are_judged_by_the_score_of_the_task(runs, task, tmp_path):
    done = warmstart.export(runs[0][task].path, "onnx", out=tmp_path / "int8", int8=True)
    shrunk = done.quantized
    assert (shrunk.metric, shrunk.images) == ({"multilabel": "mAP", "regress": "r2"}[task], "test")
    test = runs[0][task].test
    score = test.mAP if task == "multilabel" else test.r2
    assert shrunk.accuracy_before == pytest.approx(score, abs=0.1)
    assert shrunk.gap.low <= shrunk.gap.value <= shrunk.gap.high
    card = (tmp_path / "int8" / "README.md").read_text("utf-8")
    words = {"multilabel": "mean average precision", "regress": "R²"}[task]
    assert f"{words} " in card
    assert "classes" not in card


@pytest.mark.parametrize("task", ["multilabel", "regress"])
def test_runs_are_compared_row_by_row(runs, task, tmp_path):
    run, table = runs[0][task], runs[1][task]
    options = {"label": "light"} if task == "regress" else {"task": "multilabel"}
    other = fit(table, kind="layers", out=tmp_path / "other", **options)
    result = warmstart.compare(run, other)
    assert result.metric == {"multilabel": "log_score", "regress": "r2"}[task]
    assert result.pairs[0].low <= result.pairs[0].difference <= result.pairs[0].high


@pytest.mark.parametrize("task", ["multilabel", "regress"])
def test_what_to_label_next(runs, task, tmp_path):
    X, _, _ = pictures(seed=9, n=8)
    for number, pixels in enumerate(X):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    result = drain(suggest(runs[0][task].path, [str(tmp_path)], count=3))
    assert len(result.suggestions) == 3


@pytest.mark.parametrize("task", ["multilabel", "regress"])
def test_from_the_command_line(runs, task, tmp_path, capsys):
    run, table = runs[0][task], runs[1][task]
    picture = str(table.parent / "0.png")
    assert main(["predict", str(run.path), picture, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    own = {"multilabel": {"labels"}, "regress": {"value", "low", "high"}}[task]
    assert own <= answer.keys()
    assert main(["predict", str(run.path), picture]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith(picture)
    words = ["--label", "light"] if task == "regress" else []
    assert main(["evaluate", str(run.path), str(table), *words]) == 0
    assert {"multilabel": "mAP", "regress": "R²"}[task] in capsys.readouterr().out
    assert main(["fit", str(table), "--task", "nonsense"]) == 2


def test_a_check_speaks_of_the_task(runs):
    from warmstart.request import Request

    request = Request(
        data=runs[1]["regress"], label="light", base=network(), preprocessing=PREP, budget="fast"
    )
    result = drain(check(request))
    assert "variance" in result.verdict.evidence[0].meaning


def test_what_is_made_for_classes_refuses_others(runs, tmp_path):
    run = runs[0]["regress"]
    with pytest.raises(ModelError, match="does not predict one class per image"):
        _open_run(run.path, InputHandling())


def test_a_run_can_begin_from_one_of_another_task(runs, tmp_path):
    X, has, _ = pictures(seed=2)
    run = warmstart.fit(
        (X, has.astype(int)), base=runs[0]["regress"].path, budget="fast", out=tmp_path / "r"
    )
    assert run.summary.task == "multilabel"
    assert Run.open(run.path).test is None


def test_the_network_of_a_number_gives_it_in_its_unit(runs):
    run = runs[0]["regress"]
    X, _, light = pictures(seed=5, n=20)
    with torch.inference_mode():
        said = run.predictor.logits(np.stack([p for _, p in run.predictor.prepared(list(X))]))[0]
    assert abs(float(said.mean()) - light.mean()) < 2
