"""The start, its parts and taps, the fate of each tensor (network.json, weights_ledger.json)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from warmstart.records.inputs import Inputs

# "tokens": (B, L, C + 1), ragged rows padded; the last channel is 1 where there is a token, else 0.
Layout = Literal["NCHW", "NHWC", "NLC", "NC", "NCL", "NCDHW", "tokens", "other"]
CHANNELS_FIRST: tuple[Layout, ...] = ("NCHW", "NCL", "NCDHW")
Pool = Literal["avg", "grid2", "first", "neck"]
Family = Literal["convnet", "transformer", "mlp"]
Fate = Literal["frozen", "kept", "copied", "trained", "reshaped", "new", "dropped", "merged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How weights were trained, as far as that is on record."""

    optimizer: str  # "adamw", "sgd", or another's name
    lr: float  # peak learning rate
    batch_size: int  # images a step
    schedule: str  # "cosine", "constant", …


@dataclass(frozen=True, slots=True, kw_only=True)
class InputChange:
    """One tensor that surgery at the input made, before anything was trained."""

    tensor: str
    fate: Literal["reshaped", "new", "dropped"]
    shape_before: tuple[int, ...] | None  # None for `new`
    shape_after: tuple[int, ...] | None  # None for `dropped`
    before: str | None  # sha256 of the bytes in the start, None for `new`; `copied`: of the copied
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModelRecord:
    """The pretrained network a run begins from."""

    name: str  # as the user would type it: "lite0", "timm:resnet18", "module:Net"
    title: str  # as a person would say it: "EfficientNet-Lite0 (ImageNet)"
    arch: str  # what rebuilds it: "timm:tf_efficientnet_lite0", or "module:..." for the user's own
    sha256: str  # over names, shapes and bytes of all tensors
    parameters: int
    classes: int  # outputs of the original head
    source: str  # where the weights came from
    preprocessing: Inputs
    recipe: Recipe | None = None  # how it was trained, where that is on record
    labels: tuple[str, ...] = ()  # class names of its head, where it carries them (a run)
    lineage: tuple[str, ...] = ()  # what it was trained from, the oldest first
    added: tuple[int, ...] = ()  # hidden widths of the blocks that earlier runs added
    is_random: bool = False  # its weights are random: it has learnt nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRecord:
    """One link of the cut network; shapes without the batch axis."""

    name: str
    parameters: int
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]
    macs: int  # multiply-accumulates for one input
    layout: Layout  # of its output, N being the batch axis


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecord:
    """network.json: the ordered parts 1..P, and the original head apart."""

    blocks: tuple[BlockRecord, ...]
    head_parameters: int
    partition: Literal["traced", "whole"]  # "whole": the network could not be cut, it is one part
    neck_width: int  # length of the vector that the original head sees
    neck_is_average: bool  # that vector is the plain average of the last part's output
    family: Family = "convnet"  # decides the learning rate where none is on record


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureLayer:
    """Where features are taken: after part `part` (1..P), pooled by `pool`.

    `neck` (only for the last part) is what the original head's linear layer sees. `of` says
    whose layers: "" those of the network, "base" those of the start that stand beside them.
    """

    block: int
    pool: Pool
    of: Literal["", "base"] = ""

    @property
    def name(self) -> str:
        """`17.grid2`, `17.grid2.base`: the key of this tap's features in files and arrays."""
        return f"{self.block}.{self.pool}" + (f".{self.of}" if self.of else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One tensor of the old or the new network and its fate; tied tensors stand once."""

    tensor: str
    block: str
    fate: Fate
    shape: tuple[int, ...]
    numel: int
    buffer: bool
    before: str | None  # sha256 of the bytes in the start, None for `new`
    after: str | None  # sha256 of the bytes in the model, None for `dropped`
    shape_before: tuple[int, ...] | None = None  # in the start, where that is not `shape`

    @property
    def numel_before(self) -> int:
        """Elements that the start has of this tensor; 0 for a new one and for a second copy."""
        if self.before is None or self.fate == "copied":
            return 0
        return self.numel if self.shape_before is None else math.prod(self.shape_before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """weights_ledger.json: every tensor of both networks."""

    rows: tuple[LedgerRow, ...]


# ---- What became of each tensor of a start in a model trained elsewhere (`audit --json`).


GroupState = Literal[
    "frozen", "frozen in name only", "moved", "another shape", "only in MODEL", "only in BASE"
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
