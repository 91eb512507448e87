"""Several runs on the same examples (`compare --json`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from warmstart.records.data import Finding, Task
from warmstart.records.inputs import Kind, Preprocessing
from warmstart.records.run_folder import ABSENT
from warmstart.records.summary import Readiness, Scores, VerdictKind

# The test part of all runs; or examples that each of them held out in some way.
ComparedRows = Literal["test", "held-out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One run: how right it is on the examples that all of them held out, and what it took.

    `value` is the accuracy there with its 95 % interval. `updates` were made in all its
    trainings together. `near_end_*`: when its accuracy on examples held out first was 95 % of
    what it was at the end, in updates of one training and seconds since the run began; 0 updates
    for an output fitted in closed form, None where it was not looked at.
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
    n_train: int  # different images that it learnt from
    seconds: float
    seconds_features: float  # of them for the look at the images; `kept`: an earlier one served
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
class FailedRun:
    """A strategy that did not come to a model, and why."""

    name: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs from best to worst on the same `n` examples, and every pair of them.

    `n_common_train`: images that all of them learnt from. Examples are left out that a run had
    seen before, by its own findings (`leaked`), and those whose label is another one in
    another run (`relabelled`).
    """

    metric: str
    rows: ComparedRows
    n: int
    runs: tuple[ComparedRun, ...]
    pairs: tuple[Pair, ...]
    n_common_train: int
    leaked: int = 0
    relabelled: int = 0
    failed: tuple[FailedRun, ...] = ()
    kind: Kind | None = field(default=None, metadata=ABSENT)  # None: of images


# ---- Which start suits a data set (`rank --json`).


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedModel:
    """One start after one look: how right a new output on it is, and what that cost.

    `value` is the accuracy on examples not seen, with its 95 % interval; `difference` is
    this start minus the best of the ranking on the same examples (0 for the best itself).
    `seconds` were spent in this call on the look and the head; where all features came
    from the store (`cached`) they say nothing of the start, and no pass was timed.
    """

    name: str  # as typed: "lite0", "timm:resnet18", "FILE@timm:resnet18"
    title: str
    arch: str | None  # what --arch wants with it, for a file of weights
    value: float
    low: float
    high: float
    seconds: float
    parameters: int
    macs: int  # multiply-accumulates for one image, up to the old output
    seconds_per_image: float | None
    cached: bool
    head: str  # the head that was best on it
    difference: float
    difference_low: float
    difference_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedModel:
    """A start that could not be looked at, and why."""

    name: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Starts from best to worst on the same `n` examples not seen.

    A tie group holds a start and those below it whose 95 % interval of the paired
    difference to it holds 0; groups of one are not listed. `take` is the start with the
    least work among the best and those that tie with it.
    """

    models: tuple[RankedModel, ...]
    ties: tuple[tuple[str, ...], ...]
    choice: str
    because: str  # why that one
    n: int
    majority: float  # share of the largest class: right without looking
    method: str  # of the estimates: "nested-cv" or "holdout"
    failed: tuple[FailedModel, ...] = ()
    task: Task | None = field(default=None, metadata=ABSENT)  # None: one class an example
    kind: Kind | None = field(default=None, metadata=ABSENT)  # None: images
    left_out: tuple[str, ...] = ()  # on this computer, but beyond what is looked at unasked


# ---- What a finished model is worth on labelled images (`audit MODEL DATA --json`).


LeakCheck = Literal["near copies", "bytes", "nothing"]  # what was looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainGap:
    """The training images beside those judged on; `gap` is the difference of accuracies.

    `n` may be a draw of them, `of` is how many there are.
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
class ClassScore:
    """One class: how many of its images are found, and how far its name can be believed."""

    label: str
    n: int
    recall: float
    low: float
    high: float
    precision: float | None  # None: the model never answers with it
    answers: int  # how often the model answers with it
    confused_with: str | None  # what its images are most often taken for, None: for nothing else
    n_confused: int  # how many of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Whether the model's probabilities are what they say.

    `gap` is mean confidence less accuracy, with its interval. `temperature` is what logits are
    divided by to mend it; the figures after that are of images that it was not fitted on. None
    where too few images are there to fit one, or the model knows too little.
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
    """Answers that are about as sure: how sure, and how often right, with its interval."""

    confidence: float
    accuracy: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """Whether answers are right as often as they are sure, in words and by how sure they are."""

    sentence: str
    bins: tuple[ConfidenceBin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MajorityClass:
    """Answering always with the largest class."""

    label: str
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedModel:
    """A finished model on labelled images of which it knows the classes.

    `test` is of all of them, `without_leaks` of those that are no training images, nor near
    copies of such, nor of one group with them; it is None where nothing leaks, or everything.
    `guess`, `classes` and `calibration` are without leaks, where that is not None.
    `trained_on` counts the training images that copies were looked for among.
    """

    model: str
    title: str
    data: str
    n_classes: int
    outputs: int
    labels_from: str
    is_assumed: bool  # the order of the outputs was assumed, nothing tells it
    better_order: float | None  # accuracy under another order, where the assumed one is wrong
    preprocessing: Preprocessing
    preprocessing_from: str  # whose preprocessing that is
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
    unknown_classes: tuple[str, ...]  # of the data, that the model has no output for
    unknown_images: int  # of those; they are left out of all figures
    unused_outputs: tuple[str, ...]  # that the data has no image of
