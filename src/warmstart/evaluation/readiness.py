"""Whether a model can be used: ready, usable with review, or not ready, and why.

The level follows from measurements: whether the model beats the largest class, whether
cross-validation and test set agree, whether the test set is like the training set, and how wide
the intervals are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from warmstart.records.data import Task
from warmstart.records.findings import Finding
from warmstart.records.summary import Estimate, Level, Readiness
from warmstart.tasks.registry import TASKS
from warmstart.tasks.words import percent

if TYPE_CHECKING:
    from warmstart.stats.intervals import Interval

GOOD = 0.85  # least lower end of a ready model's interval
APART = 0.05  # of accuracy: a test set as far below the estimate, beyond chance, needs review
FAR = 0.10  # likewise, but the estimate is of no use
WIDE = 0.30  # of accuracy: an interval as wide says next to nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Confident:
    """The share of predictions that the model calls confident, and how many of them are right."""

    share: float
    right: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """What the level of a finished model follows from.

    `blind`: the score of the best constant prediction, and what that is, in words. `why_not`: why
    nothing could be learnt, where that is so. `many`: what examples are called.
    """

    task: Task
    estimate: Estimate | None
    test: Estimate | None
    blind: tuple[float, str]
    findings: Sequence[Finding] = ()
    confident: Confident | None = None
    why_not: str = ""
    many: str = "images"

    @property
    def lowest(self) -> float:
        """The lower of the lower ends of estimate and test score."""
        return min((one.low for one in (self.estimate, self.test) if one is not None), default=0.0)


def by_consequence(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Findings that make a figure wrong first; equals stay in their order.

    >>> kinds = ("near-duplicate", "small-class", "leakage")
    >>> [one.kind for one in by_consequence([Finding(kind=k, sentence="…") for k in kinds])]
    ['leakage', 'near-duplicate', 'small-class']
    """
    return tuple(sorted(findings, key=lambda one: one.about.consequence or math.inf))


def readiness(measured: Measurements) -> Readiness:
    """The level and its reasons, the gravest first.

    >>> good = Estimate(
    ...     metric="accuracy", value=0.95, low=0.92, high=0.97, n=300, method="nested-cv"
    ... )
    >>> measured = Measurements(task="classify", estimate=good, test=None, blind=(0.1, "“a”"))
    >>> readiness_line(readiness(measured))
    'Ready: 1 in 20 predictions is wrong.'
    """
    if measured.why_not:
        return Readiness(level="not-ready", reasons=(measured.why_not,))
    apart = _apart(measured)
    disagreement = [_disagreement(measured)] if apart is not None else []
    grave = [*(disagreement if apart is not None and apart[0] >= FAR else []), *_too_weak(measured)]
    if grave:
        # What makes a figure wrong is said even where the model is unfit for another reason.
        wrong = _named(measured, [one for one in measured.findings if not one.about.is_folded])
        return Readiness(level="not-ready", reasons=tuple(dict.fromkeys([*grave, *wrong])))
    concerns = dict.fromkeys([*disagreement, *_named(measured, measured.findings)])
    level: Level = "review" if concerns or measured.lowest < GOOD else "ready"
    return Readiness(level=level, reasons=(*concerns, *_score_reasons(measured)))


LEVELS: dict[Level, str] = {
    "ready": "Ready",
    "review": "Usable with review",
    "not-ready": "Not ready",
}


def readiness_line(readiness: Readiness) -> str:
    """The one line that stands above everything else, on every surface.

    >>> readiness_line(Readiness(level="review", reasons=("1 in 6 predictions is wrong",)))
    'Usable with review: 1 in 6 predictions is wrong.'
    >>> readiness_line(Readiness(level="ready"))
    'Ready.'
    """
    reasons = "; ".join(readiness.reasons)
    return f"{LEVELS[readiness.level]}{': ' if reasons else ''}{reasons}."


def _too_weak(measured: Measurements) -> list[str]:
    reasons, (share, name) = [], measured.blind
    if measured.lowest <= share:
        reasons.append(f"it may be no better than {name} ({percent(share)})")
    estimate = measured.estimate
    if estimate is not None and estimate.high - estimate.low > WIDE:
        reasons.append(
            f"too few examples: the estimate could be anything from {percent(estimate.low)} to "
            f"{percent(estimate.high)}"
        )
    return reasons


def _named(measured: Measurements, findings: Sequence[Finding]) -> list[str]:
    """Findings that need review in a few words, those that make a figure wrong first."""
    present = [one for one in by_consequence(findings) if one.about.review]
    if _apart(measured) is not None:  # the disagreement names the shift already
        present = [one for one in present if one.kind != "distribution-shift"]
    return list(dict.fromkeys(one.about.review.format(many=measured.many) for one in present))


def _apart(measured: Measurements) -> Interval | None:
    """How far the test set lies below the estimate, where that is not chance."""
    from warmstart.stats.intervals import gap  # loads scipy, which `warmstart --help` need not

    estimate, test = measured.estimate, measured.test
    if estimate is None or test is None:
        return None
    apart = gap((estimate.value, estimate.low, estimate.high), (test.value, test.low, test.high))
    return apart if apart[0] >= APART and apart[1] > 0 else None


def _disagreement(measured: Measurements) -> str:
    if measured.estimate is None or measured.test is None:
        return ""
    is_shifted = any(one.kind == "distribution-shift" for one in measured.findings)
    many = measured.many
    unlike = f", whose {many} are unlike the training {many}" if is_shifted else ""
    estimate, test = percent(measured.estimate.value), percent(measured.test.value)
    return f"{estimate} in cross-validation, but {test} on the test set{unlike}: expect {test}"


def _score_reasons(measured: Measurements) -> list[str]:
    """The share of wrong predictions, or the lower end of another score where that is low."""
    if measured.estimate is None:
        return []
    if not TASKS[measured.task].has_classes:
        low, score = measured.lowest, TASKS[measured.task].words.score
        return [f"the {score} may be as low as {percent(low)}"] if low < GOOD else []
    text, confident = f"{one_in(1 - measured.estimate.value)} wrong", measured.confident
    if confident is not None and confident.share > 0:
        text += (
            f"; of the confident {percent(confident.share)}, {percent(confident.right)} are right"
        )
    return [text]


def one_in(share: float) -> str:
    """How many predictions, with their verb.

    >>> one_in(0.16), one_in(0.38), one_in(0.0)
    ('1 in 6 predictions is', '4 in 10 predictions are', 'no held-out prediction was')
    >>> one_in(0.0039)
    '1 in 260 predictions is'
    """
    if share <= 0:
        return "no held-out prediction was"
    if share > 0.3:
        return f"{round(10 * share)} in 10 predictions are"
    return f"1 in {round(float(f'{1 / share:.2g}'))} predictions is"
