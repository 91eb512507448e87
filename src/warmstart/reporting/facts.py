"""Everything that the report shows, read from the files of one run folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from warmstart.events import Event
from warmstart.modalities.registry import MODALITIES
from warmstart.nouns import Nouns
from warmstart.records.answer import CalibrationRecord
from warmstart.records.block_actions import BlockAction
from warmstart.records.comparison import Confidence
from warmstart.records.data import DataRecord, LabelIssues
from warmstart.records.inputs import Inputs
from warmstart.records.network import Ledger, NetworkRecord
from warmstart.records.plan import Plan
from warmstart.records.summary import ClassScore, Evidence, Inspection, LabelScore, Summary
from warmstart.tasks.registry import TASKS
from warmstart.tasks.task import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutAnswer:
    """The prediction for one held-out example."""

    id: str
    split: str  # "oof" or "test"
    target: str
    label: str  # the predicted class
    probability: float
    target_probability: float

    @property
    def is_right(self) -> bool:
        return self.target == self.label


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRange:
    """Neighbouring layers with the same action; `n` of them, with `weights` numbers."""

    layers: str
    names: str
    action: BlockAction
    rates: str
    weights: int
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """How to repeat the run, and the options that further commands need.

    `options` maps the name of an option to its words: {"label": "--label kind"}. Without them, a
    further command would read other data or another base model.
    """

    command: str
    data: str  # as it is typed; DATA where it was no path
    budget: str
    is_own_strategy: bool
    is_timed: bool = False  # cut to fit --minutes, which depends on the speed of the computer
    options: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """The content of a run folder; what an older one lacks is None or empty.

    `place` is the folder as commands name it, `title` the base model for people, `thumbs` are
    small pictures as data URIs by the id of their example, `excerpts` the beginnings of texts.
    """

    place: str
    title: str
    summary: Summary
    repeat: Repeat
    data: DataRecord | None = None
    inspection: Inspection | None = None
    network: NetworkRecord | None = None
    plan: Plan | None = None
    ledger: Ledger | None = None
    calibration: CalibrationRecord | None = None
    preprocessing: Inputs | None = None
    answers: tuple[HeldOutAnswer, ...] = ()
    events: tuple[Event, ...] = ()
    classes: tuple[ClassScore, ...] = ()
    label_scores: tuple[LabelScore, ...] = ()  # of multilabel
    numbers: tuple[tuple[float, float], ...] = ()  # (target, prediction), held out
    test_classes: tuple[ClassScore, ...] = ()
    confidence: Confidence | None = None
    layers: tuple[LayerRange, ...] = ()
    in_words: str = ""  # the plan of the layers
    fates: tuple[str, ...] = ()  # of the weights, a line for each fate
    thumbs: Mapping[str, str] = field(default_factory=dict)
    excerpts: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The data set's name, or the run's."""
        return self.data.name if self.data is not None else self.place.rstrip("/").split("/")[-1]

    @property
    def nouns(self) -> Nouns:
        return MODALITIES[self.summary.data.kind if self.data is None else self.data.kind].nouns

    @property
    def ships(self) -> bool:
        return self.summary.shipped.strategy != "none"

    @property
    def is_discarded(self) -> bool:
        """Whether layers were fine-tuned, and the model has none of them."""
        is_trained = self.plan is not None and self.plan.is_trained
        return is_trained and self.summary.shipped.strategy in ("head", "none")

    @property
    def held_out(self) -> tuple[HeldOutAnswer, ...]:
        """Cross-validated predictions for the training examples."""
        return tuple(one for one in self.answers if one.split == "oof")

    @property
    def label_issues(self) -> LabelIssues | None:
        return self.inspection.label_issues if self.inspection is not None else None

    @property
    def target(self) -> Target:
        """The task, not fitted to labels."""
        return TASKS[self.summary.task]

    @property
    def has_issues(self) -> bool:
        """Whether label issues are counted; then they come first."""
        return self.label_issues is not None and bool(self.label_issues.count)

    @property
    def majority(self) -> tuple[str, float] | None:
        """The largest class and its share; None where it is not known or there are no classes."""
        if not self.target.has_classes:
            return None
        sizes = Counter(one.target for one in self.held_out)
        if not sizes and self.data is not None:
            sizes = Counter(e.label for e in self.data.examples if e.split != "test")
        if not sizes:
            return None
        label = min(sizes, key=lambda name: (-sizes[name], name))
        return label, sizes[label] / sizes.total()

    def evidence(self, name: str) -> Evidence | None:
        """The evidence of this name, if it was measured."""
        evidence = self.summary.verdict.evidence
        return next((e for e in evidence if e.name == name and e.value is not None), None)

    def detail(self, name: str, key: str) -> float | None:
        """A number among the details of the evidence."""
        evidence = self.evidence(name)
        value = evidence.details.get(key) if evidence is not None else None
        return float(value) if isinstance(value, (int, float)) else None
