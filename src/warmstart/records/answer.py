"""What a finished model says of new inputs, and what it needs to say it."""

from __future__ import annotations

from dataclasses import dataclass, field

from warmstart.records.data import Task
from warmstart.records.inputs import Inputs, Kind
from warmstart.records.network import FeatureLayer, Recipe
from warmstart.records.run_folder import ABSENT


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """model/config.json: what rebuilds the network beside its tensors."""

    task: Task
    arch: str  # "timm:…", "torchvision:…", or "module:…" for a network of the user's own
    base: str
    base_sha256: str
    head: str  # which of the plan's candidates was chosen
    penalty: float
    feature_layers: tuple[FeatureLayer, ...]
    classes: tuple[str, ...]
    preprocessing: Inputs
    strategy: str = "head"
    recipe: Recipe | None = None  # how its layers were trained here; None: they were not
    lineage: tuple[str, ...] = ()  # what it was trained from, the oldest first
    added: tuple[int, ...] = ()  # hidden widths of the blocks added after the last part
    ensemble: int | None = None  # part after which the start's own layers stand beside tuned ones
    format: int = 1

    @property
    def own_layers(self) -> tuple[FeatureLayer, ...]:
        """Where pictures are compared: without the layers that stand beside tuned ones."""
        return tuple(layer for layer in self.feature_layers if not layer.of)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecord:
    """model/calibration.json: from scores to "sure" and "unknown".

    The temperature and class bias stand in the network itself as well; here for readers.
    """

    temperature: float
    class_bias: tuple[float, ...]
    confident_from: (
        float | None
    )  # least probability that counts as sure; None: nothing can be promised
    promised_error: float  # error rate among the sure, with 95 % certainty
    ood_from: float  # distance to the training examples beyond which an input is unknown
    nearest: int  # how many neighbours that distance looks at


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCalibration(CalibrationRecord):
    """The same of several labels: sure is a set of which every label is."""

    thresholds: tuple[float, ...]  # probability from which on each label is named


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberCalibration(CalibrationRecord):
    """The same of a number: the interval says how sure it is."""

    half_width: float | None  # of the interval; None: too few examples to promise one


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answered input: a line of `predict --json`.

    `sure` is None where too few examples exist to promise anything. An input that cannot
    be read has no label; `error` says why.
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
    """The same of several labels: `label` is the likeliest, `probability` its own.

    `labels` are those named, which may be none.
    """

    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberAnswer(Answer):
    """The same of a number: `label` is it as a text; `sure` is None, for the interval says more."""

    value: float | None = None
    low: float | None = None  # None: too few examples to promise an interval
    high: float | None = None


# ---- Which images to label next (`suggest --json`).


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """One image to label: what the model takes it for now, and why it is asked about."""

    path: str
    label: str
    probability: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedGain:
    """Gain in accuracy from `n` more examples drawn at random, with its 95 % interval."""

    gain: float
    low: float
    high: float
    n: int
    metric: str = "accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Images that were not considered: in the run's data already, same bytes twice, unreadable."""

    known: int
    copies: int
    unreadable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestions:
    """What `suggest --json` prints: images to label, the most telling first."""

    suggestions: tuple[Suggestion, ...]
    expected: ExpectedGain | None
    skipped: Skipped
    candidates: int  # images that could have been suggested
    kind: Kind | None = field(default=None, metadata=ABSENT)  # None: images
