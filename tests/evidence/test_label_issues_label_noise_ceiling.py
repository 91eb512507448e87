import numpy as np
import pytest

from warmstart.data.near_duplicates import NearDuplicate
from warmstart.evidence.label_issues import JudgedLabels, label_noise_ceiling
from warmstart.records.data import Share

LABELS = np.array([0, 1] * 50)


def judged(rate, low, high, issues=(), why=None):
    """Labels of which some are issues; a rate of 0 says that none was found."""
    rows, n = np.array([*issues, *(set(range(100)) - set(issues))]), len(issues)
    none = np.zeros(100)
    return JudgedLabels(
        rows=rows,
        labels=LABELS[rows],
        suggested=LABELS[rows],
        probability=none,
        score=none,
        is_issue=np.arange(100) < n,
        count=None if why else n,
        why=why,
        error=0.1,
        upper=high,
        rate=Share(value=rate, low=low, high=high) if rate else None,
    )


def test_the_share_of_wrong_labels_bounds_every_model():
    result = label_noise_ceiling(judged(0.05, 0.02, 0.08), [], LABELS)
    assert (result.value, result.low, result.high) == pytest.approx((0.95, 0.92, 0.98))
    assert "no model can agree with more than about 95.0 %" in result.meaning


def test_near_copies_with_two_labels_add_one_wrong_label_a_pair():
    near_duplicates = [
        NearDuplicate(0, 1, 0.9, False),
        NearDuplicate(2, 4, 0.9, False),
        NearDuplicate(6, 7, 0.9, False),
    ]
    result = label_noise_ceiling(judged(0.0, 0.0, 0.02), near_duplicates, LABELS)
    assert result.value == pytest.approx(0.98)
    assert result.details["conflicts"] == 2


def test_a_pair_with_a_label_issue_adds_nothing():
    near_duplicates = [NearDuplicate(0, 1, 0.9, False)]
    assert label_noise_ceiling(
        judged(0.01, 0.0, 0.02, [1]), near_duplicates, LABELS
    ).value == pytest.approx(0.99)


def test_no_sign_of_wrong_labels_is_said_with_what_cannot_be_excluded():
    result = label_noise_ceiling(judged(0.0, 0.0, 0.03), [], LABELS)
    assert result.value == result.high == 1.0
    assert "up to 3 %" in result.meaning


@pytest.mark.parametrize("why", ["too-few", "weak-model", "distribution-shift"])
def test_where_no_number_is_stated_there_is_no_ceiling(why):
    result = label_noise_ceiling(judged(0.0, 0.0, None, why=why), [], LABELS)
    assert result.value is result.low is result.high is None
    assert result.meaning == "Not measured: the number of wrong labels is unclear here."


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        (1, "1 pair of near-duplicates has two labels"),
        (2, "2 near-duplicate pairs have two labels"),
    ],
)
def test_pairs_are_counted_in_words(pairs, text):
    near_duplicates = [NearDuplicate(2 * i, 2 * i + 1, 0.9, False) for i in range(pairs)]
    assert (
        f"({text})"
        in label_noise_ceiling(judged(0.05, 0.02, 0.08), near_duplicates, LABELS).meaning
    )
