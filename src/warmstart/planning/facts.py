"""What a plan is made from: the data, the network, and what the user set."""

from __future__ import annotations

from dataclasses import dataclass, field

from warmstart.nouns import Nouns, nouns_of
from warmstart.planning.machine import Machine
from warmstart.planning.rules import Budget
from warmstart.records.data import Task
from warmstart.records.inputs import Inputs, Kind, Preprocessing, TableInputs, TextInputs, kind_of
from warmstart.records.network import NetworkRecord, Recipe
from warmstart.records.plan import ColumnPlan
from warmstart.records.summary import VerdictKind


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What a plan needs to know of the training part."""

    n: int
    n_groups: int
    n_classes: int
    smallest_class: int
    holdout: int  # examples of a hold-out that the user gave, 0 without
    columns: tuple[ColumnPlan, ...] | None = None  # what those of a table are taken for
    task: Task = "classify"
    kind: Kind = "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """The start's network and what was measured with it.

    Tensors that did not carry over from the start have random values. `fresh` names the parts
    that are mostly such, `touched` those that hold some: these are trained, and what they have
    of the start is kept.
    """

    record: NetworkRecord
    recipe: Recipe | None = None
    preprocessing: Inputs | None = None  # what the network takes, after any surgery
    usual: Inputs | None = None  # the start's own; None: the same
    verdict: VerdictKind | None = None  # None: not known
    fresh: frozenset[str] = frozenset()
    touched: frozenset[str] = frozenset()
    bare: frozenset[str] = frozenset()  # parts without a layer for low-rank updates
    tries_tail: bool = False  # whether upper layers are trained beside a head, to be compared
    is_drawn: bool = False  # the start has learnt nothing: to train is to train from nothing
    room: int = 4_000_000_000  # bytes that stored outputs of frozen layers may take

    @property
    def nouns(self) -> Nouns:
        """What the examples are called."""
        return nouns_of(kind_of(self.preprocessing))

    @property
    def is_picture(self) -> bool:
        """Whether it looks at pictures, which can be cropped and mirrored."""
        return self.preprocessing is None or isinstance(self.preprocessing, Preprocessing)

    @property
    def is_table(self) -> bool:
        """Whether it takes rows of a table."""
        return isinstance(self.preprocessing, TableInputs)

    @property
    def is_text(self) -> bool:
        """Whether it reads texts."""
        return isinstance(self.preprocessing, TextInputs)

    @property
    def random(self) -> frozenset[str]:
        """Parts that must not be frozen, because they hold random values."""
        return self.fresh | self.touched

    @property
    def asked(self) -> VerdictKind | None:
        """What decides the depth: the verdict, or that both depths are to be compared."""
        return "fine-tune" if self.tries_tail else self.verdict

    @property
    def n_blocks(self) -> int:
        """Number of parts, the head apart."""
        return len(self.record.blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user set; a wish always wins. `given` names the options that were typed."""

    base: str
    strategy: str
    budget: Budget
    seed: int
    arch: str | None = None
    lr: float | None = None
    contrastive: bool | None = None  # whether texts are learnt by pairs, as --set says
    processes: int = 1  # that share the work
    machine: Machine = field(default_factory=Machine)
    given: frozenset[str] = frozenset()
