"""Models on the same examples (`compare --json`, `rank --json`, `audit MODEL DATA --json`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from warmstart.records.data import Task
from warmstart.records.findings import Finding
from warmstart.records.inputs import Kind, Preprocessing
from warmstart.records.run_folder import ABSENT
from warmstart.records.summary import ClassScore, Readiness, Scores, VerdictKind

ComparedRows = Literal["test", "held-out"]  # of all runs: their test set, or any held-out rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One run: its accuracy on the examples that all runs held out, and its cost.

    `value` is the accuracy with its 95 % interval, `updates` those of all its trainings.
    `*_to_95`: when validation accuracy first reached 95 % of its final value, in updates of one
    training and seconds of the run; 0 updates for a linear probe, None without validation.
    """

    name: str
    path: str
    strategy: str  # what was shipped
    why: str
    base: str
    verdict: VerdictKind
    value: float
    low: float
    high: float
    n_train: int  # different training images
    seconds: float
    seconds_features: float  # of them for feature extraction
    features_cached: bool
    updates: int
    updates_to_95: int | None
    seconds_to_95: float | None
    readiness: Readiness | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Accuracy of `a` minus that of `b` on the same `n` examples, with its 95 % interval.

    `p` is adjusted for all pairs of the comparison (Holm); below 0.05 there is a winner.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    n: int
    winner: str | None  # None: a tie
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A strategy or a base model that failed, and why."""

    name: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs from best to worst on the same `n` examples, and every pair of them.

    `n_common_train`: training images of all runs. Left out are examples that leaked into a run's
    training, by its own findings (`leaked`), and those with different labels (`relabelled`).
    """

    metric: str
    rows: ComparedRows
    n: int
    runs: tuple[ComparedRun, ...]
    pairs: tuple[Pair, ...]
    n_common_train: int
    leaked: int = 0
    relabelled: int = 0
    failed: tuple[Failed, ...] = ()
    kind: Kind = field(default="image", metadata=ABSENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedModel:
    """One base model: the accuracy of a linear probe on it, and its cost.

    `value` is the held-out accuracy with its 95 % interval; `difference` is this base model minus
    the best on the same examples (0 for the best). `seconds` are those of feature extraction and
    head; where all features were `cached` they say nothing, and no forward pass was timed.
    """

    name: str  # as typed: "lite0", "timm:resnet18", "FILE@timm:resnet18"
    title: str
    arch: str | None  # its --arch, for a file of weights
    value: float
    low: float
    high: float
    seconds: float
    parameters: int
    macs: int  # multiply-accumulates for one image, without the head
    seconds_per_image: float | None
    cached: bool
    head: str  # the best one
    difference: float
    difference_low: float
    difference_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Base models from best to worst on the same `n` held-out examples.

    A tie is a base model and those below it whose paired difference to it has a 95 % interval
    around 0; ties of one are not listed. `choice` is the cheapest of the best and its ties.
    """

    models: tuple[RankedModel, ...]
    ties: tuple[tuple[str, ...], ...]
    choice: str
    because: str
    n: int
    majority: float  # share of the largest class
    method: str  # of the estimates: "nested-cv" or "holdout"
    failed: tuple[Failed, ...] = ()
    task: Task | None = field(default=None, metadata=ABSENT)  # None: one class an example
    kind: Kind = field(default="image", metadata=ABSENT)
    left_out: tuple[str, ...] = ()  # installed, but not tried by default


LeakCheck = Literal["near copies", "bytes", "nothing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainGap:
    """Accuracy on the training images; `gap` is that minus the audited accuracy.

    `n` of the `of` training images were used.
    """

    n: int
    of: int
    accuracy: float
    low: float
    high: float
    gap: float
    gap_low: float
    gap_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Whether the model's probabilities are calibrated.

    `gap` is mean confidence minus accuracy, with its interval. `temperature` divides the logits
    to close it; the figures after it are cross-validated. None where images are too few to fit
    one, or the model is too weak.
    """

    ece: float
    confidence: float
    accuracy: float
    gap: float
    low: float | None
    high: float | None
    temperature: float | None
    ece_after: float | None
    log_loss_after: float | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceBin:
    """Predictions of about equal confidence: its mean, and their accuracy with its interval."""

    confidence: float
    accuracy: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """Confidence against accuracy, in words and in bins of confidence."""

    sentence: str
    bins: tuple[ConfidenceBin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MajorityClass:
    """Always predicting the largest class."""

    label: str
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedModel:
    """A finished model on labelled images of its classes.

    `test` is on all images; `without_leaks` leaves out training images, their near-duplicates and
    groups, and is None where nothing leaks, or everything. Where it is not None, `majority`,
    `classes` and `calibration` are without leaks, too. `trained_on` training images were compared.
    """

    model: str
    title: str
    data: str
    n_classes: int
    outputs: int
    labels_from: str
    is_assumed: bool  # the order of the outputs is a guess
    better_order: float | None  # accuracy under another order, where the guess is wrong
    preprocessing: Preprocessing
    preprocessing_from: str
    test: Scores
    majority: MajorityClass
    leaked: int
    without_leaks: Scores | None
    leaks_by: LeakCheck
    trained_on: int
    train: TrainGap | None
    classes: tuple[ClassScore, ...]
    calibration: Reliability
    findings: tuple[Finding, ...]
    unknown_classes: tuple[str, ...]  # classes of the data without an output
    unknown_images: int  # of those, left out of all figures
    unused_outputs: tuple[str, ...]  # without an image in the data
