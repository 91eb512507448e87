"""A fitted head on rows: its probabilities, its estimate, its test scores, its confidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from warmstart.data.splits import group_numbers
from warmstart.evaluation.readiness import Confident
from warmstart.events import Steps, drain
from warmstart.records.answer import CalibrationRecord
from warmstart.records.plan import Plan
from warmstart.records.run_folder import fields_of
from warmstart.records.summary import Estimate, Evidence, Prediction, TestScores
from warmstart.solve.kernels import chunks
from warmstart.solve.ridge import Rows
from warmstart.stats.metrics import Method, accuracy_estimate
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Certainty, Target
from warmstart.training import dataset
from warmstart.training.dataset import LabelledRows, TrainingDataset
from warmstart.training.head_families import Prior, ReadFeatures
from warmstart.training.linear_probe import HeadFit, fit_head

Probabilities = NDArray[np.float64]


def fit_all(training_data: TrainingDataset, plan: Plan) -> Steps[HeadFit]:
    """Fit the plan's head on all training rows, estimated on its folds or the user's hold-out."""
    labelled = training_data.labelled
    read, n = training_data.extracted.reader(labelled.learn), len(labelled.learn)
    heads = dataset.heads(plan, training_data.probe_layers, read, n, training_data.prior)
    problem = dataset.selection_problem(labelled, plan)
    return (yield from fit_head(heads, problem, 0 if labelled.holdout else None))


def fit_on(training_data: TrainingDataset, plan: Plan, keep: Rows) -> HeadFit:
    """Fit the plan's head on some rows alone, chosen among the same candidates."""
    read = training_data.extracted.reader(training_data.examples(keep))
    heads = dataset.heads(plan, training_data.probe_layers, read, len(keep), training_data.prior)
    return drain(fit_head(heads, dataset.selection_problem_on(training_data.labelled, keep)))


@dataclass(frozen=True, slots=True)
class ModelEvaluation:
    """The estimate of what ships, and that of the linear probe on the same folds.

    `gain`: the fine-tuning gain, where that was tried. `n_learnt`: the number of examples that the
    linear probe's folds trained on. `test_probabilities`: (m, K).
    """

    estimate: Estimate
    linear_probe: Estimate
    gain: Evidence | None
    n_learnt: int
    test: TestScores | None = None
    test_probabilities: Probabilities | None = None


def head_probabilities(
    head: HeadFit, read: ReadFeatures, target: Target = CLASSIFICATION
) -> Probabilities:
    """Calibrated probabilities (m, K) from features (m, d_t), or predictions of another task."""
    return target.answers(head_scores(head, read), head.calibration)


def head_scores(head: HeadFit, read: ReadFeatures) -> NDArray[np.float64]:
    """Uncalibrated scores W · features + b from cached features. Shapes: returns (m, K)."""
    scores = []
    for chunk in chunks(read, head.feature_layers):
        start, total = 0, head.bias.astype(np.float64)
        for layer in head.feature_layers:
            stop = start + chunk[layer].shape[1]
            total = total + chunk[layer] @ head.weight[:, start:stop].T
            start = stop
        scores.append(total)
    return np.concatenate(scores)


def estimate(head: HeadFit, labelled: LabelledRows, method: Method | None = None) -> Estimate:
    """The score on the rows that some fold held out, with its interval.

    `method`: that of another estimate with which this one is compared.
    """
    held = head.fold >= 0
    method = method or ("holdout" if head.fold.max() < 1 else "nested-cv")
    credits = labelled.target.credits(head.probabilities[held], labelled.labels[held])
    return labelled.target.estimate(credits, labelled.groups()[held], method)


def score_test(
    head: HeadFit, labelled: LabelledRows, read: ReadFeatures
) -> tuple[TestScores, Probabilities]:
    """Metrics on the test set, used here only, once, after all choices are made."""
    target = labelled.target
    answers = head_probabilities(head, read, target)
    groups = group_numbers(labelled.test, labelled.near_duplicates)
    certainty = _certainty(head, labelled)
    scores = target.scores(answers, labelled.test_labels, groups, certainty, labelled.names)
    return scores, answers


def confident(head: HeadFit, labelled: LabelledRows) -> Confident | None:
    """The share of confident out-of-fold predictions, and how many of them are right."""
    certainty = _certainty(head, labelled)
    least = certainty.confident_from if labelled.target.has_classes else None
    held = head.fold >= 0
    answers, truth = head.probabilities[held], labelled.labels[held]
    chosen = answers.max(axis=1) >= (np.inf if least is None else least)
    if not chosen.any():
        return None
    right = float((answers.argmax(axis=1) == truth)[chosen].mean())
    return Confident(share=float(chosen.mean()), right=right)


def _certainty(head: HeadFit, labelled: LabelledRows) -> Certainty:
    held = head.fold >= 0
    return labelled.target.certainty(
        head.probabilities[held], labelled.labels[held], labelled.groups()[held]
    )


def estimate_prior(
    prior: Prior | None, labelled: LabelledRows, read: ReadFeatures
) -> Estimate | None:
    """The accuracy of an earlier run's head on these data; None where it lacks a class."""
    if prior is None or not all(prior.has_class):
        return None
    return accuracy_estimate(prior.scores(read), labelled.labels, labelled.groups(), "holdout")


def calibration_record(
    head: HeadFit, labelled: LabelledRows, ood_from: float, nearest: int
) -> CalibrationRecord:
    """When a prediction is confident, by held-out rows, and an input out of distribution."""
    calibration = labelled.target.model_calibration(head.calibration)
    return labelled.target.calibration_record(
        **fields_of(_certainty(head, labelled)),
        temperature=calibration.temperature,
        class_bias=tuple(float(b) for b in calibration.bias),
        ood_from=ood_from,
        nearest=nearest,
    )


def predictions(
    head: HeadFit, labelled: LabelledRows, classes: Sequence[str], measured: ModelEvaluation
) -> Iterator[Prediction]:
    """One line for every row that a fold held out, then for every test row."""
    target, certainty = labelled.target, _certainty(head, labelled)
    for example, fold, p in zip(labelled.learn, head.fold, head.probabilities, strict=True):
        if fold >= 0:
            yield target.line(example, int(fold), p, classes, certainty)
    if measured.test_probabilities is not None:
        for example, p in zip(labelled.test, measured.test_probabilities, strict=True):
            yield target.line(example, None, p, classes, certainty)
