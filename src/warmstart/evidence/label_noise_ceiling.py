"""How right can any model be on these labels?"""

from __future__ import annotations

from collections.abc import Iterable

from warmstart.data.near_duplicates import Twin
from warmstart.evidence.label_issues import JudgedLabels
from warmstart.nouns import IMAGES, Nouns
from warmstart.records.summary import Evidence
from warmstart.solve.calibration import Labels


def ceiling(
    found: JudgedLabels, twins: Iterable[Twin], labels: Labels, nouns: Nouns = IMAGES
) -> Evidence:
    """One minus the share of labels that must be wrong, estimated.

    Shapes: labels (n,) over the rows that twins number. Wrong are the share of labels that
    contradict sure predictions, and one label of every two near copies with different
    labels where neither is an issue yet. No value where no number of label issues can be stated.
    Details: `rate`, `conflicts`.
    """
    counted = {int(row) for row in found.rows[found.is_issue]}
    conflicts = [t for t in twins if labels[t.first] != labels[t.second]]
    apart: set[int] = (
        set()
    )  # the wrong one is not known: either stands for the pair, and for others of it
    for twin in conflicts:
        if not {twin.first, twin.second} & (counted | apart):
            apart.add(twin.second)
    n, share = len(labels), found.rate
    details: dict[str, float | int | str] = {
        "rate": 0.0 if share is None else share.value,
        "conflicts": len(conflicts),
    }
    if found.count is None or found.upper is None:
        return Evidence(
            name="ceiling",
            value=None,
            low=None,
            high=None,
            n=n,
            details=details,
            meaning="Not measured: how many labels are wrong cannot be told here.",
        )
    certain = len(apart) / n
    rates = (0.0, found.upper, 0.0) if share is None else (share.value, share.high, share.low)
    value, low, high = (max(1.0 - rate - certain, 0.0) for rate in rates)
    is_clear = share is not None or bool(apart)
    meaning = _meaning(value, low, high, len(conflicts), nouns) if is_clear else _unclear(low)
    return Evidence(
        name="ceiling", value=value, low=low, high=high, n=n, meaning=meaning, details=details
    )


def _meaning(value: float, low: float, high: float, conflicts: int, nouns: Nouns) -> str:
    noun = "pair of near copies carries" if conflicts == 1 else "pairs of near copies carry"
    pairs = f" ({conflicts:,} {noun} two)" if conflicts else ""
    return (
        f"About {100 * (1 - value):.1f} % of the labels contradict what the {nouns.many} "
        f"show{pairs}: "
        f"no model can agree with more than about {100 * value:.1f} % ({100 * low:.1f} to "
        f"{100 * high:.1f} %) of labels made like these."
    )


def _unclear(low: float) -> str:
    missed = 100 * (1 - low)
    return f"No label issues found; up to {missed:.0f} % wrong labels could have gone unnoticed."
