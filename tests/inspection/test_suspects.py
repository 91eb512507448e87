import numpy as np
import pytest

from warmstart.inspection.suspects import LEAST, rank_suspects, suspect_finding, wrong_labels


def honest(n, k, strength, seed, flipped=0.0):
    """Calibrated probabilities, labels drawn from them, and which labels were then flipped."""
    rng = np.random.default_rng(seed)
    logits = strength * rng.normal(size=(n, k))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(k, p=row) for row in p])
    which = rng.random(n) < flipped
    labels[which] = (labels[which] + rng.integers(1, k, which.sum())) % k
    return p, labels, which


@pytest.mark.parametrize(("k", "strength"), [(2, 3.0), (5, 2.0), (10, 4.0)])
def test_honest_mistakes_are_rarely_taken_for_wrong_labels(k, strength):
    reported = [rank_suspects(*honest(400, k, strength, seed)[:2]).reported for seed in range(10)]
    assert np.mean(reported) < 0.01 * 400
    assert np.median(reported) <= 1


@pytest.mark.parametrize("k", [2, 6])
def test_flipped_labels_lead_the_ranking_and_their_share_is_told(k):
    p, labels, flipped = honest(1000, k, 6.0, 3, flipped=0.05)
    ranking = rank_suspects(p, labels)
    top = [s.row for s in ranking.suspects[:100]]
    assert flipped[top].sum() > 0.8 * flipped.sum()
    assert ranking.share.low <= flipped.mean() <= ranking.share.high
    believed = [s.row for s in ranking.suspects[: ranking.reported]]
    assert len(believed) > 0.3 * flipped.sum()
    assert flipped[believed].mean() > 0.7


def test_every_judged_row_is_ranked_once_and_carries_what_was_said():
    p, labels, _ = honest(150, 3, 3.0, 0, flipped=0.1)
    p[10:20] = np.nan  # rows that no fold held out
    ranking = rank_suspects(p, labels)
    assert sorted(s.row for s in ranking.suspects) == [*range(10), *range(20, 150)]
    for suspect in ranking.suspects:
        row = p[suspect.row]
        assert suspect.given == labels[suspect.row]
        assert suspect.suggested == row.argmax()
        assert suspect.probability == row.max()
        assert suspect.own == row[suspect.given]
        assert 0 <= suspect.wrong <= 1
    assert all(s.wrong > 0.5 for s in ranking.suspects[: ranking.reported])
    rest = [s.own for s in ranking.suspects[ranking.reported :]]
    assert rest == sorted(rest)


def test_few_rows_and_perfect_models_claim_nothing():
    p, labels, _ = honest(LEAST - 1, 2, 3.0, 0, flipped=0.3)
    assert wrong_labels(p, labels).high == 1.0
    assert rank_suspects(p, labels).reported == 0
    sure = np.eye(2)[np.arange(200) % 2]
    assert rank_suspects(sure, np.arange(200) % 2).reported == 0
    assert rank_suspects(sure, 1 - np.arange(200) % 2).reported == 0


def test_the_finding_names_files_labels_and_shares():
    p, labels, _ = honest(600, 2, 8.0, 1, flipped=0.06)
    ranking = rank_suspects(p, labels)
    finding = suspect_finding(ranking, [f"{i}.jpg" for i in range(600)], ["cat", "dog"])
    first = ranking.suspects[0]
    assert finding.kind == "suspect-label"
    assert finding.sentence.startswith(f"{ranking.reported} labels of 600 look wrong")
    assert len(finding.items) == ranking.reported
    assert finding.items[0].startswith(
        f"{first.row}.jpg: {['cat', 'dog'][first.given]}, looks like"
    )


def test_no_suspects_no_finding():
    p, labels, _ = honest(60, 2, 2.0, 0)
    assert suspect_finding(rank_suspects(p, labels), ["x"] * 60, ["a", "b"]) is None


def test_the_best_rate_is_in_its_own_interval(monkeypatch):
    p, labels, _ = honest(200, 2, 4.0, 2, flipped=0.1)
    monkeypatch.setattr("warmstart.inspection.suspects._DROP", 0.0)
    share = wrong_labels(p, labels)
    assert share.low == share.rate == share.high
