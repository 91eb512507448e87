"""Predictions of a finished model, and what it needs for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from warmstart.records.data import Task
from warmstart.records.inputs import Inputs, Kind
from warmstart.records.network import FeatureLayer, Recipe
from warmstart.records.run_folder import ABSENT
from warmstart.records.summary import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """model/config.json: what rebuilds the network, together with its tensors."""

    task: Task
    arch: str  # "timm:…", "torchvision:…", or "module:…" for the user's own network
    base: str
    base_sha256: str
    head: str  # the chosen candidate of the plan
    penalty: float
    feature_layers: tuple[FeatureLayer, ...]
    classes: tuple[str, ...]
    preprocessing: Inputs
    strategy: str = "head"
    recipe: Recipe | None = None  # how its blocks were fine-tuned; None: all frozen
    lineage: tuple[str, ...] = ()  # its base models, the oldest first
    added: tuple[int, ...] = ()  # hidden widths of the blocks added after the last one
    ensemble: int | None = None  # block after which base and fine-tuned blocks run side by side
    format: int = 1

    @property
    def neighbour_layers(self) -> tuple[FeatureLayer, ...]:
        """The feature layers in which neighbours are searched: not those of the base model."""
        return tuple(layer for layer in self.feature_layers if not layer.of)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecord:
    """model/calibration.json: when a prediction is confident, an input out of distribution.

    The network itself holds the temperature and class bias, too; here they are for readers.
    """

    temperature: float
    class_bias: tuple[float, ...]
    confident_from: float | None  # least confident probability; None: nothing can be promised
    promised_error: float  # error rate of confident predictions, with 95 % certainty
    ood_from: float  # distance to the training examples from which an input is OOD
    nearest: int  # neighbours behind that distance


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCalibration(CalibrationRecord):
    """Multi-label: a set is confident where every label is."""

    thresholds: tuple[float, ...]  # least probability of each predicted label


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberCalibration(CalibrationRecord):
    """Regression: the interval is the confidence."""

    half_width: float | None  # of the interval; None: too few examples to promise one


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The prediction for one input: a line of `predict --json`.

    `confident` is None where too few examples exist to promise anything. An unreadable input
    has no label; `error` says why.
    """

    path: str
    label: str | None
    probability: float | None
    confident: bool | None
    ood: bool
    scores: dict[str, float]
    error: str | None = None
    nearest: tuple[str, ...] = ()  # ids of the most similar training examples


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelAnswer(Answer):
    """Multi-label: `label` is the most probable one, `labels` the predicted ones, maybe none."""

    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberAnswer(Answer):
    """Regression: `label` is the number as text; `confident` is None, as the interval says more."""

    value: float | None = None
    low: float | None = None  # None: too few examples to promise an interval
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """One image to label: its prediction now, and why it was chosen."""

    path: str
    label: str
    probability: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedGain:
    """Gain in accuracy from `n` more random examples, with its 95 % interval."""

    gain: float
    low: float
    high: float
    n: int
    metric: str = "accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Images left out: in the run's data already, same bytes twice, unreadable."""

    present: int
    copies: int
    unreadable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestions:
    """What `suggest --json` prints: images to label, the most informative first."""

    suggestions: tuple[Suggestion, ...]
    expected: ExpectedGain | None
    skipped: Skipped
    candidates: int  # images that could have been suggested
    kind: Kind = field(default="image", metadata=ABSENT)


# ---- A model in another program's format, and its checks (export.json).


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
