"""The facts behind a plan: the data and the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from warmstart.modalities.registry import modality_of
from warmstart.nouns import Nouns
from warmstart.records.data import Task
from warmstart.records.inputs import DEFAULT_KIND, Inputs, Kind
from warmstart.records.network import NetworkRecord, Recipe
from warmstart.records.plan import ColumnPlan
from warmstart.records.summary import VerdictKind
from warmstart.tasks.registry import DEFAULT_TASK

if TYPE_CHECKING:
    from warmstart.modalities.modality import Modality


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """The training set."""

    n: int
    n_groups: int
    n_classes: int
    smallest_class: int
    holdout: int  # examples in the user's validation set, 0 without one
    columns: tuple[ColumnPlan, ...] | None = None  # types of a table's columns
    task: Task = DEFAULT_TASK
    kind: Kind = DEFAULT_KIND


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """The network, and what was measured with it.

    Tensors that did not carry over from the base model have random values: most of those of
    `fresh` blocks, some of those of `partly_fresh` ones.
    """

    record: NetworkRecord
    recipe: Recipe | None = None
    preprocessing: Inputs | None = None  # of the network, after any surgery
    base_inputs: Inputs | None = None  # the base model's own; None: the same
    verdict: VerdictKind | None = None  # None: unknown
    fresh: frozenset[str] = frozenset()
    partly_fresh: frozenset[str] = frozenset()
    no_lora: frozenset[str] = frozenset()  # blocks without a layer for low-rank updates
    compares_fine_tuning: bool = False  # with the linear probe
    is_random: bool = False  # the base model is untrained
    max_cache_bytes: int = 4_000_000_000  # for the cached activations of frozen blocks

    @property
    def modality(self) -> Modality[Any]:
        return modality_of(self.preprocessing)

    @property
    def nouns(self) -> Nouns:
        """The words for its examples."""
        return self.modality.nouns

    @property
    def random(self) -> frozenset[str]:
        """Blocks that must not be frozen."""
        return self.fresh | self.partly_fresh

    @property
    def depth_verdict(self) -> VerdictKind | None:
        """The verdict that sets the depth."""
        return "fine-tune" if self.compares_fine_tuning else self.verdict

    @property
    def n_blocks(self) -> int:
        return len(self.record.blocks)
