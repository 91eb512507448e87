"""The first screen: is the model useful, how accurate is it, what to do next."""

from __future__ import annotations

from warmstart.evaluation.readiness import readiness_line
from warmstart.formatting import at_most, interval, percent, sentence
from warmstart.records.answer import NumberCalibration
from warmstart.records.data import FINDINGS
from warmstart.records.summary import Estimate, Level
from warmstart.reporting import html
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.figures import MeasuredShare, on_a_line
from warmstart.reporting.html import short
from warmstart.reporting.next_steps import NextStep, leaks_much, next_steps
from warmstart.reporting.verdict import against_shuffled
from warmstart.tasks.registry import score_of, test_estimate

FEW = 0.05  # errors among the confident answers, up to which they need no review
USE: dict[Level, str] = {
    "ready": "Yes.",
    "review": "Yes, if a person reviews its answers before they matter.",
    "not-ready": "Not yet.",
}


def first_screen(facts: ReportFacts) -> str:
    """Readiness, sizes, verdict, the score as a picture, usefulness, next steps."""
    data, verdict, target = facts.summary.data, facts.summary.verdict, facts.target
    sizes = f"{facts.nouns.count(data.train, 'training')}, "
    sizes += target.words.output.format(data.classes)
    if data.test and target.has_classes:
        sizes += f", {facts.nouns.count(data.test, 'test')}"
    kind = "verdict bad" if verdict.kind in ("no-signal", "no-transfer") else "verdict"
    cards = (f"<li>{_card(facts, k, step)}</li>" for k, step in enumerate(next_steps(facts), 1))
    return (
        f"<h1>{html.escaped(readiness_line(facts.summary.readiness))}</h1>"
        + html.paragraph(f"{facts.name}: {sizes}", "over")
        + html.paragraph(sentence(verdict.sentence), kind)
        + _picture(facts)
        + "<h2>Would I use it?</h2>"
        + "".join(html.paragraph(text) for text in would_use(facts))
        + "<h2>What to do next</h2>"
        + f'<ol class="cards">{"".join(cards)}</ol>'
    )


def _card(facts: ReportFacts, number: int, step: NextStep) -> str:
    return (
        f"<h3><span>{number}</span>{html.escaped(step.title)}</h3>{html.paragraph(step.text)}"
        + (html.command(step.command) if step.command else "")
        + html.shots(facts, step.examples)
    )


def _picture(facts: ReportFacts) -> str:
    """The score between 0 and 100 %, or without a signal the permutation test."""
    estimate, test = facts.summary.estimate, facts.summary.test
    shuffled = against_shuffled(facts, "accuracy")
    is_classes = facts.target.has_classes
    if is_classes and facts.summary.verdict.kind == "no-signal" and shuffled is not None:
        _, picture, caption = shuffled
        return _captioned(picture, caption)
    name = facts.target.words.name
    measures = []
    if test is not None:
        measures.append(_measure(test_estimate(test), "{} on the test set", is_main=False))
    if estimate is not None:
        measures.append(_measure(estimate, f"{name} {{}}", is_main=True))
    if not measures:
        return ""
    marks = _marks(facts)
    texts = [*(one.words for one in measures), *(f"{words} for comparison" for words, _ in marks)]
    title, about = f"{name[0].upper()}{name[1:]}, in per cent", "; ".join(texts)
    return _captioned(
        on_a_line(measures, marks, name="score", title=title, about=about), _caption(facts)
    )


def _captioned(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{html.escaped(caption)}</figcaption></figure>"


def _measure(score: Estimate, words: str, is_main: bool) -> MeasuredShare:
    text = words.format(interval(score.value, score.low, score.high, score.n))
    # R² may be negative.
    value, low, high = (min(max(x, 0.0), 1.0) for x in (score.value, score.low, score.high))
    return MeasuredShare(text, value, low, high, is_main=is_main)


def _marks(facts: ReportFacts) -> list[tuple[str, float]]:
    """The constant prediction, and the linear probe where something else ships."""
    marks, probe = [], facts.summary.linear_probe
    if facts.majority is not None:
        permutation_test = facts.evidence("permutation_test")
        n = permutation_test.n if permutation_test is not None else facts.summary.data.train
        name, share = facts.majority
        marks.append((f"always predicting “{short(name, 14)}” {percent(share, n)}", share))
    if probe is not None and facts.summary.shipped.strategy not in ("head", "none"):
        place = min(max(probe.value, 0.0), 1.0)
        marks.append((f"linear probe {percent(probe.value, probe.n)}", place))
    return marks


def _caption(facts: ReportFacts) -> str:
    estimate = facts.summary.estimate
    if estimate is None:
        return "Measured on the test set."
    n = facts.nouns.count(estimate.n)
    how = f"Cross-validated on {n}, each predicted by a model that was not trained on it"
    if estimate.method == "holdout":
        how = f"Measured on {n} held out"
    return f"{how}; the bar is the 95 % confidence interval."


def would_use(facts: ReportFacts) -> list[str]:
    """Whether one would use the model, and how far, in sentences for a layman."""
    if not facts.ships:
        return [f"No: nothing was shipped, for {facts.summary.shipped.why.rstrip('.')}."]
    is_classes = facts.target.has_classes
    texts = [_of_100(facts), _confident(facts)] if is_classes else [_intervals(facts)]
    texts = [USE[facts.summary.readiness.level], *texts, *_warnings(facts)]
    return [text for text in texts if text]


def _warnings(facts: ReportFacts) -> list[str]:
    kinds = {finding.kind for finding in facts.summary.findings}
    kinds -= set() if leaks_much(facts) else {"leakage"}
    words = {"target": facts.target.words.target, "many": facts.nouns.many}
    return [one.warning.format(**words) for name, one in FINDINGS.items() if name in kinds]


def _of_100(facts: ReportFacts) -> str:
    estimate, test = facts.summary.estimate, facts.summary.test
    if estimate is None:
        return ""
    value, low, high = (round(100 * x) for x in (estimate.value, estimate.low, estimate.high))
    many = facts.nouns.many
    text = (
        f"Of 100 new {many} like the training {many} it classifies about {value} correctly "
        f"({low} to {high})"
    )
    if test is not None:
        text += f", of 100 like the test {many} about {round(100 * score_of(test))}"
    if facts.majority is not None:
        name, share = facts.majority
        text += f"; always predicting “{short(name, 30)}” is right for {round(100 * share)}"
    return text + "."


def _confident(facts: ReportFacts) -> str:
    """How many answers are confident, and the error rate guaranteed for those."""
    calibration, held_out = facts.calibration, facts.held_out
    if calibration is None or not held_out:
        return ""
    if calibration.confident_from is None:
        return (
            "It calls no answer confident: there are too few examples to guarantee that. Review "
            "each answer where a mistake matters."
        )
    threshold, error = calibration.confident_from, calibration.promised_error
    share = sum(one.probability >= threshold for one in held_out) / len(held_out)
    text = (
        f"It is confident in about {round(100 * share)} of 100 answers; of those at most "
        f"{at_most(error)} in 100 are wrong."
    )
    if facts.summary.readiness.level == "not-ready":
        return text
    if error <= FEW:
        return f"{text} Use those without review, and review the others."
    return f"{text} Where that is too many, review each answer."


def _intervals(facts: ReportFacts) -> str:
    """How far to trust the labels or the number of an answer."""
    calibration = facts.calibration
    if not isinstance(calibration, NumberCalibration):
        return (
            "Each label has its own threshold, chosen for the best F1. The table below says label "
            "by label how far to trust it."
        )
    half = calibration.half_width
    if half is None:
        return "Too few examples to guarantee an interval: review each answer."
    return (
        f"The truth lies within ± {half:.3g} of 9 of 10 answers for {facts.nouns.many} like these: "
        "that is the interval of every answer. Use the model where that is near enough."
    )
