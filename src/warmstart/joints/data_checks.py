"""What the training rows say of themselves: label issues, off-topic examples, shortcuts, drift."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from warmstart.data.encode import encode
from warmstart.data.split import folds
from warmstart.folder import write_csv
from warmstart.inspection.drift import drift
from warmstart.inspection.hits import best_probabilities
from warmstart.inspection.label_issue_words import label_finding
from warmstart.inspection.off_topic import find_off_topic, off_topic, off_topic_finding
from warmstart.inspection.telling import FOLDS
from warmstart.joints.album import Album
from warmstart.joints.look import Look, load_same
from warmstart.joints.rows import draw_rows, groups_among, kernels_of
from warmstart.joints.scene import Scene
from warmstart.joints.task_checks import CHECKS, OutOfFold
from warmstart.planning import rules
from warmstart.records import (
    Evidence,
    Example,
    Finding,
    Inspection,
    LabelIssues,
    OffTopic,
    TableInputs,
    Why,
)
from warmstart.records.labels import SEPARATOR
from warmstart.solve.kernels import Features
from warmstart.solve.ridge import Array, Rows

MOSTLY = 0.9  # of the training rows that have to be answered out of fold
COLUMNS = ("path", "label", "suggested", "probability", "score", "issue")
CONCERNS = "concerns"  # of several labels: those that are in question
ODD_COLUMNS = ("path", "label", "score", "off_topic")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataChecks:
    """What was found; `off_topic` is None where it was not looked for."""

    ceiling: Evidence
    findings: tuple[Finding, ...]
    label_issues: LabelIssues
    off_topic: OffTopic | None


def check_data(scene: Scene, is_signal: bool) -> DataChecks:
    """Look for what is wrong with the training part, and whether the test part is like it.

    `is_signal`: whether the labels can be learnt at all. No label of the hold-out or the test
    part is looked at.
    """
    arranged, record = scene.arranged, scene.collection.record
    examples = arranged.learn[: arranged.n_train]
    out_of_fold = OutOfFold(
        arranged=arranged, names=record.classes, truth=arranged.labels[: arranged.n_train],
        answers=left_out_probabilities(scene), seed=scene.seed,
    )  # fmt: skip
    shift, odd = _drift(scene, examples), _off_topic(scene, examples)
    labels = CHECKS[record.task].labels(out_of_fold, _excuse(scene, shift, is_signal))
    found = [
        label_finding(labels.issues), off_topic_finding(odd),
        *_of_inputs(scene, out_of_fold, examples), shift,
    ]  # fmt: skip
    return DataChecks(
        ceiling=labels.ceiling,
        findings=tuple(finding for finding in found if finding is not None),
        label_issues=labels.issues, off_topic=odd,
    )  # fmt: skip


def with_labels_of(
    scene: Scene, inspection: Inspection, answers: Array, is_signal: bool
) -> Inspection:
    """The same inspection with label issues by the out-of-fold answers of what ships.

    Where those are of few training rows (a hold-out of the user's own), it stays as it is. Shapes:
    answers (n, K) for the learning rows, NaN for rows that no fold held out.
    """
    arranged, record = scene.arranged, scene.collection.record
    own = answers[: arranged.n_train]
    if np.isfinite(own).all(axis=1).mean() < MOSTLY:
        return inspection
    out_of_fold = OutOfFold(
        arranged=arranged, names=record.classes, truth=arranged.labels[: arranged.n_train],
        answers=own, seed=scene.seed,
    )  # fmt: skip
    shift = next((one for one in inspection.findings if one.kind == "drift"), None)
    labels = CHECKS[record.task].labels(out_of_fold, _excuse(scene, shift, is_signal))
    finding = label_finding(labels.issues)
    others = tuple(one for one in inspection.findings if one.kind != "label-issue")
    evidence = tuple(
        labels.ceiling if one.name == labels.ceiling.name else one for one in inspection.evidence
    )
    return replace(
        inspection, evidence=evidence, label_issues=labels.issues,
        findings=others if finding is None else (finding, *others),
    )  # fmt: skip


def _excuse(scene: Scene, shift: Finding | None, is_signal: bool) -> Why | None:
    """Why label issues may not be counted, whatever the labels look like."""
    if scene.collection.record.kind == "table":
        return "outcome"
    if not is_signal:
        return "no-signal"
    return "distribution-shift" if shift is not None else None


def _off_topic(scene: Scene, examples: Sequence[Example]) -> OffTopic | None:
    """Images alone: how often other kinds raise a false alarm was not measured."""
    if scene.collection.record.kind != "image":
        return None
    blocks = scene.arranged.blocks()[: len(examples)]
    found = find_off_topic(_Last(scene.look, examples), blocks)
    ids, labels = [e.id for e in examples], [e.label for e in examples]
    return off_topic(found, blocks, ids, labels, scene.arranged.nouns)


def _of_inputs(
    scene: Scene, out_of_fold: OutOfFold, examples: Sequence[Example]
) -> list[Finding | None]:
    """What pictures give away, and sounds: their borders, sizes, files; of a table a column."""
    kind = scene.collection.record.kind
    if kind == "table":
        return [_telling(scene, out_of_fold, examples)]
    if kind not in ("image", "audio"):
        return []
    album = Album(scene.look, examples)
    found = CHECKS[scene.collection.record.task].files(out_of_fold, album.files, kind)
    return [_shortcut(album, scene, out_of_fold), *found]


def _telling(scene: Scene, out_of_fold: OutOfFold, examples: Sequence[Example]) -> Finding | None:
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
    return CHECKS[scene.collection.record.task].columns(out_of_fold, columns, held)


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


def _shortcut(album: Album, scene: Scene, out_of_fold: OutOfFold) -> Finding | None:
    """Nothing is said of small pictures, nor of sounds: their border is part of the subject."""
    record = scene.collection.record
    if record.kind == "audio" or np.median(album.files.short_side()) < rules.LEAST_SIDE:
        return None
    rows = draw_rows(scene.arranged, rules.BORDER_ROWS, scene.seed)
    return CHECKS[record.task].border(out_of_fold, rows, album.of(rows).border)


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


def write_lists(folder: Path, issues: LabelIssues, odd: OffTopic | None) -> None:
    """Write label_issues.csv, and off_topic.csv where it was looked for, the worst first.

    `--relabel` takes either back, corrected or not: the label column holds what the data says
    now, so that an untouched row changes nothing.
    """
    rows: list[tuple[object, ...]] = [
        (s.id, s.label, s.suggested, s.probability, s.score, "yes" if s.is_issue else "no")
        for s in issues.ranked
    ]
    header: tuple[str, ...] = COLUMNS
    if any(s.concerns for s in issues.ranked):
        named = (SEPARATOR.join(s.concerns or ()) for s in issues.ranked)
        header, rows = (*COLUMNS, CONCERNS), [(*r, n) for r, n in zip(rows, named, strict=True)]
    write_csv(folder / "label_issues.csv", header, rows)
    if odd is not None:
        lines = ((o.id, o.label, o.score, "yes" if o.is_off_topic else "no") for o in odd.ranked)
        write_csv(folder / "off_topic.csv", ODD_COLUMNS, lines)
