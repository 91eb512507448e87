"""All that the report tells, read from the files of one run folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from warmstart.events import Event
from warmstart.nouns import Nouns, nouns_of
from warmstart.records.answer import CalibrationRecord
from warmstart.records.comparison import ClassScore, Confidence
from warmstart.records.data import DataRecord
from warmstart.records.network import Ledger, NetworkRecord
from warmstart.records.plan import Plan
from warmstart.records.summary import Evidence, Inspection, LabelScore, Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutAnswer:
    """What was said of one example that was held out; `own` is the probability of its label."""

    id: str
    split: str  # "oof" or "test"
    target: str
    label: str
    probability: float
    own: float

    @property
    def is_right(self) -> bool:
        """Whether the label was named."""
        return self.target == self.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Neighbouring layers with the same fate; `share` is theirs of all weights of the start."""

    layers: str
    names: str
    action: str
    rates: str
    weights: int
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """How to make the run again, and what words further commands are made of.

    `options` are words to be typed by the name of the option: {"label": "--label kind"}. Left
    away, a further command would read other data, or begin from another start.
    """

    command: str
    data: str  # as it is typed; DATA where it was no path
    budget: str
    is_own_strategy: bool
    is_timed: bool = False  # cut down to fit some minutes, as far as this computer got in them
    options: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """What stands in a run folder; what an older one lacks is None or empty.

    `place` is the folder as commands name it, `title` the start as a person would say it,
    `thumbs` are small pictures as data URIs by the id of their example, `excerpts` texts or the
    beginnings of them.
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
    said: tuple[HeldOutAnswer, ...] = ()
    events: tuple[Event, ...] = ()
    classes: tuple[ClassScore, ...] = ()
    label_scores: tuple[LabelScore, ...] = ()  # of several labels
    numbers: tuple[tuple[float, float], ...] = ()  # true and said, of examples held out
    tested: tuple[ClassScore, ...] = ()
    certainty: Confidence | None = None
    layers: tuple[Stretch, ...] = ()
    in_words: str = ""  # what was planned for the layers
    fates: tuple[str, ...] = ()  # what became of the weights, a line for each fate
    thumbs: Mapping[str, str] = field(default_factory=dict)
    excerpts: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The data set's name, or the run's."""
        return self.data.name if self.data is not None else self.place.rstrip("/").split("/")[-1]

    @property
    def nouns(self) -> Nouns:
        """What the examples are called."""
        return nouns_of(self.summary.data.kind if self.data is None else self.data.kind)

    @property
    def ships(self) -> bool:
        """Whether there is a model."""
        return self.summary.shipped.strategy != "none"

    @property
    def is_thrown_away(self) -> bool:
        """Whether layers were trained, and the model has none of them."""
        is_trained = self.plan is not None and self.plan.is_trained
        return is_trained and self.summary.shipped.strategy in ("head", "none")

    @property
    def held(self) -> tuple[HeldOutAnswer, ...]:
        """What was said of examples to learn from while they were held out."""
        return tuple(said for said in self.said if said.split == "oof")

    @property
    def guess(self) -> tuple[str, float] | None:
        """The largest class and its share: right without looking. None where it is not known.

        Nor of other tasks, whose examples have no class.
        """
        if self.summary.task != "classify":
            return None
        sizes = Counter(said.target for said in self.held)
        if not sizes and self.data is not None:
            sizes = Counter(e.label for e in self.data.examples if e.split != "test")
        if not sizes:
            return None
        label = min(sizes, key=lambda name: (-sizes[name], name))
        return label, sizes[label] / sizes.total()

    def evidence(self, name: str) -> Evidence | None:
        """One measured fact, where it was measured."""
        found = (e for e in self.summary.verdict.evidence if e.name == name)
        return next((e for e in found if e.value is not None), None)

    def detail(self, name: str, key: str) -> float | None:
        """A number that belongs to a measured fact."""
        evidence = self.evidence(name)
        value = evidence.details.get(key) if evidence is not None else None
        return float(value) if isinstance(value, (int, float)) else None
