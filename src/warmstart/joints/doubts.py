"""What the training rows say of themselves: doubtful labels, shortcuts, drift, the ceiling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from warmstart.data.encode import encode
from warmstart.data.split import folds
from warmstart.folder import write_csv
from warmstart.inspection.ceiling import ceiling
from warmstart.inspection.cues import cues
from warmstart.inspection.drift import drift
from warmstart.inspection.hits import best_probabilities
from warmstart.inspection.shortcut import shortcut
from warmstart.inspection.suspects import Ranking, rank_suspects, suspect_finding
from warmstart.inspection.telling import FOLDS, telling
from warmstart.inspection.twins import Twin
from warmstart.joints.album import Album
from warmstart.joints.look import Look, load_same
from warmstart.joints.rows import Arranged, draw_rows, groups_among, kernels_of, labels_among
from warmstart.joints.scene import Scene
from warmstart.planning import rules
from warmstart.records import Evidence, Example, Finding, SuspectLabel, TableInputs
from warmstart.solve.kernels import Features
from warmstart.solve.ridge import Array, Rows

COLUMNS = ("path", "label", "suggested", "probability", "chance_wrong")
LISTED = 0.1  # share of the labels that suspects.csv lists, whatever is believed of them
LEAST_LISTED = 20


NO_CEILING = Evidence(
    name="ceiling", value=None, low=None, high=None, n=0,
    meaning="Not measured: doubtful labels are looked for where each example has one class.",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubts:
    """What was found; `suspects` lists contradicted labels, believed wrong or not."""

    ceiling: Evidence
    findings: tuple[Finding, ...]
    suspects: tuple[SuspectLabel, ...]


def doubt(scene: Scene) -> Doubts:
    """Look for what is wrong with the training part, and whether the test part is like it.

    No label of the hold-out or the test part is looked at.
    """
    arranged, classes = scene.arranged, scene.collection.record.classes
    examples, labels = arranged.learn[: arranged.n_train], arranged.labels[: arranged.n_train]
    if not arranged.target.tells_classes:
        moved = _drift(scene, examples)
        return Doubts(ceiling=NO_CEILING, findings=(moved,) if moved else (), suspects=())
    probabilities = left_out_probabilities(scene)
    ranking = rank_suspects(probabilities, labels)
    ids = [example.id for example in examples]
    judged = np.isfinite(probabilities[:, 0])
    right = float((probabilities[judged].argmax(axis=1) == labels[judged]).mean())
    found = [
        suspect_finding(ranking, ids, classes),
        *_of_pictures(scene, examples, labels, right),
        _drift(scene, examples),
    ]
    return Doubts(
        ceiling=ceiling(ranking, _pairs(arranged, ids), labels),
        findings=tuple(finding for finding in found if finding is not None),
        suspects=_suspects(ranking, ids, classes),
    )


def _of_pictures(
    scene: Scene, examples: Sequence[Example], labels: Rows, right: float
) -> list[Finding | None]:
    """What only pictures can give away, of sounds too: their borders, their sizes, their files."""
    record = scene.collection.record
    if record.kind == "table":
        return [_telling(scene, examples, labels)]
    if record.kind not in ("image", "audio"):
        return []
    album, rng = Album(scene.look, examples), np.random.default_rng([scene.seed, 7])
    found = cues(album.files, labels, record.classes, rng, record.kind)
    return [_shortcut(album, scene, right), *found]


def _telling(scene: Scene, examples: Sequence[Example], labels: Rows) -> Finding | None:
    """One column that gives the label away."""
    inputs = scene.prep
    if not isinstance(inputs, TableInputs) or scene.collection.record.task != "classify":
        return None
    rows = np.stack([encode(load_same(scene.collection, e), e.id, inputs) for e in examples])
    ends = np.cumsum([len(column.slots) for column in inputs.columns])
    parted = zip(inputs.columns, np.split(rows, ends[:-1], axis=1), strict=True)
    part = folds(labels, scene.arranged.blocks()[: len(labels)], FOLDS,
                 np.random.default_rng([scene.seed, 17]))  # fmt: skip
    held = [np.flatnonzero(part == number) for number in range(int(part.max()) + 1)]
    return telling({c.name: values for c, values in parted}, labels, held, scene.seed)


def left_out_probabilities(scene: Scene) -> Array:
    """Calibrated probabilities of every training row without its block. Shapes: (n, K).

    Where rows are many, parts of them are judged apart, each by the rest of its part.
    """
    arranged, n = scene.arranged, scene.arranged.n_train
    parts = -(-n // rules.DUAL_LIMIT)
    rng = np.random.default_rng([scene.seed, 8])
    blocks = arranged.blocks()[:n]
    part = folds(arranged.folding[:n], blocks, parts, rng) if parts > 1 else np.zeros(n, int)
    found = np.full((n, arranged.n_classes), np.nan)  # a part of one block is judged by nothing
    for number in range(int(part.max()) + 1):
        rows = np.flatnonzero(part == number)
        groups = groups_among(rows, arranged)
        if len(groups) < 2:
            continue
        labels, k = arranged.labels[rows], arranged.n_classes
        found[rows] = best_probabilities(_kernels(scene, rows), labels, groups, k)
    return found


def _kernels(scene: Scene, rows: Rows) -> Iterable[Array]:
    """Of the pair."""
    read = scene.look.reader(scene.examples(rows))
    return kernels_of(scene.pair(), read, len(rows)).values()


def _shortcut(album: Album, scene: Scene, right: float) -> Finding | None:
    """Nothing is said of small pictures, nor of sounds: their border is part of the subject."""
    if scene.collection.record.kind == "audio":
        return None
    if np.median(album.files.short_side()) < rules.LEAST_SIDE:
        return None
    rows, arranged = draw_rows(scene.arranged, rules.BORDER_ROWS, scene.seed), scene.arranged
    names = [scene.collection.record.classes[n] for n in np.unique(arranged.labels[rows])]
    labels, groups = labels_among(rows, arranged), groups_among(rows, arranged)
    return shortcut(album.of(rows).border, labels, names, groups, right)


def _drift(scene: Scene, examples: Sequence[Example]) -> Finding | None:
    look, test = scene.look, scene.arranged.test
    if not test:
        return None
    rng = np.random.default_rng([scene.seed, 9])
    return drift(_Last(look, examples), _Last(look, test), rng)


@dataclass(frozen=True, slots=True)
class _Last:
    """The last tap of some examples, of which a few rows are asked for."""

    look: Look
    examples: Sequence[Example]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, rows: Rows) -> Features:
        chosen = [self.examples[row] for row in rows]
        return self.look.reader(chosen)(self.look.taps[-1])


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
    rows = ((s.id, s.label, s.suggested, s.probability, s.wrong) for s in suspects)
    write_csv(path, COLUMNS, rows)
