"""The first screen: is it of use, how often is it right, what to do next."""

from __future__ import annotations

from warmstart.delivery.figures.line import Mark, Measure, on_a_line
from warmstart.delivery.figures.svg import short
from warmstart.delivery.numbers import at_most, interval, percent
from warmstart.delivery.report import html
from warmstart.delivery.report.facts import Facts
from warmstart.delivery.report.screen import probe_marks, screen, use_text
from warmstart.delivery.report.steps import next_steps
from warmstart.delivery.report.verdict import against_shuffled
from warmstart.delivery.report.warnings import warnings
from warmstart.delivery.task_words import score_of

FEW = 0.05  # wrong among the confident answers, up to which they may be taken as they are


def first_screen(facts: Facts) -> str:
    """Readiness, the accuracy as a picture, whether one would use it, the next steps."""
    return screen(facts, _sizes(facts), _picture(facts), would_use(facts), next_steps(facts))


def _sizes(facts: Facts) -> str:
    data = facts.summary.data
    words = f"{facts.nouns.count(data.train)} to learn from, {data.classes} classes"
    return words + (f", {facts.nouns.count(data.test, 'test')}" if data.test else "")


def _picture(facts: Facts) -> str:
    """The accuracy on a line, beside what comes without learning."""
    shuffled = against_shuffled(facts, "accuracy")
    if facts.summary.verdict.kind == "no-signal" and shuffled is not None:
        return _shown(shuffled[1], shuffled[2])
    estimate, test = facts.summary.estimate, facts.summary.test
    measures, told = [], []
    if test is not None:
        shown = interval(score_of(test), test.low, test.high, test.n)
        words = f"{shown} on the test set"
        measures.append(Measure(words, score_of(test), test.low, test.high, is_main=False))
        told.append(words)
    if estimate is not None:
        shown = interval(estimate.value, estimate.low, estimate.high, estimate.n)
        words = f"{shown} right"
        measures.append(Measure(words, estimate.value, estimate.low, estimate.high))
        told.append(words)
    marks = [*_marks(facts), *probe_marks(facts)]
    if not measures:
        return ""
    about = "; ".join([*told, *(f"{mark.words} for comparison" for mark in marks)])
    title = "How often it is right, in per cent"
    picture = on_a_line(measures, marks, name="accuracy", title=title, about=about)
    return _shown(picture, _caption(facts))


def _shown(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{html.escaped(caption)}</figcaption></figure>"


def _marks(facts: Facts) -> list[Mark]:
    if facts.guess is None:
        return []
    signal = facts.evidence("signal")
    n = signal.n if signal is not None else facts.summary.data.train
    name, share = facts.guess
    return [Mark(f"always answering “{short(name, 14)}” {percent(share, n)}", share)]


def _caption(facts: Facts) -> str:
    estimate = facts.summary.estimate
    if estimate is None:
        return "Measured on the test set."
    n = facts.nouns.count(estimate.n)
    unseen = {"holdout": f"Measured on {n} held out"}.get(
        estimate.method, f"Cross-validated: measured on {n}, each by a model that had not seen it"
    )
    return f"{unseen}; the bar shows where the truth lies with 95 % certainty."


def would_use(facts: Facts) -> list[str]:
    """Whether one would use it, in sentences for someone who never trained a network."""
    if not facts.ships:
        return [f"No: nothing was shipped, for {facts.summary.shipped.why.rstrip('.')}."]
    found = [use_text(facts), _of_100(facts), confident_text(facts), *warnings(facts)]
    return [text for text in found if text]


def _of_100(facts: Facts) -> str:
    estimate, test = facts.summary.estimate, facts.summary.test
    if estimate is None:
        return ""
    value, low, high = (round(100 * x) for x in (estimate.value, estimate.low, estimate.high))
    many = facts.nouns.many
    text = (
        f"Of 100 new {many} like the training {many} it names about {value} rightly "
        f"({low} to {high})"
    )
    if test is not None:
        text += f", of 100 like the test {many} about {round(100 * score_of(test))}"
    if facts.guess is not None:
        name, share = facts.guess
        text += f"; always answering “{short(name, 30)}” would name {round(100 * share)}"
    return text + "."


def confident_text(facts: Facts) -> str:
    """Which answers it is confident in, and what is promised for those."""
    calibration, held = facts.calibration, facts.held
    if calibration is None or not held:
        return ""
    if calibration.sure_from is None:
        return (
            "It calls no answer confident: there are too few examples to promise that one is "
            "right. Look at each of them yourself where a mistake matters."
        )
    share = sum(said.probability >= calibration.sure_from for said in held) / len(held)
    promised = calibration.promised_error
    text = (
        f"It is confident in about {round(100 * share)} of 100 answers; of those at most "
        f"{at_most(promised)} in 100 are wrong."
    )
    if facts.summary.readiness.level == "not-ready":
        return text
    if promised <= FEW:
        return f"{text} Take those as they are, and look at the others yourself."
    return f"{text} Where that is too many, look at each answer yourself."
