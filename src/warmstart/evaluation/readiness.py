"""Whether a model can be used: one line above everything else, and its reasons.

Ready, usable with review, or not ready. The levels follow from what was measured: whether the
model beats the largest class, whether cross-validation and test set agree, whether the test set is
like the training set, and how wide the intervals are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warmstart.records.data import Finding, Task
from warmstart.records.summary import Estimate, Level, Readiness
from warmstart.stats.intervals import Interval, gap

GOOD = 0.85  # the least that a ready model is right, at the lower end of its interval
APART = 0.05  # of accuracy that a test set has to lie below the estimate, beyond chance
FAR = 0.10  # likewise, from which on the estimate is not to be used at all
WIDE = 0.30  # of accuracy: an interval as wide as that says next to nothing

# Kinds of findings by consequence: what makes a figure wrong comes before what makes it blurred.
CONSEQUENCE = (
    "distribution-shift",
    "leakage",
    "spurious-correlation",
    "metadata-leakage",
    "preprocessing",
    "conflict",
    "label-issue",
    "off-topic",
    "unreadable",
    "near-duplicate",
)
NEVER_FOLDED = CONSEQUENCE[:2]
_REVIEWED = {
    "distribution-shift": "the test {many} are unlike the training {many}",
    "leakage": "training {many} are in the test set",
    "spurious-correlation": "something beside the subject gives the answer away",
    "metadata-leakage": "the files themselves give the answer away",
    "preprocessing": "the {many} may be fed in wrongly",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Confident:
    """The answers that the model calls confident: their share of all, and how many are right."""

    share: float
    right: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """What the level of a finished model follows from.

    `blind`: the score of always giving the same answer, and what that answer is, in words.
    `why_not`: why nothing could be learnt, where that is so. `many`: what examples are called.
    """

    task: Task
    estimate: Estimate | None
    test: Estimate | None
    blind: tuple[float, str]
    findings: Sequence[Finding] = ()
    confident: Confident | None = None
    why_not: str = ""
    many: str = "images"


def by_consequence(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Findings that make a figure wrong first; equals stay in their order.

    >>> kinds = ("near-duplicate", "small-class", "leakage")
    >>> [one.kind for one in by_consequence([Finding(kind=k, sentence="…") for k in kinds])]
    ['leakage', 'near-duplicate', 'small-class']
    """
    place = {kind: number for number, kind in enumerate(CONSEQUENCE)}
    return tuple(sorted(findings, key=lambda one: place.get(one.kind, len(place))))


def readiness(found: Measurements) -> Readiness:
    """The level and its reasons, the gravest first.

    >>> sure = Estimate(
    ...     metric="accuracy", value=0.95, low=0.92, high=0.97, n=300, method="nested-cv"
    ... )
    >>> found = Measurements(task="classify", estimate=sure, test=None, blind=(0.1, "“a”"))
    >>> readiness_line(readiness(found))
    'Ready: 1 in 20 answers is wrong.'
    """
    grave, doubts = _grave(found), _doubts(found)
    if grave:
        # What makes a figure wrong is said even where the model is unfit for another reason.
        wrong = [] if found.why_not else _named(found, NEVER_FOLDED)
        return Readiness(level="not-ready", reasons=tuple(dict.fromkeys([*grave, *wrong])))
    level: Level = "review" if doubts or _lowest(found) < GOOD else "ready"
    return Readiness(level=level, reasons=(*doubts, *(_share_wrong(found) or _low_score(found))))


LEVELS: dict[Level, str] = {
    "ready": "Ready",
    "review": "Usable with review",
    "not-ready": "Not ready",
}


def readiness_line(found: Readiness) -> str:
    """The one line that stands above everything else, on every surface.

    >>> readiness_line(Readiness(level="review", reasons=("1 in 6 answers is wrong",)))
    'Usable with review: 1 in 6 answers is wrong.'
    >>> readiness_line(Readiness(level="ready"))
    'Ready.'
    """
    reasons = "; ".join(found.reasons)
    return f"{LEVELS[found.level]}: {reasons}." if reasons else f"{LEVELS[found.level]}."


def _claims(found: Measurements) -> list[Estimate]:
    return [claim for claim in (found.estimate, found.test) if claim is not None]


def _lowest(found: Measurements) -> float:
    return min((claim.low for claim in _claims(found)), default=0.0)


def _grave(found: Measurements) -> list[str]:
    """What makes the model unfit for use."""
    if found.why_not:
        return [found.why_not]
    reasons, (share, name) = [], found.blind
    apart = _apart(found)
    if apart is not None and apart[0] >= FAR:
        reasons.append(_disagreement(found))
    if _lowest(found) <= share:
        reasons.append(f"it may be no better than {name} ({_percent(share)})")
    claim = found.estimate
    if claim is not None and claim.high - claim.low > WIDE:
        reasons.append(
            f"too few examples: the estimate could be anything from {_percent(claim.low)} to "
            f"{_percent(claim.high)}"
        )
    return reasons


def _doubts(found: Measurements) -> list[str]:
    """What a person has to keep in mind when using it."""
    reasons, apart = [], _apart(found)
    if apart is not None and apart[0] < FAR:
        reasons.append(_disagreement(found))
    return list(dict.fromkeys([*reasons, *_named(found, tuple(_REVIEWED))]))


def _named(found: Measurements, kinds: Sequence[str]) -> list[str]:
    """Findings of these kinds in a few words, those that make a figure wrong first."""
    seen = [one.kind for one in by_consequence(found.findings) if one.kind in kinds]
    is_told = _apart(found) is not None  # the disagreement names the shift already
    seen = [kind for kind in seen if not (is_told and kind == "distribution-shift")]
    return list(dict.fromkeys(_REVIEWED[kind].format(many=found.many) for kind in seen))


def _apart(found: Measurements) -> Interval | None:
    """How far the test set lies below the estimate, where that is not chance."""
    claim, test = found.estimate, found.test
    if claim is None or test is None:
        return None
    apart = gap((claim.value, claim.low, claim.high), (test.value, test.low, test.high))
    return apart if apart[0] >= APART and apart[1] > 0 else None


def _disagreement(found: Measurements) -> str:
    if found.estimate is None or found.test is None:
        return ""
    is_shifted = any(one.kind == "distribution-shift" for one in found.findings)
    unlike = f", whose {found.many} are unlike the training {found.many}" if is_shifted else ""
    claim, test = _percent(found.estimate.value), _percent(found.test.value)
    return f"{claim} in cross-validation, but {test} on the test set{unlike}: expect {test}"


def _share_wrong(found: Measurements) -> list[str]:
    claim = found.estimate
    if claim is None or found.task != "classify":
        return []
    text = f"{one_in(1 - claim.value)} wrong"
    if found.confident is not None and found.confident.share > 0:
        share, right = found.confident.share, found.confident.right
        text += f"; the confident {_percent(share)} are {_percent(right)} right"
    return [text]


def _low_score(found: Measurements) -> list[str]:
    """The lower end of a score that is no share of right answers, where it is low."""
    low = _lowest(found)
    if found.estimate is None or low >= GOOD:
        return []
    return [f"{_SCORES[found.task]} may be as low as {_percent(low)}"]


def one_in(share: float) -> str:
    """How many answers, with their verb.

    >>> one_in(0.16), one_in(0.38), one_in(0.0), one_in(0.004)
    ('1 in 6 answers is', '4 in 10 answers are', 'no held-out answer was', '1 in 250 answers is')
    """
    if share <= 0:
        return "no held-out answer was"
    if share > 0.3:
        return f"{round(10 * share)} in 10 answers are"
    return f"1 in {round(1 / share)} answers is"


_SCORES: dict[Task, str] = {
    "classify": "the accuracy",
    "multilabel": "the mean average precision",
    "regress": "the variance explained (R²)",
}


def _percent(share: float) -> str:
    """As figures are shown elsewhere: no certainty that it is not.

    >>> _percent(0.86), _percent(0.997), _percent(-0.04)
    ('86 %', '99.7 %', '−4 %')
    """
    is_close = 0 < share < 0.005 or 0.995 <= share < 1
    text = f"{100 * share:.1f}" if is_close else f"{100 * share:.0f}"
    return f"{text} %".replace("-", "−")
