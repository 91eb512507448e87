import numpy as np
import pytest

from warmstart.inspection.ceiling import ceiling
from warmstart.inspection.suspects import Ranking, Suspect, WrongLabels
from warmstart.inspection.twins import Twin

LABELS = np.array([0, 1] * 50)


def ranking(rate, low, high, reported=(), evidence=9.0):
    suspects = tuple(
        Suspect(row=row, given=0, suggested=1, probability=0.9, own=0.1, wrong=0.9)
        for row in reported
    )
    share = WrongLabels(rate=rate, low=low, high=high, evidence=evidence, slope=1.0, offset=0.0)
    return Ranking(suspects, len(suspects), share)


def test_the_share_of_wrong_labels_bounds_every_model():
    found = ceiling(ranking(0.05, 0.02, 0.08), [], LABELS)
    assert (found.value, found.low, found.high) == pytest.approx((0.95, 0.92, 0.98))
    assert "no model can agree with more than about 95.0 %" in found.meaning


def test_near_copies_with_two_labels_add_one_wrong_label_a_pair():
    twins = [Twin(0, 1, 0.9, False), Twin(2, 4, 0.9, False), Twin(6, 7, 0.9, False)]
    found = ceiling(ranking(0.0, 0.0, 0.02), twins, LABELS)
    assert found.value == pytest.approx(0.98)
    assert found.details["conflicts"] == 2


def test_a_pair_whose_suspect_is_counted_adds_nothing():
    twins = [Twin(0, 1, 0.9, False)]
    assert ceiling(ranking(0.01, 0.0, 0.02, [1]), twins, LABELS).value == pytest.approx(0.99)


def test_no_sign_of_wrong_labels_is_said_with_what_cannot_be_excluded():
    found = ceiling(ranking(0.0, 0.0, 0.03, evidence=0.0), [], LABELS)
    assert found.value == found.high == 1.0
    assert "up to 3 %" in found.meaning


def test_too_few_rows_are_no_evidence():
    found = ceiling(ranking(0.0, 0.0, 1.0), [], LABELS)
    assert found.value is found.low is found.high is None
    assert "too few" in found.meaning


@pytest.mark.parametrize(("pairs", "said"), [(1, "1 pair of near copies carries two"),
                                             (2, "2 pairs of near copies carry two")])  # fmt: skip
def test_pairs_are_counted_in_words(pairs, said):
    twins = [Twin(2 * i, 2 * i + 1, 0.9, False) for i in range(pairs)]
    assert f"({said})" in ceiling(ranking(0.05, 0.02, 0.08), twins, LABELS).meaning
