"""What the training rows say of themselves: label issues, off-topic examples, shortcuts, drift."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from warmstart.data.near_duplicates import NearDuplicate
from warmstart.data.splits import folds
from warmstart.data.thumbnails import FileFigures
from warmstart.evidence.distribution_shift import drift
from warmstart.evidence.label_issues import (
    judge_labels,
    judge_numbers,
    judge_sets,
    label_finding,
    label_noise_ceiling,
    of_classes,
    of_numbers,
    of_sets,
)
from warmstart.evidence.off_topic import find_off_topic, off_topic, off_topic_finding
from warmstart.evidence.probe_hits import best_probabilities
from warmstart.evidence.spurious import (
    FOLDS,
    cues,
    cues_of_numbers,
    cues_of_sets,
    edges_of_sets,
    shortcut,
    telling,
    telling_of_numbers,
    telling_of_sets,
)
from warmstart.features.extraction import ExtractedFeatures, StoredThumbnails, load_same
from warmstart.modalities.preprocessing import encode
from warmstart.planning import rules
from warmstart.records.data import SEPARATOR, Example, Finding, LabelIssues, OffTopic, Task, Why
from warmstart.records.inputs import Kind, TableInputs
from warmstart.records.run_folder import write_csv
from warmstart.records.summary import Evidence, Inspection
from warmstart.solve.kernels import Features
from warmstart.solve.ridge import Array, Rows
from warmstart.tasks.regress import Regression
from warmstart.tasks.task import Truth
from warmstart.training.dataset import (
    LabelledRows,
    TrainingDataset,
    draw_rows,
    groups_among,
    kernels_of,
    labels_among,
)

# ---- What is checked in the training rows, task by task: labels, and what gives these away.


LISTED = 0.1  # share of the labels that are listed, whatever is counted
LEAST_LISTED = 20
NO_LABEL_NOISE_CEILING = Evidence(
    name="label_noise_ceiling",
    value=None,
    low=None,
    high=None,
    n=0,
    meaning="Not measured: how right any model can be is told where each example has one class.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfFold:
    """The training rows, and what a model says of each without having seen it.

    Shapes: truth (n,) or (n, K), answers (n, K), NaN in rows that no fold held out.
    """

    labelled: LabelledRows
    names: tuple[str, ...]
    truth: Truth
    answers: Array
    seed: int

    @property
    def ids(self) -> list[str]:
        """Of the rows."""
        return [example.id for example in self.labelled.learn[: len(self.truth)]]

    @property
    def groups(self) -> NDArray[np.int64]:
        """Which rows are near copies or of one group. Shapes: (n,)."""
        return self.labelled.groups()[: len(self.truth)]

    @property
    def most(self) -> int:
        """Lines of label_issues.csv, where there are no more issues."""
        judged = int(np.isfinite(self.answers[:, 0]).sum())
        return max(LEAST_LISTED, round(LISTED * judged))


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedLabels:
    """What is said of the labels, and what that means for any model."""

    issues: LabelIssues
    label_noise_ceiling: Evidence = NO_LABEL_NOISE_CEILING


class TaskChecks(Protocol):
    """How the rows of one task are checked."""

    def labels(self, out_of_fold: OutOfFold, excuse: Why | None) -> CheckedLabels:
        """Those that the answers contradict; `excuse` is why they may not be counted."""
        ...

    def files(self, out_of_fold: OutOfFold, files: FileFigures, kind: Kind) -> tuple[Finding, ...]:
        """Figures of files that give labels away."""
        ...

    def border(
        self, out_of_fold: OutOfFold, rows: Rows, border: NDArray[np.uint8]
    ) -> Finding | None:
        """Edges of some rows that do. Shapes: border (m, 2, 4, 16, 4) of `Thumbnails`."""
        ...

    def columns(
        self, out_of_fold: OutOfFold, columns: Mapping[str, Array], parts: Sequence[Rows]
    ) -> Finding | None:
        """Columns of a table that do. Shapes: (n, d) each."""
        ...


class ClassChecks:
    """Of one class an example."""

    def labels(self, out_of_fold: OutOfFold, excuse: Why | None) -> CheckedLabels:
        """And the share of labels that no model can agree with."""
        ids, nouns = out_of_fold.ids, out_of_fold.labelled.nouns
        found = judge_labels(out_of_fold.answers, out_of_fold.truth, out_of_fold.groups, excuse)
        return CheckedLabels(
            issues=of_classes(found, ids, out_of_fold.names, out_of_fold.most, nouns),
            label_noise_ceiling=label_noise_ceiling(
                found, _pairs(out_of_fold.labelled, ids), out_of_fold.truth, nouns
            ),
        )

    def files(self, out_of_fold: OutOfFold, files: FileFigures, kind: Kind) -> tuple[Finding, ...]:
        """By class."""
        rng = np.random.default_rng([out_of_fold.seed, 7])
        return cues(files, out_of_fold.truth, out_of_fold.names, rng, kind)

    def border(
        self, out_of_fold: OutOfFold, rows: Rows, border: NDArray[np.uint8]
    ) -> Finding | None:
        """Edges of one look, and what borders alone tell beside the network."""
        is_judged = np.isfinite(out_of_fold.answers[:, 0])
        said, truth = out_of_fold.answers[is_judged], out_of_fold.truth[is_judged]
        right = float((said.argmax(axis=1) == truth).mean())
        labelled = out_of_fold.labelled
        names = [out_of_fold.names[number] for number in np.unique(labelled.labels[rows])]
        labels, group_rows = labels_among(rows, labelled), groups_among(rows, labelled)
        return shortcut(border, labels, names, group_rows, right)

    def columns(
        self, out_of_fold: OutOfFold, columns: Mapping[str, Array], parts: Sequence[Rows]
    ) -> Finding | None:
        """By a small tree a column."""
        return telling(columns, out_of_fold.truth, parts, out_of_fold.seed)


class SetChecks:
    """Of several labels an example: whether it has each of them is judged by itself."""

    def labels(self, out_of_fold: OutOfFold, excuse: Why | None) -> CheckedLabels:
        """Which label of which example."""
        found = judge_sets(out_of_fold.answers, out_of_fold.truth, out_of_fold.groups, excuse)
        names, nouns = out_of_fold.names, out_of_fold.labelled.nouns
        issues = of_sets(found, out_of_fold.ids, out_of_fold.truth, names, out_of_fold.most, nouns)
        return CheckedLabels(issues=issues)

    def files(self, out_of_fold: OutOfFold, files: FileFigures, kind: Kind) -> tuple[Finding, ...]:
        """By label."""
        rng = np.random.default_rng([out_of_fold.seed, 7])
        return cues_of_sets(files, out_of_fold.truth, out_of_fold.names, rng, kind)

    def border(
        self, out_of_fold: OutOfFold, rows: Rows, border: NDArray[np.uint8]
    ) -> Finding | None:
        """Edges of one look."""
        return edges_of_sets(border, out_of_fold.truth[rows], out_of_fold.names)

    def columns(
        self, out_of_fold: OutOfFold, columns: Mapping[str, Array], parts: Sequence[Rows]
    ) -> Finding | None:
        """By a small tree a column and label."""
        return telling_of_sets(
            columns, out_of_fold.truth, out_of_fold.names, parts, out_of_fold.seed
        )


class NumberChecks:
    """Of a number an example."""

    def labels(self, out_of_fold: OutOfFold, excuse: Why | None) -> CheckedLabels:
        """Numbers further off than the model's own errors explain."""
        target, ids = out_of_fold.labelled.target, out_of_fold.ids
        said = out_of_fold.answers[:, 0]
        natural = target.natural(said) if isinstance(target, Regression) else said
        labels = [example.label for example in out_of_fold.labelled.learn[: len(ids)]]
        found = judge_numbers(said, out_of_fold.truth, out_of_fold.groups, excuse)
        nouns = out_of_fold.labelled.nouns
        return CheckedLabels(
            issues=of_numbers(found, ids, labels, natural, out_of_fold.most, nouns)
        )

    def files(self, out_of_fold: OutOfFold, files: FileFigures, kind: Kind) -> tuple[Finding, ...]:
        """By the variance that they explain."""
        rng = np.random.default_rng([out_of_fold.seed, 7])
        return cues_of_numbers(files, out_of_fold.truth, rng, kind)

    def border(
        self, out_of_fold: OutOfFold, rows: Rows, border: NDArray[np.uint8]
    ) -> Finding | None:
        """Not looked at: an edge of one look goes with a class or a label, not with a number."""
        return None

    def columns(
        self, out_of_fold: OutOfFold, columns: Mapping[str, Array], parts: Sequence[Rows]
    ) -> Finding | None:
        """By a tree a column."""
        return telling_of_numbers(columns, out_of_fold.truth, parts, out_of_fold.seed)


CHECKS: dict[Task, TaskChecks] = {
    "classify": ClassChecks(),
    "multilabel": SetChecks(),
    "regress": NumberChecks(),
}


def _pairs(labelled: LabelledRows, ids: Sequence[str]) -> list[NearDuplicate]:
    """Copies and near copies as rows of the training part."""
    place = {id: row for row, id in enumerate(ids)}
    inside = [(a, b) for a, b in labelled.near_duplicates if a in place and b in place]
    first: dict[str, str] = {}
    for example in labelled.learn[: len(ids)]:  # and the same bytes under two labels
        other = first.setdefault(example.sha256, example.id)
        if other != example.id:
            inside.append((other, example.id))
    return [NearDuplicate(place[a], place[b], 1.0, False) for a, b in inside]


MOSTLY = 0.9  # of the training rows that have to be answered out of fold
COLUMNS = ("path", "label", "suggested", "probability", "score", "issue")
CONCERNS = "concerns"  # of several labels: those that are in question
ODD_COLUMNS = ("path", "label", "score", "off_topic")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataChecks:
    """What was found; `off_topic` is None where it was not looked for."""

    label_noise_ceiling: Evidence
    findings: tuple[Finding, ...]
    label_issues: LabelIssues
    off_topic: OffTopic | None


def check_data(training_data: TrainingDataset, is_signal: bool) -> DataChecks:
    """Look for what is wrong with the training part, and whether the test part is like it.

    `is_signal`: whether the labels can be learnt at all. No label of the hold-out or the test
    part is looked at.
    """
    labelled, record = training_data.labelled, training_data.collection.record
    examples = labelled.learn[: labelled.n_train]
    out_of_fold = OutOfFold(
        labelled=labelled,
        names=record.classes,
        truth=labelled.labels[: labelled.n_train],
        answers=left_out_probabilities(training_data),
        seed=training_data.seed,
    )
    shift, odd = _drift(training_data, examples), _off_topic(training_data, examples)
    labels = CHECKS[record.task].labels(out_of_fold, _excuse(training_data, shift, is_signal))
    found = [
        label_finding(labels.issues),
        off_topic_finding(odd),
        *_of_inputs(training_data, out_of_fold, examples),
        shift,
    ]
    return DataChecks(
        label_noise_ceiling=labels.label_noise_ceiling,
        findings=tuple(finding for finding in found if finding is not None),
        label_issues=labels.issues,
        off_topic=odd,
    )


def with_labels_of(
    training_data: TrainingDataset, inspection: Inspection, answers: Array, is_signal: bool
) -> Inspection:
    """The same inspection with label issues by the out-of-fold answers of what ships.

    Where those are of few training rows (a hold-out of the user's own), it stays as it is. Shapes:
    answers (n, K) for the learning rows, NaN for rows that no fold held out.
    """
    labelled, record = training_data.labelled, training_data.collection.record
    own = answers[: labelled.n_train]
    if np.isfinite(own).all(axis=1).mean() < MOSTLY:
        return inspection
    out_of_fold = OutOfFold(
        labelled=labelled,
        names=record.classes,
        truth=labelled.labels[: labelled.n_train],
        answers=own,
        seed=training_data.seed,
    )
    shift = next((one for one in inspection.findings if one.kind == "distribution-shift"), None)
    labels = CHECKS[record.task].labels(out_of_fold, _excuse(training_data, shift, is_signal))
    finding = label_finding(labels.issues)
    others = tuple(one for one in inspection.findings if one.kind != "label-issue")
    evidence = tuple(
        labels.label_noise_ceiling if one.name == labels.label_noise_ceiling.name else one
        for one in inspection.evidence
    )
    return replace(
        inspection,
        evidence=evidence,
        label_issues=labels.issues,
        findings=others if finding is None else (finding, *others),
    )


def _excuse(training_data: TrainingDataset, shift: Finding | None, is_signal: bool) -> Why | None:
    """Why label issues may not be counted, whatever the labels look like."""
    if training_data.collection.record.kind == "table":
        return "outcome"
    if not is_signal:
        return "no-signal"
    return "distribution-shift" if shift is not None else None


def _off_topic(training_data: TrainingDataset, examples: Sequence[Example]) -> OffTopic | None:
    """Images alone: how often other kinds raise a false alarm was not measured."""
    if training_data.collection.record.kind != "image":
        return None
    groups = training_data.labelled.groups()[: len(examples)]
    found = find_off_topic(_Last(training_data.extracted, examples), groups)
    ids, labels = [e.id for e in examples], [e.label for e in examples]
    return off_topic(found, groups, ids, labels, training_data.labelled.nouns)


def _of_inputs(
    training_data: TrainingDataset, out_of_fold: OutOfFold, examples: Sequence[Example]
) -> list[Finding | None]:
    """What pictures give away, and sounds: their borders, sizes, files; of a table a column."""
    kind = training_data.collection.record.kind
    if kind == "table":
        return [_telling(training_data, out_of_fold, examples)]
    if kind not in ("image", "audio"):
        return []
    album = StoredThumbnails(training_data.extracted, examples)
    found = CHECKS[training_data.collection.record.task].files(out_of_fold, album.files, kind)
    return [_shortcut(album, training_data, out_of_fold), *found]


def _telling(
    training_data: TrainingDataset, out_of_fold: OutOfFold, examples: Sequence[Example]
) -> Finding | None:
    """One column that gives the label away."""
    inputs = training_data.prep
    if not isinstance(inputs, TableInputs):
        return None
    rows = np.stack(
        [encode(load_same(training_data.collection, e), e.id, inputs) for e in examples]
    )
    ends = np.cumsum([len(column.slots) for column in inputs.columns])
    parted = zip(inputs.columns, np.split(rows, ends[:-1], axis=1), strict=True)
    part = folds(
        training_data.labelled.folding[: len(examples)],
        training_data.labelled.groups()[: len(examples)],
        FOLDS,
        np.random.default_rng([training_data.seed, 17]),
    )
    held = [np.flatnonzero(part == number) for number in range(int(part.max()) + 1)]
    columns = {column.name: values for column, values in parted}
    return CHECKS[training_data.collection.record.task].columns(out_of_fold, columns, held)


def left_out_probabilities(training_data: TrainingDataset) -> Array:
    """Calibrated answers to every training row without its block. Shapes: (n, K).

    Where rows are many, parts of them are judged apart, each by the rest of its part.
    """
    labelled, n = training_data.labelled, training_data.labelled.n_train
    parts = -(-n // rules.DUAL_LIMIT)
    rng = np.random.default_rng([training_data.seed, 8])
    groups = labelled.groups()[:n]
    part = folds(labelled.folding[:n], groups, parts, rng) if parts > 1 else np.zeros(n, int)
    found = np.full((n, labelled.n_classes), np.nan)  # a part of one block is judged by nothing
    for number in range(int(part.max()) + 1):
        rows = np.flatnonzero(part == number)
        group_rows = groups_among(rows, labelled)
        if len(group_rows) < 2:
            continue
        labels, k = labelled.labels[rows], labelled.n_classes
        found[rows] = best_probabilities(
            _kernels(training_data, rows), labels, group_rows, k, labelled.target
        )
    return found


def _kernels(training_data: TrainingDataset, rows: Rows) -> Iterable[Array]:
    """Of the pair."""
    read = training_data.extracted.reader(training_data.examples(rows))
    return kernels_of(training_data.pair(), read, len(rows)).values()


def _shortcut(
    album: StoredThumbnails, training_data: TrainingDataset, out_of_fold: OutOfFold
) -> Finding | None:
    """Nothing is said of small pictures, nor of sounds: their border is part of the subject."""
    record = training_data.collection.record
    if record.kind == "audio" or np.median(album.files.short_side()) < rules.LEAST_SIDE:
        return None
    rows = draw_rows(training_data.labelled, rules.BORDER_ROWS, training_data.seed)
    return CHECKS[record.task].border(out_of_fold, rows, album.of(rows).border)


def _drift(training_data: TrainingDataset, examples: Sequence[Example]) -> Finding | None:
    extracted, test = training_data.extracted, training_data.labelled.test
    if not test:
        return None
    rng = np.random.default_rng([training_data.seed, 9])
    return drift(
        _Last(extracted, examples), _Last(extracted, test), rng, training_data.labelled.nouns
    )


@dataclass(frozen=True, slots=True)
class _Last:
    """The last tap of some examples, of which a few rows are asked for."""

    extracted: ExtractedFeatures
    examples: Sequence[Example]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, rows: Rows) -> Features:
        chosen = [self.examples[row] for row in rows]
        return self.extracted.reader(chosen)(self.extracted.feature_layers[-1])


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
