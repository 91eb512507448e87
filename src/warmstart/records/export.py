"""A model in another program's format, and its checks (export.json)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from warmstart.records.data import Task
from warmstart.records.inputs import Kind
from warmstart.records.run_folder import ABSENT
from warmstart.records.summary import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Accuracy of one model minus another's on the same `n` images, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """An export in a process without warmstart, compared with the model itself."""

    n: int
    images: Literal["run", "noise"]  # noise: no image of the run is readable
    difference: float  # largest |difference| of a logit
    tolerance: float | None  # None: 8 bits have none
    same_labels: int  # of n


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleLayerHead:
    """A head refitted on the last feature layer, for a format that holds no other.

    `estimate` is of this head, `original` of the model on the same images; both are None where
    neither can be estimated, and `why` says why.
    """

    head: str
    estimate: Estimate | None
    original: Estimate | None
    gap: Gap | None  # this head minus original
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """What 8-bit numbers cost and gain; `images` are "train" where the run has no others."""

    images: Literal["test", "holdout", "train"]
    accuracy: float
    accuracy_before: float
    gap: Gap  # 8 bits minus 32
    same_labels: float | None  # share; None: the answers are numbers
    calibrated_on: int
    bytes: int
    bytes_before: int
    seconds: float  # per image, one at a time
    seconds_before: float
    is_too_much: bool
    sentence: str
    metric: str | None = field(
        default=None, metadata=ABSENT
    )  # of `accuracy`; None: accuracy itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """export.json: one export, complete and checked."""

    run: str
    to: str
    title: str
    inputs: str  # in words
    outputs: str  # in words
    files: dict[str, int]  # bytes by name
    agreement: Agreement
    libraries: dict[str, str]  # versions of the export and its checks
    single_layer: SingleLayerHead | None = None
    quantized: Quantized | None = None
    kind: Kind = field(default="image", metadata=ABSENT)
    task: Task | None = field(default=None, metadata=ABSENT)  # None: classify
    format: int = 1
