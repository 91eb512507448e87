"""The base model, its blocks, the fate of each tensor (network.json, weights_ledger.json)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from warmstart.records.inputs import Inputs

# "tokens": (B, L, C + 1), ragged rows padded; the last channel is 1 for a token, 0 for padding.
Layout = Literal["NCHW", "NHWC", "NLC", "NC", "NCL", "NCDHW", "tokens", "other"]
CHANNELS_FIRST: tuple[Layout, ...] = ("NCHW", "NCL", "NCDHW")
Pool = Literal["avg", "grid2", "first", "neck"]
Family = Literal["convnet", "transformer", "mlp"]
Fate = Literal["frozen", "unchanged", "copied", "trained", "reshaped", "new", "dropped", "merged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How weights were trained."""

    optimizer: str  # "adamw", "sgd", or another's name
    lr: float  # peak learning rate
    batch_size: int  # images a step
    schedule: str  # "cosine", "constant", …


@dataclass(frozen=True, slots=True, kw_only=True)
class InputChange:
    """One tensor that input surgery changed, before training."""

    tensor: str
    fate: Literal["reshaped", "new", "dropped"]
    shape_before: tuple[int, ...] | None  # None for `new`
    shape_after: tuple[int, ...] | None  # None for `dropped`
    before: str | None  # sha256 in the base model, None for `new`; `copied`: of the original
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModelRecord:
    """The pretrained network of a run."""

    name: str  # as typed: "lite0", "timm:resnet18", "module:Net"
    title: str  # for people: "EfficientNet-Lite0 (ImageNet)"
    arch: str  # "timm:tf_efficientnet_lite0", or "module:..." for the user's own network
    sha256: str  # over names, shapes and bytes of all tensors
    parameters: int
    classes: int  # outputs of the original head
    source: str  # of the weights
    preprocessing: Inputs
    recipe: Recipe | None = None  # None: not on record
    labels: tuple[str, ...] = ()  # class names of its head, if it is a run
    lineage: tuple[str, ...] = ()  # its own base models, the oldest first
    added: tuple[int, ...] = ()  # hidden widths of the blocks that earlier runs added
    is_random: bool = False  # its weights are random


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRecord:
    """One block of the network; shapes without the batch axis."""

    name: str
    parameters: int
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]
    macs: int  # multiply-accumulates for one input
    layout: Layout  # of its output, N being the batch axis


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecord:
    """network.json: the blocks 1..P in order, without the original head."""

    blocks: tuple[BlockRecord, ...]
    head_parameters: int
    partition: Literal["traced", "whole"]  # "whole": one block, as it cannot be cut
    neck_width: int  # length of the original head's input
    neck_is_average: bool  # that is the plain average of the last block's output
    family: Family = "convnet"  # sets the learning rate without a recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureLayer:
    """The output of block `block` (1..P), pooled by `pool`.

    `neck` (last block only) is the input of the original head's linear layer. `of`: "" for the
    network's own blocks, "base" for those of the base model beside them in an ensemble.
    """

    block: int
    pool: Pool
    of: Literal["", "base"] = ""

    @property
    def name(self) -> str:
        """`17.grid2`, `17.grid2.base`: the key of its features in files and arrays."""
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
    before: str | None  # sha256 in the base model, None for `new`
    after: str | None  # sha256 in the model, None for `dropped`
    shape_before: tuple[int, ...] | None = None  # in the base model, if not `shape`

    @property
    def numel_before(self) -> int:
        """Elements of this tensor in the base model; 0 for a new one and for a second copy."""
        if self.before is None or self.fate == "copied":
            return 0
        return self.numel if self.shape_before is None else math.prod(self.shape_before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """weights_ledger.json: every tensor of both networks."""

    rows: tuple[LedgerRow, ...]


GroupState = Literal[
    "frozen", "frozen in name only", "moved", "another shape", "only in MODEL", "only in BASE"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts of tensors, and of their elements."""

    tensors: int
    numbers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditGroup:
    """The tensors of one layer or block, for `audit`. Counts are of tensors.

    Statistics are those of normalisation layers (running mean and variance, number of batches):
    they change without a learning rate. "frozen in name only": all weights are identical, but
    statistics changed, and so did the layer's output.
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
    change: float | None  # norm of the change over the weights' norm; None: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """A model trained elsewhere against its base model (`audit --json`); tied tensors stand once.

    Fates of `rows`: `frozen` (the same bytes), `trained`, `reshaped`, `new` (only in the model),
    `dropped` (only in the base model); their `block` is the group. The more precise side is
    rounded before comparing, as in `rounded`: "float32 to float16".
    """

    model: str
    base: str
    same: Tally
    moved: Tally
    reshaped: Tally
    only_model: Tally
    only_base: Tally
    carried: float  # share of the base model's weights with the same name and shape in the model
    rounded: tuple[str, ...]
    groups: tuple[AuditGroup, ...]
    rows: tuple[LedgerRow, ...]

    @property
    def is_related(self) -> bool:
        """Whether at least one weight has the same name and shape in both."""
        return self.carried > 0
