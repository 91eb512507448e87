"""A new task is one class and one entry of the registry; no other file names one."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
import warmstart
from warmstart.errors import RunFolderError, UsageError
from warmstart.records.data import Example
from warmstart.records.run_folder import read_json
from warmstart.records.summary import Summary, TestScores
from warmstart.solve import ridge
from warmstart.solve.calibration import Calibration
from warmstart.stats.permutation import permutation_test
from warmstart.tasks.registry import DEFAULT_TASK, TASKS, score_of, target_of
from warmstart.tasks.regress import REGRESSION, Regression
from warmstart.tasks.task import AnswerPlace

SOURCE = Path(warmstart.__file__).parent
RNG = np.random.default_rng(0)
N = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeScores(TestScores):
    """R², and the share of grades that are right."""

    n: int
    r2: float
    low: float
    high: float
    right: float


class Ordinal(Regression):
    """Whole numbers: each answer is the nearest one."""

    task = "ordinal"
    words = replace(REGRESSION.words, title="Grades", summary="Grades {an}")
    score_record = GradeScores

    def natural(self, answers):
        return np.round(super().natural(answers))

    def activate(self, outputs):
        return outputs.round()

    def scores(self, answers, truth, groups, certainty, names=()):
        own = super().scores(answers, truth, groups, certainty, names)
        right = (self.natural(answers[:, 0]) == self.natural(truth)).mean()
        return GradeScores(n=own.n, r2=own.r2, low=own.low, high=own.high, right=float(right))

    def other_metrics(self, scores):
        return f"{scores.right:.0%} of the grades are right."


NAMES = {"classify": ("a", "b", "c"), "multilabel": ("a", "b", "c", "d")}
LABELS = {
    "classify": [str(name) for name in RNG.permutation(list("abc") * 20)],
    "multilabel": ["|".join(np.array(list("abcd"))[row]) for row in RNG.random((N, 4)) < 0.4],
    "regress": [f"{value:.3f}" for value in RNG.normal(40, 8, N)],
    "ordinal": [str(value) for value in RNG.permutation(np.arange(N) % 5)],
}


@pytest.fixture(params=LABELS)
def case(request, monkeypatch):
    """A target fitted to labels, these, and the names of its outputs; one is the toy."""
    labels, task = LABELS[request.param], request.param
    if task == "ordinal":
        monkeypatch.setitem(TASKS, task, Ordinal())
    target = target_of(task, labels)
    labels = target.parse(labels, range(N), "labels.csv", are_corrections=False)
    return target, labels, NAMES.get(task, ("value",))


def test_labels_come_back_from_their_codes(case):
    target, labels, names = case
    truth = target.read(labels, names)
    answers = target.answers(target.scores_of(target.encode(truth, len(names))), plain(names))
    certainty = target.certainty(answers, truth, np.arange(N))
    for label, answer in zip(labels, answers, strict=True):
        example = Example(id="1", label=label, split="train", sha256="")
        line = target.line(example, 0, answer, names, certainty)
        assert float(line.label) == float(label) if target.has_numbers else line.label == label
        assert target.typed(label) == label
    assert target.credits(answers, truth).mean() == pytest.approx(1, abs=0.01)


def plain(names):
    return Calibration(1.0, np.zeros(len(names)))


def test_random_scores_are_calibrated_and_measured(case):
    target, labels, names = case
    truth, scores, groups = target.read(labels, names), RNG.normal(size=(N, len(names))), range(N)
    for fit in (target.calibrate, target.calibrate_final, target.recalibrate):
        calibration = fit(scores, truth)
        answers = target.answers(scores, calibration)
        losses = target.losses(scores, truth, calibration)
        assert answers.shape == scores.shape
        np.testing.assert_allclose(losses, target.answer_losses(answers, truth))
        again = target.answers(target.scores_of(answers), plain(names))
        np.testing.assert_allclose(again, answers, atol=1e-9)
    credits = target.credits(answers, truth)
    certainty = target.certainty(answers, truth, np.array(groups))
    measured = target.scores(answers, truth, np.array(groups), certainty, names)
    assert isinstance(measured, target.score_record)
    assert score_of(measured) == pytest.approx(credits.mean())
    estimate = target.estimate(credits, np.array(groups), "holdout")
    assert (estimate.metric, estimate.value) == (target.metric, pytest.approx(credits.mean()))
    assert estimate.low < estimate.value < estimate.high
    assert target.other_metrics(measured).endswith(".")


def test_the_loss_of_fine_tuning_is_that_of_choices(case):
    target, labels, names = case
    truth, scores = target.read(labels, names), RNG.normal(size=(N, len(names)))
    summed = target.summed_loss(torch.from_numpy(scores), torch.from_numpy(truth))
    assert float(summed) == pytest.approx(target.losses(scores, truth, plain(names)).sum())


def test_a_finished_model_answers_in_the_unit_of_the_data(case):
    target, labels, names = case
    truth, scores = target.read(labels, names), RNG.normal(size=(N, len(names)))
    calibration = target.calibrate(scores, truth)
    answers = target.natural(target.answers(scores, calibration))
    model = target.model_calibration(calibration)
    outputs = target.activate(torch.from_numpy(model.scaled(scores))).numpy()
    np.testing.assert_allclose(outputs, answers, atol=1e-9)
    record = target.calibration_record(
        temperature=model.temperature,
        class_bias=tuple(model.bias),
        ood_from=1.0,
        nearest=1,
        **certain(target.certainty(target.answers(scores, calibration), truth, np.arange(N))),
    )
    evaluated = TASKS[target.task].evaluate(outputs, labels, np.arange(N), names, record)
    assert isinstance(evaluated, target.score_record)
    answer = target.answer(AnswerPlace("x", True, ()), outputs[0], names, record)
    assert isinstance(answer, target.answer_record)
    assert answer.confident is False
    assert (target.uncertainty(outputs) >= 0).all()


def certain(certainty):
    return {name: getattr(certainty, name) for name in certainty.__dataclass_fields__}


def test_labels_are_told_from_shuffled_ones(case):
    target, labels, names = case
    truth = target.read(labels, names)
    assert target.n_outputs(target.restrict(truth)) == len(names)
    assert target.blind_loss(truth) > 0
    assert 0 <= target.blind_score(truth) < 1
    singles = [np.array([row]) for row in range(N)]
    for features in (target.encode(truth, len(names)), RNG.normal(size=(N, 5))):
        inverses = [ridge.inverse(features @ features.T, penalty) for penalty in (0.3, 3.0)]
        tested = permutation_test(
            inverses,
            target.identities(truth),
            singles,
            np.random.default_rng(1),
            99,
            lambda operators, draws: target.statistics(operators, draws, truth),
        )
        assert (tested.p <= 0.01) == (features.shape[1] == len(names))


@pytest.mark.slow
def test_a_toy_task_goes_through_a_whole_run(monkeypatch, tmp_path):
    """Under its own name: its record of scores is read again, its words stand on each surface."""
    monkeypatch.setitem(TASKS, "ordinal", Ordinal())
    grades = np.arange(60) % 4
    light = 40 + 40 * grades[:, None, None, None] + RNG.normal(0, 8, (60, 32, 32, 3))
    pictures = np.clip(light, 0, 255).astype(np.uint8)
    options = {"kind": "layers", "task": "ordinal", "test": (pictures[48:], grades[48:])}
    run = tiny.fit((pictures[:48], grades[:48]), **options, out=tmp_path / "run")
    assert run.summary.task == "ordinal"
    assert run.summary.estimate.value > 0.8
    test = read_json(run.path / "summary.json", Summary).test
    assert isinstance(test, GradeScores)
    assert test == run.test
    values = {line["value"] for line in tiny.lines(run.path, "predictions.jsonl")}
    assert values <= set(range(-1, 6))
    assert {answer.value for answer in run.predict(list(pictures))} <= set(range(-1, 6))
    assert "of the grades are right." in (run.path / "report.html").read_text("utf-8")
    assert "Grades" in run._repr_html_() + str(run)
    exported = warmstart.export(run, "onnx")
    assert exported.outputs == "`value`, (N, 1)"
    assert "Grades an image: " in (run.path / "export" / "onnx" / "README.md").read_text("utf-8")


def test_a_task_that_is_not_known_is_one_line():
    with pytest.raises(RunFolderError, match="the task ranks is none of classify, multilabel"):
        TASKS["ranks"]
    with pytest.raises(UsageError, match="--task ranks is not one of auto, classify"):
        tiny.fit(([0], [0]), task="ranks")


# ---- the whole source


def test_no_other_file_names_a_task():
    """A comparison, a key, a default: each asks the task's object instead."""
    names = {
        (path.relative_to(SOURCE).as_posix(), node.value)
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and node.value in TASKS
    }
    own = {(f"tasks/{name}.py", name) for name in TASKS}
    own |= {("tasks/registry.py", DEFAULT_TASK)}
    assert names == own
