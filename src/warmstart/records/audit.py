"""What became of each tensor of a start in a model trained elsewhere (`audit --json`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from warmstart.records.network import LedgerRow

GroupState = Literal[
    "frozen", "frozen in name only", "moved", "another shape", "only in MODEL", "only in START"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many tensors, and how many numbers they hold."""

    tensors: int
    numbers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditGroup:
    """The tensors of one layer or block. Counts are of tensors.

    Statistics are what a normalisation layer gathers from the data it sees (running mean,
    running variance, how many batches): they move without a learning rate. "frozen in name
    only": all weights kept their bytes, but statistics moved, so the layer's output did too.
    """

    name: str  # the first two components of the tensors' names
    state: GroupState
    weights: int  # with the same name and shape in both
    weights_same: int
    statistics: int
    statistics_same: int
    reshaped: int
    only_model: int
    only_base: int
    change: float | None  # length of the change over the weights' length; None: not to be told


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Two sets of weights compared by name; tied tensors stand once.

    Fates of `rows`: `frozen` (the same bytes), `trained` (moved), `reshaped`, `new` (only in
    the model), `dropped` (only in the start); their `part` is the group. Where a number is
    kept in more digits on one side, that side is rounded before it is compared: `rounded`
    says how, such as "float32 to float16".
    """

    model: str
    base: str
    same: Tally
    moved: Tally
    reshaped: Tally
    only_model: Tally
    only_base: Tally
    carried: float  # share of the start's weights with the same name and shape in the model
    rounded: tuple[str, ...]
    groups: tuple[AuditGroup, ...]
    rows: tuple[LedgerRow, ...]

    @property
    def is_related(self) -> bool:
        """Whether at least one weight has the same name and shape in both."""
        return self.carried > 0
