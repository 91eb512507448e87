"""Checks of the training set: label issues, off-topic examples, spurious correlations, shift."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from warmstart.data.splits import folds
from warmstart.data.thumbnails import FileFigures
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
from warmstart.evidence.probe import PENALTIES, best_probabilities, not_measured
from warmstart.evidence.spurious import (
    FOLDS,
    border_finding,
    border_finding_multilabel,
    leaking_columns,
    leaking_columns_multilabel,
    leaking_columns_regression,
    metadata_leaks,
    metadata_leaks_multilabel,
    metadata_leaks_regression,
)
from warmstart.features.extraction import ExtractedFeatures, StoredThumbnails, load_unchanged
from warmstart.modalities.image import IMAGE
from warmstart.modalities.registry import MODALITIES
from warmstart.nouns import Nouns
from warmstart.planning import rules
from warmstart.records.data import SEPARATOR, Example, LabelIssues, OffTopic, OffTopicExample, Why
from warmstart.records.findings import Finding
from warmstart.records.inputs import TableInputs
from warmstart.records.run_folder import write_csv
from warmstart.records.summary import Evidence, Inspection
from warmstart.solve import ridge
from warmstart.solve.calibration import Labels
from warmstart.solve.kernels import Features, mixed_kernels
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.permutation import PermutationTest, permutation_test
from warmstart.tasks.task import Truth
from warmstart.training.dataset import (
    TrainingDataset,
    draw_rows,
    groups_among,
    kernels_of,
    labels_among,
)

LISTED = 0.1  # share of the labels that are listed, whatever is counted
LEAST_LISTED = 20
NO_LABEL_NOISE_CEILING = not_measured(
    "label_noise_ceiling", 0, "Not measured: this needs one class per example."
)


class TaskChecks(ABC):
    """The training rows with a model's out-of-fold answers, checked as their task needs.

    Shapes: truth (n,) or (n, K), answers (n, K), NaN in rows that no fold held out; groups (n,),
    near-duplicates share one. `n_listed` rows are in label_issues.csv where there are no more
    issues.
    """

    def __init__(self, training_data: TrainingDataset, answers: Array) -> None:
        self.labelled = training_data.labelled
        self.names = training_data.collection.record.classes
        self.seed = training_data.seed
        n = self.labelled.n_train
        self.truth: Truth = self.labelled.labels[:n]
        self.answers = answers
        self.ids = [example.id for example in self.labelled.learn[:n]]
        self.groups = self.labelled.groups()[:n]
        n_judged = int(np.isfinite(answers[:, 0]).sum())
        self.n_listed = max(LEAST_LISTED, round(LISTED * n_judged))

    @abstractmethod
    def label_issues(self, excuse: Why | None) -> tuple[LabelIssues, Evidence]:
        """`excuse` is why label issues may not be counted."""

    @abstractmethod
    def files(self, files: FileFigures, is_sound: bool) -> tuple[Finding, ...]: ...

    @abstractmethod
    def border(self, rows: Rows, border: NDArray[np.uint8]) -> Finding | None:
        """`border` are those of some rows, as in `Thumbnails`."""

    @abstractmethod
    def columns(self, columns: Mapping[str, Array], folds: Sequence[Rows]) -> Finding | None:
        """Shapes: columns (n, d) of a table."""

    def rng(self) -> np.random.Generator:
        """The generator of the file checks."""
        return np.random.default_rng([self.seed, 7])


class ClassChecks(TaskChecks):
    """One class per example."""

    def label_issues(self, excuse: Why | None) -> tuple[LabelIssues, Evidence]:
        ids, labelled = self.ids, self.labelled
        judged = judge_labels(self.answers, self.truth, self.groups, excuse)
        index = {id: row for row, id in enumerate(ids)}
        pairs = [(a, b) for a, b in labelled.near_duplicates if a in index and b in index]
        first: dict[str, str] = {}
        for example in labelled.learn[: len(ids)]:  # and the same bytes under two labels
            other = first.setdefault(example.sha256, example.id)
            if other != example.id:
                pairs.append((other, example.id))
        duplicates = [(index[a], index[b]) for a, b in pairs]
        ceiling = label_noise_ceiling(judged, duplicates, self.truth, labelled.nouns)
        return of_classes(judged, ids, self.names, self.n_listed, labelled.nouns), ceiling

    def files(self, files: FileFigures, is_sound: bool) -> tuple[Finding, ...]:
        return metadata_leaks(files, self.truth, self.names, self.rng(), is_sound)

    def border(self, rows: Rows, border: NDArray[np.uint8]) -> Finding | None:
        is_judged = np.isfinite(self.answers[:, 0])
        right = self.answers[is_judged].argmax(axis=1) == self.truth[is_judged]
        names = [self.names[number] for number in np.unique(self.labelled.labels[rows])]
        labels, group_rows = labels_among(rows, self.labelled), groups_among(rows, self.labelled)
        return border_finding(border, labels, names, group_rows, float(right.mean()))

    def columns(self, columns: Mapping[str, Array], folds: Sequence[Rows]) -> Finding | None:
        return leaking_columns(columns, self.truth, folds, self.seed)


class SetChecks(TaskChecks):
    """Several labels per example, each judged by itself."""

    def label_issues(self, excuse: Why | None) -> tuple[LabelIssues, Evidence]:
        judged = judge_sets(self.answers, self.truth, self.groups, excuse)
        names, nouns = self.names, self.labelled.nouns
        issues = of_sets(judged, self.ids, self.truth, names, self.n_listed, nouns)
        return issues, NO_LABEL_NOISE_CEILING

    def files(self, files: FileFigures, is_sound: bool) -> tuple[Finding, ...]:
        return metadata_leaks_multilabel(files, self.truth, self.names, self.rng(), is_sound)

    def border(self, rows: Rows, border: NDArray[np.uint8]) -> Finding | None:
        return border_finding_multilabel(border, self.truth[rows], self.names)

    def columns(self, columns: Mapping[str, Array], folds: Sequence[Rows]) -> Finding | None:
        return leaking_columns_multilabel(columns, self.truth, self.names, folds, self.seed)


class NumberChecks(TaskChecks):
    """One number per example."""

    def label_issues(self, excuse: Why | None) -> tuple[LabelIssues, Evidence]:
        labelled, answers = self.labelled, self.answers[:, 0]
        natural = labelled.target.natural(answers)
        labels = [example.label for example in labelled.learn[: len(self.ids)]]
        judged = judge_numbers(answers, self.truth, self.groups, excuse)
        issues = of_numbers(judged, self.ids, labels, natural, self.n_listed, labelled.nouns)
        return issues, NO_LABEL_NOISE_CEILING

    def files(self, files: FileFigures, is_sound: bool) -> tuple[Finding, ...]:
        return metadata_leaks_regression(files, self.truth, self.rng(), is_sound)

    def border(self, rows: Rows, border: NDArray[np.uint8]) -> Finding | None:
        return None  # a uniform edge correlates with a class or a label, not with a number

    def columns(self, columns: Mapping[str, Array], folds: Sequence[Rows]) -> Finding | None:
        return leaking_columns_regression(columns, self.truth, folds, self.seed)


def checks_of(training_data: TrainingDataset, answers: Array) -> TaskChecks:
    """The checks of these rows' task, by what a row has. Shapes: answers (n, K)."""
    target = training_data.labelled.target
    if target.has_numbers:
        return NumberChecks(training_data, answers)
    return (ClassChecks if target.has_classes else SetChecks)(training_data, answers)


MOSTLY = 0.9  # share of the training rows that need an out-of-fold answer
COLUMNS = ("path", "label", "suggested", "probability", "score", "issue")
CONCERNS = "concerns"  # of several labels: those in question
OFF_TOPIC_COLUMNS = ("path", "label", "score", "off_topic")


def check_data(training_data: TrainingDataset, is_signal: bool) -> Inspection:
    """Check the training set, and whether the test set has the same distribution.

    `is_signal`: whether the labels can be learnt at all. No label of the hold-out or test set is
    used. The evidence is the label-noise ceiling.
    """
    labelled, record = training_data.labelled, training_data.collection.record
    examples, extracted = labelled.learn[: labelled.n_train], training_data.extracted
    checks = checks_of(training_data, left_out_probabilities(training_data))
    features = _LastFeatures(extracted, examples)
    shift = None
    if labelled.test:
        rng = np.random.default_rng([training_data.seed, 9])
        test_features = _LastFeatures(extracted, labelled.test)
        shift = detect_shift(features, test_features, rng, labelled.nouns)
    outliers = None
    if MODALITIES[record.kind].has_off_topic:  # the false alarms of other kinds were not measured
        groups = labelled.groups()[: len(examples)]
        ids, labels = [e.id for e in examples], [e.label for e in examples]
        scores = find_off_topic(features, groups)
        outliers = off_topic(scores, groups, ids, labels, labelled.nouns)
    excuse = _excuse(training_data, shift, is_signal)
    issues, ceiling = checks.label_issues(excuse)
    findings = [label_finding(issues), off_topic_finding(outliers)]
    findings += [*_check_inputs(training_data, checks, examples), shift]
    return Inspection(
        evidence=(ceiling,),
        findings=tuple(finding for finding in findings if finding is not None),
        label_issues=issues,
        off_topic=outliers,
    )


def with_labels_of(
    training_data: TrainingDataset, inspection: Inspection, answers: Array, is_signal: bool
) -> Inspection:
    """Replace the label issues of `inspection` by those of the shipped model's answers.

    Where the answers cover too few training rows (a hold-out of the user), nothing changes.
    Shapes: answers (n, K) for the learning rows, NaN for rows that no fold held out.
    """
    answers = answers[: training_data.labelled.n_train]
    if np.isfinite(answers).all(axis=1).mean() < MOSTLY:
        return inspection
    shift = next((one for one in inspection.findings if one.kind == "distribution-shift"), None)
    excuse = _excuse(training_data, shift, is_signal)
    issues, ceiling = checks_of(training_data, answers).label_issues(excuse)
    finding = label_finding(issues)
    others = tuple(one for one in inspection.findings if one.kind != "label-issue")
    return replace(
        inspection,
        evidence=tuple(ceiling if one.name == ceiling.name else one for one in inspection.evidence),
        label_issues=issues,
        findings=others if finding is None else (finding, *others),
    )


def _excuse(training_data: TrainingDataset, shift: Finding | None, is_signal: bool) -> Why | None:
    """Why label issues may not be counted, whatever the labels look like."""
    if MODALITIES[training_data.collection.record.kind].form == "rows":
        return "outcome"
    if not is_signal:
        return "no-signal"
    return "distribution-shift" if shift is not None else None


def _check_inputs(
    training_data: TrainingDataset, checks: TaskChecks, examples: Sequence[Example]
) -> list[Finding | None]:
    """Spurious correlations of borders and files of images and sounds, or of table columns."""
    record, inputs = training_data.collection.record, training_data.prep
    modality = MODALITIES[record.kind]
    if modality.form == "rows":
        load = partial(load_unchanged, training_data.collection)
        table = [modality.encode(load(e), e.id, inputs) for e in examples]
        columns = cast(TableInputs, inputs).columns
        ends = np.cumsum([len(column.slots) for column in columns])
        values = np.split(np.stack(table), ends[:-1], axis=1)
        rng = np.random.default_rng([training_data.seed, 17])
        strata = training_data.labelled.fold_strata[: len(examples)]
        fold = folds(strata, checks.groups, FOLDS, rng)
        fold_rows = [np.flatnonzero(fold == number) for number in range(int(fold.max()) + 1)]
        names = [column.name for column in columns]
        return [checks.columns(dict(zip(names, values, strict=True)), fold_rows)]
    if not modality.has_thumbnails:
        return []
    thumbnails = StoredThumbnails(training_data.extracted, examples)
    leaks = checks.files(thumbnails.files, modality.is_sound)
    # The border of a small picture is part of its subject.
    if modality.is_sound or np.median(thumbnails.files.short_side()) < rules.LEAST_SIDE:
        return [None, *leaks]
    some = draw_rows(training_data.labelled, rules.BORDER_ROWS, training_data.seed)
    return [checks.border(some, thumbnails.of(some).border), *leaks]


def left_out_probabilities(training_data: TrainingDataset) -> Array:
    """Calibrated answers to every training row without its group. Shapes: (n, K).

    Many rows are judged in chunks, each row by the rest of its chunk.
    """
    labelled = training_data.labelled
    n, k = labelled.n_train, labelled.n_classes
    n_chunks = -(-n // rules.DUAL_LIMIT)
    rng = np.random.default_rng([training_data.seed, 8])
    groups = labelled.groups()[:n]
    chunk = np.zeros(n, int)
    if n_chunks > 1:
        chunk = folds(labelled.fold_strata[:n], groups, n_chunks, rng)
    probabilities = np.full((n, k), np.nan)  # stays so in a chunk of one group
    for number in range(int(chunk.max()) + 1):
        rows = np.flatnonzero(chunk == number)
        group_rows = groups_among(rows, labelled)
        if len(group_rows) < 2:
            continue
        read = training_data.extracted.reader(training_data.examples(rows))
        kernels = kernels_of(training_data.pair(), read, len(rows)).values()
        labels, target = labelled.labels[rows], labelled.target
        probabilities[rows] = best_probabilities(kernels, labels, group_rows, k, target)
    return probabilities


@dataclass(frozen=True, slots=True)
class _LastFeatures:
    """The last feature layer of some examples, loaded when rows are indexed."""

    extracted: ExtractedFeatures
    examples: Sequence[Example]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, rows: Rows) -> Features:
        chosen = [self.examples[row] for row in rows]
        return self.extracted.reader(chosen)(self.extracted.feature_layers[-1])


def write_lists(folder: Path, issues: LabelIssues, outliers: OffTopic | None) -> None:
    """Write label_issues.csv, and off_topic.csv if there is such a record, the worst first.

    `--relabel` reads either file, edited or not: the label column holds the present label, so an
    unedited row changes nothing.
    """
    has_concerns = any(issue.concerns for issue in issues.ranked)
    rows = []
    for s in issues.ranked:
        is_issue = "yes" if s.is_issue else "no"
        concerns = (SEPARATOR.join(s.concerns or ()),) if has_concerns else ()
        rows.append((s.id, s.label, s.suggested, s.probability, s.score, is_issue, *concerns))
    header = (*COLUMNS, CONCERNS) if has_concerns else COLUMNS
    write_csv(folder / "label_issues.csv", header, rows)
    if outliers is not None:
        lines = (
            (o.id, o.label, o.score, "yes" if o.is_off_topic else "no") for o in outliers.ranked
        )
        write_csv(folder / "off_topic.csv", OFF_TOPIC_COLUMNS, lines)


class FeatureRows(Protocol):
    """Features of n rows, loaded when indexed by rows (m,); an array (n, d) is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Rows, /) -> Features: ...


# ---- Off-topic examples: unlike those of every class, as a lamp among flowers.
#
# The score is the mean distance to the five nearest examples of other groups in the last features,
# square roots normalised to length 1 (Sun et al. 2022, "Out-of-Distribution Detection with Deep
# Nearest Neighbors"). The logs of such distances are about normal in clean sets; median and 90 %
# quantile, which a tenth of outliers does not move, give their spread. An example is off-topic
# beyond the normal quantile that a clean set of this size passes with a chance of 5 % (Bonferroni).

NEAREST = 5
LEAST = 50  # groups that the threshold needs
MOST = 4000  # examples, sampled, that others are compared with
ALARMS = 0.05  # chance that a clean set holds an example called off-topic
MOST_OFF_TOPIC = 20  # of the farthest, in the record
_CHUNK = 1024  # examples compared at a time
_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class OffTopicScore:
    """Outlier scores, in standard deviations of the log distance, and their threshold.

    Shapes: scores, is_off (n,). With too few groups `threshold` is None and no row is off.
    """

    scores: Array
    threshold: float | None
    is_off: NDArray[np.bool_]


def find_off_topic(features: FeatureRows, groups: Labels) -> OffTopicScore:
    """Score every row by its distance to the nearest of other groups. Shapes: (n, d), (n,).

    >>> rng = np.random.default_rng(0)
    >>> x = np.abs(rng.normal(size=(200, 60))) + 4
    >>> x[7] = np.abs(rng.normal(size=60)) * 9
    >>> np.flatnonzero(find_off_topic(x.astype(np.float32), np.arange(200)).is_off).tolist()
    [7]
    """
    n, none = len(features), np.zeros(len(features), dtype=bool)
    first = np.unique(groups, return_index=True)[1]
    if len(first) <= NEAREST:
        return OffTopicScore(np.zeros(n), None, none)
    logs = np.log(np.maximum(_distances(features, groups), _CLOSE))
    usual = logs[first]  # a group counts once
    middle, high = np.quantile(usual, [0.5, 0.9])
    width = (high - middle) / norm.isf(0.1)
    scores = (logs - middle) / max(float(width), _CLOSE)
    if len(first) < LEAST or width <= _CLOSE:
        return OffTopicScore(scores, None, none)
    threshold = float(norm.isf(ALARMS / len(first)))
    return OffTopicScore(scores, threshold, scores > threshold)


def _distances(features: FeatureRows, groups: Labels) -> Array:
    """Mean distance of each row to the nearest of other groups. Shapes: returns (n,)."""
    n = len(features)
    others = np.arange(n)
    if n > MOST:
        others = np.sort(np.random.default_rng(0).choice(n, MOST, replace=False))
    references = np.concatenate([chunk for _, chunk in _normalised(features, others)])
    distances = np.empty(n)
    for rows, points in _normalised(features, np.arange(n)):
        squares = 2 - 2 * (points @ references.T).astype(np.float64)
        squares[groups[rows][:, None] == groups[others]] = np.inf
        nearest = np.partition(squares, NEAREST - 1, axis=1)[:, :NEAREST]
        lengths = np.sqrt(np.maximum(nearest, 0.0))
        distances[rows] = np.where(np.isfinite(lengths), lengths, np.nan).mean(axis=1)
    # A row whose group holds nearly all others has no neighbours to compare with.
    return np.where(np.isfinite(distances), distances, np.nanmedian(distances))


def _normalised(features: FeatureRows, rows: Rows) -> Iterator[tuple[Rows, Features]]:
    """Yield chunks of rows with their signed square roots, of length 1."""
    for first in range(0, len(rows), _CHUNK):
        chunk = rows[first : first + _CHUNK]
        roots = features[chunk].astype(np.float32)
        roots = np.sign(roots) * np.sqrt(np.abs(roots))
        lengths = np.linalg.norm(roots, axis=1, keepdims=True)
        yield chunk, roots / np.maximum(lengths, np.float32(_CLOSE))


def off_topic(
    scores: OffTopicScore,
    groups: Labels,
    ids: Sequence[str],
    labels: Sequence[str],
    nouns: Nouns = IMAGE.nouns,
) -> OffTopic:
    """The record: all off-topic examples and the next highest scores. Shapes: groups (n,)."""
    order = np.argsort(-scores.scores, kind="stable")
    n_off = int(scores.is_off.sum())
    ranked = tuple(
        OffTopicExample(
            id=ids[row],
            label=labels[row],
            score=round(float(scores.scores[row]), 2),
            is_off_topic=bool(scores.is_off[row]),
        )
        for row in order[: max(n_off, MOST_OFF_TOPIC)]
    )
    if scores.threshold is None:
        sentence = f"Too few {nouns.many} to say which are off-topic."
        return OffTopic(count=None, threshold=None, sentence=sentence, ranked=ranked)
    count = len(np.unique(groups[scores.is_off]))
    sentence = f"No off-topic {nouns.many} found."
    if count:
        looks, them, they = (
            ("looks", "it", "it does") if count == 1 else ("look", "them", "they do")
        )
        copies = f" ({n_off:,} with near-duplicates and groups)" if n_off > count else ""
        sentence = (
            f"{nouns.count(count)} {looks} off-topic{copies}: unlike the {nouns.many} of every "
            f"class. Leave {them} out if {they} not belong."
        )
    threshold = round(scores.threshold, 2)
    return OffTopic(count=count, threshold=threshold, sentence=sentence, ranked=ranked)


def off_topic_finding(record: OffTopic | None) -> Finding | None:
    """Off-topic examples as a finding; None where there are none."""
    if record is None or not record.count:
        return None
    items = tuple(f"{example.id}: {example.label}" for example in record.off_topic)
    return Finding(kind="off-topic", sentence=record.sentence, items=items)


# ---- Do the training set and the test set come from one distribution?
#
# A classifier two-sample test: a classifier that separates the two sets by their features better
# than chance shows a distribution shift. Test labels are not used. Source: Lopez-Paz & Oquab 2017,
# "Revisiting Classifier Two-Sample Tests", with a closed-form classifier and permutations.

SHIFT_MOST = 500  # rows of each set that are compared
SHIFT_LEAST = 10  # rows of each set that the test needs
PERMUTATIONS = 999
LARGE = 0.75  # accuracy from which a shift matters
CERTAIN = 0.005  # p-value of the permutations; they stop here when none came near
CLEAR = 3.1  # and standard deviations above the null distribution, which is p = .001


def detect_shift(
    train: FeatureRows, test: FeatureRows, rng: np.random.Generator, nouns: Nouns = IMAGE.nouns
) -> Finding | None:
    """A finding where the two sets are easily separated, else None.

    Shapes: train (n, d), test (m, d), of one feature layer. Groups (several pictures of one object,
    all in one set) make the sets slightly easier to separate than their pictures are.
    """
    test_result = two_samples(train, test, rng)
    if test_result is None or test_result.p > CERTAIN or test_result.accuracy < LARGE:
        return None
    null = test_result.null_accuracies
    if test_result.accuracy < null.mean() + CLEAR * null.std():
        return None
    return Finding(
        kind="distribution-shift",
        sentence=(
            f"Distribution shift: a simple classifier tells test {nouns.many} from training "
            f"{nouns.many} {100 * test_result.accuracy:.0f} % of the time, where guessing is right "
            f"50 %. The test set then measures the model on {nouns.many} of another kind; for a "
            "fair figure, mix the two sets and split them again, and for the other kind add "
            f"training {nouns.many} of it."
        ),
    )


def two_samples(
    train: FeatureRows, test: FeatureRows, rng: np.random.Generator
) -> PermutationTest | None:
    """The two-sample test on equally many rows of each set; None if there are too few."""
    size = min(len(train), len(test), SHIFT_MOST)
    if size < SHIFT_LEAST:
        return None
    samples = [
        rows[np.sort(rng.choice(len(rows), size=size, replace=False))] for rows in (train, test)
    ]
    kernel = mixed_kernels([("one", np.concatenate(samples))], {"one": {"one": 1.0}})["one"]
    inverses = [ridge.inverse(kernel, penalty) for penalty in PENALTIES]
    singles = [np.array([row]) for row in range(2 * size)]
    return permutation_test(inverses, np.repeat(np.arange(2), size), singles, rng, PERMUTATIONS)
