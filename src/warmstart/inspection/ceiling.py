"""How right can any model be on these labels?"""

from __future__ import annotations

from collections.abc import Iterable

from warmstart.inspection.suspects import Ranking
from warmstart.inspection.twins import Twin
from warmstart.records import Evidence
from warmstart.solve.temperature import Labels


def ceiling(ranking: Ranking, twins: Iterable[Twin], labels: Labels) -> Evidence:
    """One minus the share of labels that must be wrong, estimated.

    Shapes: labels (n,) over the rows that twins number. Wrong are the share of labels that
    contradict sure predictions, and one label of every two near copies with different
    labels where neither is counted yet. Details: `rate`, `conflicts`, `evidence`.
    """
    counted = {suspect.row for suspect in ranking.suspects[: ranking.reported]}
    conflicts = [t for t in twins if labels[t.first] != labels[t.second]]
    apart: set[int] = (
        set()
    )  # the wrong one is not known: either stands for the pair, and for others of it
    for twin in conflicts:
        if not {twin.first, twin.second} & (counted | apart):
            apart.add(twin.second)
    n, share = len(labels), ranking.share
    certain = len(apart) / n
    value, low, high = (
        max(1.0 - rate - certain, 0.0) for rate in (share.rate, share.high, share.low)
    )
    return Evidence(
        name="ceiling",
        value=value,
        low=low,
        high=high,
        n=n,
        meaning=_meaning(value, low, high, len(conflicts)),
        details={
            "rate": share.rate,
            "conflicts": len(conflicts),
            "evidence": share.evidence,
        },
    )


def _meaning(value: float, low: float, high: float, conflicts: int) -> str:
    if low <= 0:
        return "There are too few contradictions among the labels to say how many are wrong."
    if value >= 0.9995:
        return (
            "No sign of wrong labels beyond honest mistakes of the model; up to "
            f"{100 * (1 - low):.0f} % cannot be excluded."
        )
    pairs = f"; {conflicts:,} near copies carry two labels" if conflicts else ""
    return (
        f"About {100 * (1 - value):.0f} % of the labels contradict what the images show"
        f"{pairs}: no model can agree with more than about {100 * value:.0f} % "
        f"({100 * low:.0f} to {100 * high:.0f} %) of labels made like these."
    )
