"""How right can any model be on these labels?"""

from __future__ import annotations

from collections.abc import Iterable

from warmstart.inspection.suspects import EVIDENCE, Ranking
from warmstart.inspection.twins import Twin
from warmstart.records import Evidence
from warmstart.solve.temperature import Labels
from warmstart.words import IMAGES, Nouns


def ceiling(
    ranking: Ranking, twins: Iterable[Twin], labels: Labels, nouns: Nouns = IMAGES
) -> Evidence:
    """One minus the share of labels that must be wrong, estimated.

    Shapes: labels (n,) over the rows that twins number. Wrong are the share of labels that
    contradict sure predictions, and one label of every two near copies with different
    labels where neither is counted yet. No value where rows are too few to tell. Details:
    `rate`, `conflicts`, `evidence`.
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
    details: dict[str, float | int | str] = {
        "rate": share.rate,
        "conflicts": len(conflicts),
        "evidence": share.evidence,
    }
    if share.high >= 1:
        meaning = f"There are too few {nouns.many} to say how many of their labels are wrong."
        return Evidence(
            name="ceiling", value=None, low=None, high=None, n=n, meaning=meaning, details=details
        )
    certain = len(apart) / n
    value, low, high = (
        max(1.0 - rate - certain, 0.0) for rate in (share.rate, share.high, share.low)
    )
    is_clear = share.evidence >= EVIDENCE or bool(apart)
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
    return (
        "No clear sign of wrong labels beyond honest mistakes of the model; up to "
        f"{100 * (1 - low):.0f} % cannot be excluded."
    )
