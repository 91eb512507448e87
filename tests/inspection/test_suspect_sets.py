"""Labels of several that look wrong: which label of which example."""

import numpy as np

from warmstart.inspection.suspect_sets import rank_cells, sets_finding, suspect_sets

NAMES = ("cat", "dog", "owl")


def honest(n=200, seed=0):
    """Probabilities that keep what they promise, and labels drawn by them. Shapes: (n, 3)."""
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-6 * rng.normal(size=(n, 3))))
    return p, (rng.random((n, 3)) < p).astype(float)


def planted(seed=0):
    """The same with the surest answers of ten rows turned round."""
    p, truth = honest(seed=seed)
    sure = np.abs(p - 0.5) + 0.0
    rows = np.argsort(-sure.max(axis=1), kind="stable")[:10]
    cells = {(int(row), int(sure[row].argmax())) for row in rows}
    for row, k in cells:
        truth[row, k] = 1 - truth[row, k]
    return p, truth, cells


def test_honest_mistakes_are_not_called_wrong():
    assert sum(rank_cells(*honest(seed=seed)).reported for seed in range(5)) <= 2


def test_turned_answers_are_named_with_their_label():
    p, truth, cells = planted()
    ranking = rank_cells(p, truth)
    named = {divmod(s.row, 3) for s in ranking.suspects[: ranking.reported]}
    assert len(named & cells) >= 8
    ids = [f"{row}.jpg" for row in range(len(truth))]
    lines = suspect_sets(ranking, ids, truth, NAMES, 20)
    first = lines[0]
    row = int(first.id.removesuffix(".jpg"))
    assert first.believed
    assert {(row, NAMES.index(name)) for name in first.concerns} <= named
    has, said = (set(text.split("|")) - {""} for text in (first.label, first.suggested))
    assert has ^ said == set(first.concerns)
    assert has == {name for name, is_on in zip(NAMES, truth[row], strict=True) if is_on}
    assert len({line.id for line in lines}) == len(lines) == 20
    finding = sets_finding(ranking, ids, NAMES)
    assert finding.kind == "suspect-label"
    assert len(finding.items) == ranking.reported
    assert f"{len({row for row, _ in named})} images" in finding.sentence


def test_nothing_is_said_where_nothing_is_wrong():
    p, truth = honest(n=20)
    assert sets_finding(rank_cells(p, truth), ["x"] * 20, NAMES) is None


def test_rows_that_no_fold_held_out_are_not_judged():
    p, truth, _ = planted()
    p[0] = np.nan
    assert all(s.row // 3 != 0 for s in rank_cells(p, truth).suspects)
