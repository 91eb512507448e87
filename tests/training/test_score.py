"""The scores of a fitted head against slow definitions, and what it promises of answers to come."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from heads import NAMES, arranged_of, fitted_head, layers_of
from tiny import lines
from warmstart.run import candidates
from warmstart.training import score
from warmstart.training.fine_tune import FineTuned


@pytest.fixture
def head():
    return fitted_head()


def test_scores_from_taps_are_one_matrix_product(head):
    read = layers_of(6)
    joined = np.concatenate([read(layer) for layer in head.feature_layers], axis=1)
    scores = joined @ head.weight.T + head.bias
    np.testing.assert_allclose(score.head_scores(head, read), scores, rtol=1e-5)
    logits = 1.7 * scores + [0.1, -0.1, 0.0]
    slow = functional.softmax(torch.tensor(logits), dim=1).numpy()
    np.testing.assert_allclose(score.head_probabilities(head, read), slow, rtol=1e-4)


def test_scores_of_a_few_rows_at_a_time_are_those_of_all(head):
    class Few:
        def __call__(self, layer):
            raise AssertionError("all rows were asked for")

        def some(self, rows):
            raise AssertionError("no rows were to be chosen")

        def chunks(self, feature_layers):
            for rows in (slice(0, 4), slice(4, 4), slice(4, 6)):
                yield {layer: layers_of(6)(layer)[rows] for layer in feature_layers}

    whole = score.head_scores(head, layers_of(6))
    np.testing.assert_allclose(score.head_scores(head, Few()), whole, rtol=1e-6)


def test_the_estimate_counts_held_out_rows_only(head):
    labelled = arranged_of()
    head.fold[:10] = -1
    head.probabilities[:10] = np.nan
    claimed = score.estimate(head, labelled)
    hits = head.probabilities[10:].argmax(axis=1) == labelled.labels[10:]
    assert (claimed.n, claimed.value) == (20, pytest.approx(hits.mean()))


def worked_of(head, reader):
    return FineTuned(SimpleNamespace(), head, reader, SimpleNamespace())  # nothing was trained


def test_the_test_part_is_not_read_when_nothing_ships(head):
    def never(examples):
        raise AssertionError("the test part was looked at")

    fine_tuned = worked_of(head, never)
    measured = candidates.measure(fine_tuned, arranged_of(), head, is_shipped=False)
    assert (measured.test, measured.test_probabilities) == (None, None)
    assert candidates.measure(fine_tuned, arranged_of(n_test=0), head, is_shipped=True).test is None


def test_lines_follow_the_rows(head):
    labelled = arranged_of()
    fine_tuned = worked_of(head, lambda examples: layers_of(6))
    measured = candidates.measure(fine_tuned, labelled, head, is_shipped=True)
    result = list(score.predictions(head, labelled, NAMES, measured))
    assert [line.id for line in result] == [str(i) for i in range(36)]
    assert [line.split for line in result] == ["oof"] * 30 + ["test"] * 6
    assert [line.fold for line in result[:30]] == [i % 5 for i in range(30)]
    assert all(line.target == NAMES[i % 3] for i, line in enumerate(result))


def test_sure_keeps_its_promise_on_the_rows_it_was_made_from(head):
    labelled = arranged_of()
    labels = labelled.labels
    head.probabilities[:] = 0.02
    head.probabilities[np.arange(30), labels] = 0.96
    record = score.calibration_record(head, labelled, 3.0, 5)
    assert record.temperature == 1 / 1.7  # divides the logits
    assert record.class_bias == (0.1, -0.1, 0.0)
    p = head.probabilities.max(axis=1)
    if record.confident_from is not None:
        wrong = head.probabilities.argmax(axis=1) != labels
        assert wrong[p >= record.confident_from].mean() <= record.promised_error


def test_no_answer_is_more_certain_than_the_examples_allow(finished):
    """36 right of 36 is compatible with 8 % errors: 1 - 1e-6 is a claim that nobody can make."""
    result = [p for p in lines(finished.path, "predictions.jsonl") if p["split"] == "test"]
    assert max(max(p["scores"].values()) for p in result) < 1 - 1e-6


def test_confident_answers_are_counted_from_where_the_model_is_confident(head):
    labelled = arranged_of(n=300, n_test=0)
    rng = np.random.default_rng(0)
    right = np.arange(300) % 20 != 0
    p = np.full((300, 3), 0.05)
    named = np.where(right, labelled.labels, (labelled.labels + 1) % 3)
    p[np.arange(300), named] = np.where(right, 0.9, 0.5) - 0.01 * rng.random(300)
    p /= p.sum(axis=1, keepdims=True)
    many = replace(head, probabilities=p, fold=np.arange(300) % 5)
    result = score.confident(many, labelled)
    least = score.calibration_record(many, labelled, 3.0, 5).confident_from
    assert least is not None
    chosen = p.max(axis=1) >= least
    assert result.share == pytest.approx(chosen.mean())
    assert result.right == pytest.approx(right[chosen].mean())
