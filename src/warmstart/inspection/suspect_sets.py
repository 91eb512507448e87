"""Which label of which example looks wrong, where examples have several.

Whether an example has a label is a question with two answers. So all of them, of every example
and label, are judged together as `suspects.py` judges classes: one share of wrong answers, drawn
at random, one curve of honest mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from warmstart.inspection.suspects import Ranking, Suspect, rank_suspects
from warmstart.records import Finding, SuspectLabel
from warmstart.records.labels import SEPARATOR
from warmstart.solve.ridge import Array
from warmstart.words import IMAGES, Nouns

# How likely an answer must be wrong to be called so: of 28 that were so from .5 on among planted
# ones 15 were, of 7 from .8 on 6 (pairs of pictures, 5 % with a mistake).
LIKELY = 0.8


def rank_cells(probabilities: Array, truth: NDArray[np.float64]) -> Ranking:
    """Rank the answers (row, label), numbered row by row, the most suspicious first.

    Shapes: probabilities (n, K) out of fold, NaN in rows that no fold held out; truth (n, K).

    >>> p = np.array([[0.9, 0.1], [0.2, 0.8]])
    >>> [divmod(s.row, 2) for s in rank_cells(p, np.array([[1.0, 0.0], [0.0, 0.0]])).suspects][0]
    (1, 1)
    """
    flat = probabilities.reshape(-1)
    answers = truth.reshape(-1).astype(np.int64)
    return rank_suspects(np.stack([1 - flat, flat], axis=1), answers, LIKELY)


def suspect_sets(
    ranking: Ranking, ids: Sequence[str], truth: NDArray[np.float64], names: Sequence[str],
    most: int,
) -> tuple[SuspectLabel, ...]:  # fmt: skip
    """A line for each example with an answer that is contradicted, the most suspicious first.

    All answers that are believed wrong are corrected in it, or else the most suspicious one;
    `most` lines, and every believed one. Shapes: truth (n, K).
    """
    k, cells = len(names), dict[int, list[Suspect]]()
    for place, suspect in enumerate(ranking.suspects):
        row = suspect.row // k
        is_believed = place < ranking.reported
        if suspect.given == suspect.suggested or (row in cells and not is_believed):
            continue
        if len(cells) >= most and not is_believed:
            break
        cells.setdefault(row, []).append(suspect)
    believed = {s.row for s in ranking.suspects[: ranking.reported]}
    return tuple(
        _line(ids[row], truth[row], some, names, some[0].row in believed)
        for row, some in cells.items()
    )


def _line(
    id: str, has: NDArray[np.float64], some: Sequence[Suspect], names: Sequence[str], believed: bool
) -> SuspectLabel:
    k = len(names)
    other = has.copy()
    for suspect in some:
        other[suspect.row % k] = suspect.suggested
    return SuspectLabel(
        id=id, label=_joined(has, names), suggested=_joined(other, names),
        probability=round(some[0].probability, 4), wrong=round(some[0].wrong, 4),
        believed=believed, concerns=tuple(names[s.row % k] for s in some),
    )  # fmt: skip


def _joined(has: NDArray[np.float64], names: Sequence[str]) -> str:
    """As records hold labels."""
    return SEPARATOR.join(sorted(name for name, is_on in zip(names, has, strict=True) if is_on))


def sets_finding(
    ranking: Ranking, ids: Sequence[str], names: Sequence[str], nouns: Nouns = IMAGES
) -> Finding | None:
    """The labels that are believed missing or too many, in words; None if there are none."""
    believed, k = ranking.suspects[: ranking.reported], len(names)
    if not believed:
        return None
    missing, share = sum(s.suggested for s in believed), ranking.share
    n, answers = len({s.row // k for s in believed}), len(ranking.suspects)
    noun, verb = (nouns.one, "looks") if n == 1 else (nouns.many, "look")
    return Finding(
        kind="suspect-label",
        sentence=(
            f"The labels of {n:,} {noun} of {answers // k:,} {verb} wrong: the model, sure of "
            f"itself and without having learnt from these {nouns.many}, "
            f"misses {missing:,} of them and sees {len(believed) - missing:,} too many. In all "
            f"about {100 * share.rate:.1f} % of the answers whether {nouns.an} has a label are "
            "wrong "
            f"({100 * share.low:.1f} to {100 * share.high:.1f} %). Look at these {nouns.many} "
            "first and correct their labels."
        ),
        items=tuple(
            f"{ids[s.row // k]}: {'lacks' if s.suggested else 'has'} {names[s.row % k]}, looks "
            f"as if it {'had it' if s.suggested else 'had it not'} ({100 * s.probability:.0f} %)"
            for s in believed
        ),
    )
