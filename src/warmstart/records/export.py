"""A model in another program's format, and what was checked of it (export.json)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from warmstart.records.data import Task
from warmstart.records.inputs import Kind
from warmstart.records.run_folder import ABSENT
from warmstart.records.summary import Estimate

ExportFormat = Literal["onnx", "torch", "timm", "transformers", "openvino"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Accuracy of one model minus that of another on the same `n` images, 95 % interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What an export answered in a process without warmstart, against the model itself."""

    n: int
    images: Literal["run", "noise"]  # noise: none of the run's images was there to be read
    difference: float  # largest |difference| of a logit
    tolerance: float | None  # None: rounded to 8 bits, not held to one
    same_labels: int  # of n


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleLayerHead:
    """A head refitted on the last tap, for a format that holds no other.

    `estimate` is the twin's own, `original` the model's on the same images; both are None
    where nothing honest can be said, and `why` says why.
    """

    head: str
    estimate: Estimate | None
    original: Estimate | None
    gap: Gap | None  # twin minus original
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """What 8-bit numbers cost and bring, measured on images of the run.

    `images`: those that nothing was learnt from; "train" where the run has no others.
    """

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
    metric: str | None = field(default=None, metadata=ABSENT)  # that `accuracy` is; None: itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """export.json: one export, complete and checked."""

    run: str
    to: ExportFormat
    title: str
    inputs: str  # what it takes, in words
    outputs: str  # what it gives, in words
    files: dict[str, int]  # bytes by name
    agreement: Agreement
    libraries: dict[str, str]  # versions it was made and checked with
    single_layer: SingleLayerHead | None = None
    quantized: Quantized | None = None
    kind: Kind | None = field(default=None, metadata=ABSENT)  # None: images
    task: Task | None = field(default=None, metadata=ABSENT)  # None: it names classes
    format: int = 1
