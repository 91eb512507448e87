"""From what a finished network gives to answers, task by task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from warmstart.delivery.bundle import Bundle
from warmstart.evaluation.label_measure import LabelCertainty, confidence
from warmstart.evaluation.measure import measure_of
from warmstart.evaluation.metrics import scores
from warmstart.evaluation.number_measure import NumberCertainty
from warmstart.evaluation.queries import doubt
from warmstart.records import (
    Answer,
    LabelAnswer,
    LabelCalibration,
    NumberAnswer,
    NumberCalibration,
    TestScores,
)
from warmstart.stats.intervals import Blocks, Values
from warmstart.tasks.classes import CLASSES
from warmstart.tasks.label_sets import LABEL_SETS
from warmstart.tasks.numbers import Numbers

Answers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Place:
    """Which input is answered, and how it lies among what was learnt from."""

    path: str
    unknown: bool
    nearest: tuple[str, ...]


class Replies(Protocol):
    """How a model of one task answers."""

    def answers(self, outputs: Tensor) -> Answers:
        """What the network's outputs (n, K) say: probabilities, or values (n, 1)."""
        ...

    def answer(self, place: Place, said: Answers) -> Answer:
        """One input. Shapes: said (K,)."""
        ...

    def empty(self, path: str, error: str) -> Answer:
        """An input that cannot be read."""
        ...

    def measured(self, said: Answers, labels: Sequence[str], blocks: Blocks) -> TestScores:
        """Metrics on labelled inputs."""
        ...

    def doubt(self, said: NDArray[np.floating]) -> Values:
        """How much an answer is in doubt, 0 to 1. Shapes: (m, K) to (m,)."""
        ...


def _none(path: str, error: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("label", "probability", "sure"))
    return {"path": path, "unknown": False, "scores": {}, "error": error, **nothing}


@dataclass(frozen=True, slots=True, eq=False)
class ClassReplies:
    """One class."""

    bundle: Bundle

    def answers(self, outputs: Tensor) -> Answers:
        """Probabilities by softmax."""
        found: Answers = outputs.softmax(dim=1).numpy()
        return found

    def answer(self, place: Place, said: Answers) -> Answer:
        """The likeliest class."""
        calibration, names = self.bundle.calibration, self.bundle.record.classes
        best = int(said.argmax())
        sure = None if calibration.sure_from is None else bool(said[best] >= calibration.sure_from)
        return Answer(
            path=place.path,
            label=names[best],
            probability=float(said[best]),
            sure=False if place.unknown else sure,
            unknown=place.unknown,
            scores={names[i]: float(said[i]) for i in np.argsort(-said, kind="stable")},
            nearest=place.nearest,
        )

    def empty(self, path: str, error: str) -> Answer:
        """Without a label."""
        return Answer(**_none(path, error))

    def measured(self, said: Answers, labels: Sequence[str], blocks: Blocks) -> TestScores:
        """Accuracy and the like."""
        return scores(said, CLASSES.read(labels, self.bundle.record.classes), blocks)

    def doubt(self, said: NDArray[np.floating]) -> Values:
        """By the gap between the two likeliest classes."""
        return doubt(said)


@dataclass(frozen=True, slots=True, eq=False)
class LabelReplies:
    """Any of several labels."""

    bundle: Bundle
    calibration: LabelCalibration

    def answers(self, outputs: Tensor) -> Answers:
        """A probability a label."""
        found: Answers = outputs.sigmoid().numpy()
        return found

    def answer(self, place: Place, said: Answers) -> Answer:
        """The labels from their thresholds on."""
        names, thresholds = self.bundle.record.classes, np.array(self.calibration.thresholds)
        certain, least = float(confidence(said[None], thresholds)[0]), self.calibration.sure_from
        sure = None if least is None else certain >= least
        order = np.argsort(-said, kind="stable")
        return LabelAnswer(
            path=place.path, label=names[order[0]], probability=float(said[order[0]]),
            sure=False if place.unknown else sure, unknown=place.unknown,
            scores={names[i]: float(said[i]) for i in order}, nearest=place.nearest,
            labels=tuple(names[i] for i in order if said[i] >= thresholds[i]),
        )  # fmt: skip

    def empty(self, path: str, error: str) -> Answer:
        """Without labels."""
        return LabelAnswer(**_none(path, error))

    def measured(self, said: Answers, labels: Sequence[str], blocks: Blocks) -> TestScores:
        """Mean average precision and the like."""
        own, names = self.calibration, self.bundle.record.classes
        certainty = LabelCertainty(np.array(own.thresholds), own.sure_from, own.promised_error)
        truth = LABEL_SETS.read(labels, names)
        return measure_of(LABEL_SETS).scores(said, truth, blocks, certainty, names)

    def doubt(self, said: NDArray[np.floating]) -> Values:
        """Of the label that is nearest to being one or the other."""
        found: Values = 1 - 2 * np.abs(said.astype(np.float64) - 0.5).min(axis=1)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class NumberReplies:
    """A number."""

    calibration: NumberCalibration

    @property
    def target(self) -> Numbers:
        """The scale that was learnt: the finished calibration leads from it to the user's unit."""
        return Numbers(self.calibration.class_bias[0], self.calibration.temperature)

    def answers(self, outputs: Tensor) -> Answers:
        """Values, as they are."""
        found: Answers = outputs.numpy()
        return found

    def answer(self, place: Place, said: Answers) -> Answer:
        """The value with its interval."""
        value, half = float(said[0]), self.calibration.half_width
        return NumberAnswer(
            path=place.path, label=f"{value:.6g}", probability=None,
            sure=False if place.unknown else None, unknown=place.unknown, scores={},
            nearest=place.nearest, value=value, low=None if half is None else value - half,
            high=None if half is None else value + half,
        )  # fmt: skip

    def empty(self, path: str, error: str) -> Answer:
        """Without a value."""
        return NumberAnswer(**_none(path, error))

    def measured(self, said: Answers, labels: Sequence[str], blocks: Blocks) -> TestScores:
        """R² and errors."""
        target = self.target
        answers, truth = (said - target.mean) / target.spread, target.read(labels, ())
        certainty = NumberCertainty(self.calibration.half_width)
        return measure_of(target).scores(answers, truth, blocks, certainty, ())

    def doubt(self, said: NDArray[np.floating]) -> Values:
        """The same for all: intervals are equally wide."""
        return np.ones(len(said))


def replies_of(bundle: Bundle) -> Replies:
    """How a model answers, by what its calibration promises."""
    calibration = bundle.calibration
    if isinstance(calibration, LabelCalibration):
        return LabelReplies(bundle, calibration)
    if isinstance(calibration, NumberCalibration):
        return NumberReplies(calibration)
    return ClassReplies(bundle)
