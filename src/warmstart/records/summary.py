"""Evidence, predictions and results (inspection.json, predictions.jsonl, summary.json)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from warmstart.formatting import interval, short_interval
from warmstart.records.data import LabelIssues, OffTopic, Task
from warmstart.records.findings import Finding
from warmstart.records.inputs import Kind
from warmstart.records.run_folder import ABSENT


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScore:
    """One label of several: average precision, and F1 at its threshold."""

    label: str
    n: int  # rows that have it
    average_precision: float | None  # None: no row has it
    f1: float
    precision: float
    recall: float
    threshold: float


class TestScores:
    """Metrics on unseen data, one record a task. A file is read as the one whose fields it has.

    Each has its own required fields beside `n`, its main score and the `low` and `high` of that.
    """

    __slots__ = ()
    members: ClassVar[dict[str, type[TestScores]]] = {}

    def __init_subclass__(cls) -> None:
        TestScores.members[cls.__name__] = cls  # twice with slots, where the second class counts

    if TYPE_CHECKING:  # else a dataclass would take a property for the default of its field

        @property
        def n(self) -> int:
            """Rows."""

        @property
        def low(self) -> float:
            """Lower end of the 95 % interval."""

        @property
        def high(self) -> float:
            """Upper end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScores(TestScores):
    """Multi-label metrics on unseen data; `low` and `high` are of `mAP`, mean average precision.

    `exact` is the share of rows whose labels are all right.
    """

    n: int
    mAP: float
    low: float
    high: float
    macro_f1: float
    micro_f1: float
    exact: float
    log_loss: float
    ece: float
    labels: tuple[LabelScore, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberScores(TestScores):
    """Regression metrics on unseen data; errors are in the user's unit, `low` and `high` of `r2`.

    `coverage` is the share of rows inside their interval, `promised` the promised one; None where
    examples are too few for intervals.
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
    """One measured fact behind the verdict, with its interval."""

    name: str  # a key of `tasks.words.EVIDENCE_NAMES`
    value: float | None
    low: float | None
    high: float | None
    n: int
    meaning: str  # for people
    details: dict[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the evidence says about this base model and this data."""

    kind: VerdictKind
    sentence: str
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """inspection.json: evidence, findings, label issues; off-topic examples among images."""

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
    """Multi-label; `target` and `label` hold the labels with `|` between."""

    labels: tuple[str, ...]  # the predicted ones


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberPrediction(Prediction):
    """Regression; `scores` are empty, `target` and `label` numbers as text."""

    value: float
    low: float | None  # None: too few examples to promise an interval
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The score of the shipped model on unseen examples, with its 95 % interval."""

    metric: str
    value: float
    low: float
    high: float
    n: int
    method: Literal["nested-cv", "holdout"]

    @property
    def interval(self) -> str:
        """`84 % (95 % CI 78–88)`."""
        return interval(self.value, self.low, self.high, self.n)

    @property
    def short_interval(self) -> str:
        """`84 % (78–88)`, for cells of a table."""
        return short_interval(self.value, self.low, self.high, self.n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores(TestScores):
    """Metrics on unseen labelled data: `test`, and `evaluate --json`."""

    n: int
    accuracy: float
    low: float
    high: float
    balanced_accuracy: float
    macro_f1: float
    log_loss: float
    ece: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """Recall and precision of one class, and its commonest confusion."""

    label: str
    n: int
    recall: float
    low: float
    high: float
    precision: float | None  # None: never predicted
    answers: int  # predictions of it
    confused_with: str | None  # the commonest mistake; None: no mistake
    n_confused: int

    @property
    def interval(self) -> str:
        """The recall: `84 % (95 % CI 78–88)`."""
        return interval(self.recall, self.low, self.high, self.n)

    @property
    def short_interval(self) -> str:
        """`84 % (78–88)`, for cells of a table."""
        return short_interval(self.recall, self.low, self.high, self.n)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresByClass(Scores):
    """What `evaluate --json` prints of classes: metrics of all, then of each class."""

    classes: tuple[ClassScore, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuningGain:
    """The fine-tuned network minus the linear probe on the same held-out examples.

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
    """Whether the model can be used, and why, the gravest reason first."""

    level: Level
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedCandidate:
    """What model/ holds, and why; "none": nothing was shipped."""

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
    label_issues: int | None  # null: unknown
    kind: Kind = field(default="image", metadata=ABSENT)
    off_topic: int | None = field(default=None, metadata=ABSENT)  # None: not searched


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorCounts:
    """The base model."""

    name: str
    sha256: str
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenProof:
    """Counts of frozen tensors, and whether their bytes are those of the base model."""

    parameters: int
    buffers: int
    identical: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Another method on the same rows and folds; `difference`: its accuracy minus the model's."""

    name: str
    estimate: Estimate
    difference: float
    low: float
    high: float
    n: int
    is_better: bool
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardNote:
    """A guard that fired, at which step, and what followed."""

    kind: Literal["stuck", "diverged", "overfit", "forgetting"]
    step: int
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """summary.json. `estimate` is of what ships, from the lines of predictions.jsonl.

    `linear_probe` and `fine_tuning_gain` are measured on the same folds; a gain is None where
    nothing was fine-tuned. `own_head`: the head of a base model that is a run.
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
    weakest: ClassScore | None = field(default=None, metadata=ABSENT)  # by recall, held out
    format: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """`check --json`; `path` is the folder of its files, if --out was set."""

    verdict: Verdict
    data: DataCounts
    findings: tuple[Finding, ...]
    label_issues: LabelIssues
    seconds: dict[str, float]
    path: str | None
    off_topic: OffTopic | None = field(default=None, metadata=ABSENT)  # None: not searched
    task: Task | None = field(default=None, metadata=ABSENT)  # None: classify
