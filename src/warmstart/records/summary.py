"""What was measured and what is claimed (inspection.json, predictions.jsonl, summary.json)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from warmstart.records.data import Finding, LabelIssues, OffTopic, Task
from warmstart.records.inputs import Kind
from warmstart.records.run_folder import ABSENT

# ---- Metrics of tasks other than one class an example: `test`, and `evaluate --json`.


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScore:
    """One label of several: how well rows are ranked by it, and found by its threshold."""

    label: str
    n: int  # rows that have it
    average_precision: float | None  # None: no row has it
    f1: float
    precision: float
    recall: float
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScores:
    """Multi-label metrics on data that no choice has seen; `mAP` is mean average precision.

    `low` and `high` are of `mAP`. `exact` is the share of rows whose labels are all right.
    """

    n: int
    mAP: float  # as the whole field writes it
    low: float
    high: float
    macro_f1: float
    micro_f1: float
    exact: float
    log_loss: float
    ece: float
    labels: tuple[LabelScore, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberScores:
    """Regression metrics on data that no choice has seen; errors in the user's unit.

    `low` and `high` are of `r2`. `coverage` is the share of rows inside their interval, which
    promises `promised`; None where there were too few examples to promise any.
    """

    n: int
    r2: float
    low: float
    high: float
    mae: float
    rmse: float
    coverage: float | None
    promised: float


Level = Literal["ready", "review", "not-ready"]
VerdictKind = Literal["linear-probe", "fine-tune", "no-transfer", "no-signal", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One measured fact the verdict rests on, with its interval."""

    name: str  # signal knowledge depth appetite tail_gain distance ceiling preprocessing; scratch
    value: float | None
    low: float | None
    high: float | None
    n: int
    meaning: str  # for a reader who never trained a network
    details: dict[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the evidence says about this start and this data."""

    kind: VerdictKind
    sentence: str
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """inspection.json: evidence, findings, and what is said of labels and odd examples.

    `off_topic` is null where it was not looked for: it is, among images.
    """

    evidence: tuple[Evidence, ...]
    label_issues: LabelIssues
    findings: tuple[Finding, ...] = ()
    off_topic: OffTopic | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One line of predictions.jsonl; `scores` are calibrated probabilities by class name."""

    id: str
    split: Literal["oof", "test"]
    fold: int | None
    target: str
    label: str
    scores: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPrediction(Prediction):
    """The same of several labels; `target` and `label` hold them with `|` between."""

    labels: tuple[str, ...]  # those named


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberPrediction(Prediction):
    """The same of a number; `scores` are empty, `target` and `label` numbers as texts."""

    value: float
    low: float | None  # None: too few examples to promise an interval
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """How good the shipped model is on examples it has not seen, with a 95 % interval."""

    metric: str
    value: float
    low: float
    high: float
    n: int
    method: Literal["nested-cv", "holdout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Metrics on labelled data that no choice has seen: `test`, and `evaluate --json`."""

    n: int
    accuracy: float
    low: float
    high: float
    balanced_accuracy: float
    macro_f1: float
    log_loss: float
    ece: float


TestScores = Scores | LabelScores | NumberScores


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuningGain:
    """What fine-tuning brought over the linear probe on the same held-out examples.

    The fine-tuned row is what ships, or, where the linear probe ships, what was not kept.
    `log_loss` is the linear probe's; a `log_loss_change` below 0 is an improvement, in nats.
    """

    value: float
    low: float
    high: float
    n: int
    log_loss: float
    log_loss_change: float
    log_loss_low: float
    log_loss_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether the model can be used, and the reasons for that level, the gravest first."""

    level: Level
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedCandidate:
    """What stands in model/, and why. `none`: nothing was shipped."""

    strategy: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCounts:
    """Sizes of the data set and of its problems."""

    train: int
    test: int
    classes: int
    unreadable: int
    near_duplicates: int
    leaks: int
    label_issues: int | None  # null: no number can be stated
    kind: Kind | None = field(default=None, metadata=ABSENT)  # None: images
    off_topic: int | None = field(default=None, metadata=ABSENT)  # None: not looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorCounts:
    """The start as the summary names it."""

    name: str
    sha256: str
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenProof:
    """Frozen tensors, and whether their bytes are what they were at the start."""

    parameters: int
    buffers: int
    identical: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Another method on the same rows and folds; `difference`: its accuracy less the model's."""

    name: str
    estimate: Estimate
    difference: float
    low: float
    high: float
    n: int
    is_better: bool  # beyond noise
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardNote:
    """A guard that fired: what was seen at which step, and what was done."""

    kind: Literal["stuck", "diverged", "overfit", "forgetting"]
    step: int
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """summary.json. `estimate` is of what ships; predictions.jsonl holds what it is made of.

    `linear_probe` and `fine_tuning_gain` are measured on the same folds; a gain is None where
    nothing was fine-tuned. `own_head`: what the head of a run that serves as the base model is
    worth, before a new one was fitted.
    """

    task: Task
    verdict: Verdict
    shipped: ShippedCandidate
    readiness: Readiness
    estimate: Estimate | None
    linear_probe: Estimate | None
    fine_tuning_gain: FineTuningGain | None
    test: TestScores | None
    data: DataCounts
    base: TensorCounts
    frozen: FrozenProof
    guards: tuple[GuardNote, ...]
    findings: tuple[Finding, ...]
    seconds: dict[str, float]
    peak_rss_mb: float
    own_head: Estimate | None = None
    baselines: tuple[Baseline, ...] = ()  # other methods on the same rows; for tables
    format: int = 1


# ---- What `warmstart check` found (`check --json`).


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Verdict, sizes, findings, label issues and off-topic examples, the worst first.

    `path` is the folder with the files, None where none were asked for.
    """

    verdict: Verdict
    data: DataCounts
    findings: tuple[Finding, ...]
    label_issues: LabelIssues
    seconds: dict[str, float]
    path: str | None
    off_topic: OffTopic | None = field(default=None, metadata=ABSENT)  # None: not looked for
    task: Task | None = field(default=None, metadata=ABSENT)  # None: one class an example
