"""What a finished model is worth on labelled images (`audit MODEL DATA --json`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from warmstart.records.data import Finding
from warmstart.records.inputs import Preprocessing
from warmstart.records.summary import Scores

LeakCheck = Literal["near copies", "bytes", "nothing"]  # what was looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainGap:
    """The training images beside those judged on; `gap` is the difference of accuracies.

    `n` may be a draw of them, `of` is how many there are.
    """

    n: int
    of: int
    accuracy: float
    low: float
    high: float
    gap: float
    gap_low: float
    gap_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """One class: how many of its images are found, and how far its name can be believed."""

    label: str
    n: int
    recall: float
    low: float
    high: float
    precision: float | None  # None: the model never answers with it
    answers: int  # how often the model answers with it
    taken_for: str | None  # what its images are most often taken for, None: for nothing else
    taken: int  # how many of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Whether the model's probabilities are what they say.

    `gap` is mean confidence less accuracy, with its interval. `temperature` is what logits are
    divided by to mend it; the figures after that are of images that it was not fitted on. None
    where too few images are there to fit one, or the model knows too little.
    """

    ece: float
    confidence: float
    accuracy: float
    gap: float
    low: float | None
    high: float | None
    temperature: float | None
    ece_after: float | None
    log_loss_after: float | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertaintyBin:
    """Answers that are about as sure: how sure, and how often right, with its interval."""

    confidence: float
    accuracy: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Certainty:
    """Whether answers are right as often as they are sure, in words and by how sure they are."""

    sentence: str
    bins: tuple[CertaintyBin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """Answering always with the largest class."""

    label: str
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A finished model on labelled images of which it knows the classes.

    `test` is of all of them, `without_leaks` of those that are no training images, nor near
    copies of such, nor of one group with them; it is None where nothing leaks, or everything.
    `guess`, `classes` and `calibration` are without leaks, where that is not None.
    `trained_on` counts the training images that copies were looked for among.
    """

    model: str
    title: str
    data: str
    n_classes: int
    outputs: int
    labels_from: str
    is_assumed: bool  # the order of the outputs was assumed, nothing tells it
    better_order: float | None  # accuracy under another order, where the assumed one is wrong
    preprocessing: Preprocessing
    fed_as: str  # whose preprocessing that is
    test: Scores
    guess: Guess
    leaked: int
    without_leaks: Scores | None
    leaks_by: LeakCheck
    trained_on: int
    train: TrainGap | None
    classes: tuple[ClassScore, ...]
    calibration: Reliability
    findings: tuple[Finding, ...]
    unknown_classes: tuple[str, ...]  # of the data, that the model has no output for
    unknown_images: int  # of those; they are left out of all figures
    unused_outputs: tuple[str, ...]  # that the data has no image of
