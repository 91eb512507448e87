"""What the training rows say of themselves: doubtful labels, shortcuts, drift, the ceiling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from warmstart.data.encode import encode
from warmstart.data.split import folds
from warmstart.folder import write_csv
from warmstart.inspection.drift import drift
from warmstart.inspection.hits import best_probabilities
from warmstart.inspection.telling import FOLDS
from warmstart.joints.album import Album
from warmstart.joints.doubting import DOUBTS, Judged
from warmstart.joints.look import Look, load_same
from warmstart.joints.rows import draw_rows, groups_among, kernels_of
from warmstart.joints.scene import Scene
from warmstart.planning import rules
from warmstart.records import Evidence, Example, Finding, SuspectLabel, TableInputs
from warmstart.records.labels import SEPARATOR
from warmstart.solve.kernels import Features
from warmstart.solve.ridge import Array, Rows

COLUMNS = ("path", "label", "suggested", "probability", "chance_wrong")
CONCERNS = "concerns"  # of several labels: those that are doubted


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
    arranged, record = scene.arranged, scene.collection.record
    examples = arranged.learn[: arranged.n_train]
    judged = Judged(
        arranged=arranged, names=record.classes, truth=arranged.labels[: arranged.n_train],
        answers=left_out_probabilities(scene), seed=scene.seed,
    )  # fmt: skip
    labels = DOUBTS[record.task].labels(judged)
    found = [labels.finding, *_of_inputs(scene, judged, examples), _drift(scene, examples)]
    return Doubts(
        ceiling=labels.ceiling,
        findings=tuple(finding for finding in found if finding is not None),
        suspects=labels.suspects,
    )


def _of_inputs(scene: Scene, judged: Judged, examples: Sequence[Example]) -> list[Finding | None]:
    """What pictures give away, and sounds: their borders, sizes, files; of a table a column."""
    kind = scene.collection.record.kind
    if kind == "table":
        return [_telling(scene, judged, examples)]
    if kind not in ("image", "audio"):
        return []
    album = Album(scene.look, examples)
    found = DOUBTS[scene.collection.record.task].files(judged, album.files, kind)
    return [_shortcut(album, scene, judged), *found]


def _telling(scene: Scene, judged: Judged, examples: Sequence[Example]) -> Finding | None:
    """One column that gives the label away."""
    inputs = scene.prep
    if not isinstance(inputs, TableInputs):
        return None
    rows = np.stack([encode(load_same(scene.collection, e), e.id, inputs) for e in examples])
    ends = np.cumsum([len(column.slots) for column in inputs.columns])
    parted = zip(inputs.columns, np.split(rows, ends[:-1], axis=1), strict=True)
    part = folds(scene.arranged.folding[: len(examples)], scene.arranged.blocks()[: len(examples)],
                 FOLDS, np.random.default_rng([scene.seed, 17]))  # fmt: skip
    held = [np.flatnonzero(part == number) for number in range(int(part.max()) + 1)]
    columns = {column.name: values for column, values in parted}
    return DOUBTS[scene.collection.record.task].columns(judged, columns, held)


def left_out_probabilities(scene: Scene) -> Array:
    """Calibrated answers to every training row without its block. Shapes: (n, K).

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
        found[rows] = best_probabilities(_kernels(scene, rows), labels, groups, k, arranged.target)
    return found


def _kernels(scene: Scene, rows: Rows) -> Iterable[Array]:
    """Of the pair."""
    read = scene.look.reader(scene.examples(rows))
    return kernels_of(scene.pair(), read, len(rows)).values()


def _shortcut(album: Album, scene: Scene, judged: Judged) -> Finding | None:
    """Nothing is said of small pictures, nor of sounds: their border is part of the subject."""
    record = scene.collection.record
    if record.kind == "audio" or np.median(album.files.short_side()) < rules.LEAST_SIDE:
        return None
    rows = draw_rows(scene.arranged, rules.BORDER_ROWS, scene.seed)
    return DOUBTS[record.task].border(judged, rows, album.of(rows).border)


def _drift(scene: Scene, examples: Sequence[Example]) -> Finding | None:
    look, test = scene.look, scene.arranged.test
    if not test:
        return None
    rng = np.random.default_rng([scene.seed, 9])
    return drift(_Last(look, examples), _Last(look, test), rng, scene.arranged.nouns)


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


def write_suspects(path: Path, suspects: Sequence[SuspectLabel]) -> None:
    """Write the suspects as CSV; `--relabel` takes it back, corrected or not.

    The label column holds what the data says now, so that an untouched row changes nothing.
    """
    rows = [(s.id, s.label, s.suggested, s.probability, s.wrong) for s in suspects]
    if not any(s.concerns for s in suspects):
        return write_csv(path, COLUMNS, rows)
    named = (SEPARATOR.join(s.concerns or ()) for s in suspects)
    return write_csv(
        path, (*COLUMNS, CONCERNS), ((*r, n) for r, n in zip(rows, named, strict=True))
    )
