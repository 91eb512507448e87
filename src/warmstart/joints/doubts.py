"""What the training rows say of themselves: doubtful labels, shortcuts, drift, the ceiling."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from warmstart.data.glance import Glances
from warmstart.data.split import folds
from warmstart.folder import write_bytes
from warmstart.inspection.ceiling import ceiling
from warmstart.inspection.cues import cues
from warmstart.inspection.drift import drift
from warmstart.inspection.hits import best_left_out
from warmstart.inspection.shortcut import shortcut
from warmstart.inspection.suspects import Ranking, rank_suspects, suspect_finding
from warmstart.inspection.twins import Twin
from warmstart.joints.look import Look
from warmstart.joints.rows import Arranged, draw_rows, groups_among
from warmstart.planning import rules
from warmstart.planning.profiles import Profile
from warmstart.records import Evidence, Example, Finding, SuspectLabel
from warmstart.solve.kernels import mixed_kernels
from warmstart.solve.ridge import Array

COLUMNS = ("path", "label", "suggested", "probability", "chance_wrong")
LISTED = 0.1  # share of the labels that suspects.csv lists, whatever is believed of them
LEAST_LISTED = 20
LEAST_SIDE = 32  # px


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubts:
    """What was found; `suspects` lists contradicted labels, believed wrong or not."""

    ceiling: Evidence
    findings: tuple[Finding, ...]
    suspects: tuple[SuspectLabel, ...]


def doubt(look: Look, arranged: Arranged, pair: dict[str, Profile], classes: Sequence[str],
          seed: int) -> Doubts:  # fmt: skip
    """Look for what is wrong with the training part, and whether the test part is like it.

    No label of the hold-out or the test part is looked at.
    """
    n = len(arranged.learn) - arranged.holdout
    examples, labels = arranged.learn[:n], arranged.labels[:n]
    probabilities = left_out_probabilities(look, arranged, pair, seed)
    ranking = rank_suspects(probabilities, labels)
    ids = [example.id for example in examples]
    glances = look.glances(examples)
    judged = np.isfinite(probabilities[:, 0])
    right = float((probabilities[judged].argmax(axis=1) == labels[judged]).mean())
    found = [
        suspect_finding(ranking, ids, classes),
        _shortcut(glances, arranged, classes, right, seed),
        *cues(glances, labels, classes, np.random.default_rng([seed, 7])),
        _drift(look, examples, arranged.test, seed),
    ]
    return Doubts(
        ceiling=ceiling(ranking, _pairs(arranged, ids), labels),
        findings=tuple(finding for finding in found if finding is not None),
        suspects=_suspects(ranking, ids, classes),
    )


def left_out_probabilities(
    look: Look, arranged: Arranged, pair: dict[str, Profile], seed: int
) -> Array:
    """Calibrated probabilities of every training row without its block. Shapes: (n, K).

    Where rows are many, parts of them are judged apart, each by the rest of its part.
    """
    n = len(arranged.learn) - arranged.holdout
    parts = -(-n // rules.DUAL_LIMIT)
    rng = np.random.default_rng([seed, 8])
    blocks = arranged.blocks()[:n]
    part = folds(arranged.labels[:n], blocks, parts, rng) if parts > 1 else np.zeros(n, int)
    found = np.full((n, arranged.n_classes), np.nan)  # a part of one block is judged by nothing
    for number in range(int(part.max()) + 1):
        rows = np.flatnonzero(part == number)
        read = look.reader([arranged.learn[row] for row in rows])
        taps = [*pair.values()][-1]
        kernels = mixed_kernels(((tap, read(tap)) for tap in taps), pair)
        groups = groups_among(rows, arranged)
        if len(groups) < 2:
            continue
        head = best_left_out(kernels.values(), arranged.labels[rows], groups, arranged.n_classes)
        found[rows] = head.probabilities()
    return found


def _shortcut(
    glances: Glances, arranged: Arranged, classes: Sequence[str], right: float, seed: int
) -> Finding | None:
    """Nothing is said of small pictures: their border is part of the subject."""
    if np.median(glances.short_side()) < LEAST_SIDE:
        return None
    rows = draw_rows(arranged, rules.BORDER_ROWS, seed)
    there, labels = np.unique(arranged.labels[rows], return_inverse=True)
    names = [classes[number] for number in there]
    return shortcut(glances.border[rows], labels, names, groups_among(rows, arranged), right)


def _drift(
    look: Look, examples: Sequence[Example], test: Sequence[Example], seed: int
) -> Finding | None:
    if not test:
        return None
    last = look.taps[-1]
    rng = np.random.default_rng([seed, 9])
    return drift(look.reader(examples)(last), look.reader(test)(last), rng)


def _pairs(arranged: Arranged, ids: Sequence[str]) -> list[Twin]:
    """Copies and near copies as rows of the training part."""
    place = {id: row for row, id in enumerate(ids)}
    inside = [(a, b) for a, b in arranged.twins if a in place and b in place]
    first: dict[str, str] = {}
    for example in arranged.learn[: len(ids)]:  # and the same bytes under two labels
        other = first.setdefault(example.sha256, example.id)
        if other != example.id:
            inside.append((other, example.id))
    return [Twin(place[a], place[b], 1.0, False) for a, b in inside]


def _suspects(
    ranking: Ranking, ids: Sequence[str], classes: Sequence[str]
) -> tuple[SuspectLabel, ...]:
    most = max(ranking.reported, LEAST_LISTED, round(LISTED * len(ranking.suspects)))
    return tuple(
        SuspectLabel(
            id=ids[s.row],
            label=classes[s.given],
            suggested=classes[s.suggested],
            probability=round(s.probability, 4),
            wrong=round(s.wrong, 4),
            believed=place < ranking.reported,
        )
        for place, s in enumerate(ranking.suspects[:most])
        if s.given != s.suggested
    )


def write_suspects(path: Path, suspects: Sequence[SuspectLabel]) -> None:
    """Write the suspects as CSV; `--relabel` takes it back, corrected or not.

    The label column holds what the data says now, so that an untouched row changes nothing.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows((s.id, s.label, s.suggested, s.probability, s.wrong) for s in suspects)
    write_bytes(path, text.getvalue().encode())
