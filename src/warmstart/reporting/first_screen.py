"""The first screen: is the model useful, how accurate is it, what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from warmstart.evaluation.readiness import readiness_line
from warmstart.formatting import at_most, interval, percent, sentence
from warmstart.records.data import Task
from warmstart.records.summary import Level
from warmstart.reporting import html
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.figures import Mark, MeasuredShare, on_a_line
from warmstart.reporting.html import short
from warmstart.reporting.next_steps import NextStep, leaks_much, next_steps
from warmstart.reporting.verdict import against_shuffled
from warmstart.tasks.words import score_of


def screen(
    facts: ReportFacts, sizes: str, picture: str, use: Sequence[str], steps: Sequence[NextStep]
) -> str:
    """Readiness, sizes, verdict, picture, usefulness, next steps; `picture` is markup."""
    verdict = facts.summary.verdict
    kind = "verdict bad" if verdict.kind in ("no-signal", "no-transfer") else "verdict"
    cards = "".join(f"<li>{_card(facts, k, step)}</li>" for k, step in enumerate(steps, 1))
    return (
        f"<h1>{html.escaped(readiness_line(facts.summary.readiness))}</h1>"
        + html.paragraph(f"{facts.name}: {sizes}", "over")
        + html.paragraph(sentence(verdict.sentence), kind)
        + picture
        + "<h2>Would I use it?</h2>"
        + "".join(html.paragraph(text) for text in use)
        + "<h2>What to do next</h2>"
        + f'<ol class="cards">{cards}</ol>'
    )


def captioned(picture: str, caption: str) -> str:
    """A picture without a heading, with a caption."""
    return f"<figure>{picture}<figcaption>{html.escaped(caption)}</figcaption></figure>"


def probe_marks(facts: ReportFacts) -> list[Mark]:
    """The linear probe on the line of the score, where something else ships."""
    probe = facts.summary.linear_probe
    if probe is None or facts.summary.shipped.strategy in ("head", "none"):
        return []
    place = min(max(probe.value, 0.0), 1.0)
    return [Mark(f"linear probe {percent(probe.value, probe.n)}", place)]


def use_text(facts: ReportFacts) -> str:
    """Whether one would use the model, in a word; the readiness line has the reasons."""
    words: dict[Level, str] = {
        "ready": "Yes.",
        "review": "Yes, if a person reviews its answers before they matter.",
        "not-ready": "Not yet.",
    }
    return words[facts.summary.readiness.level]


def _card(facts: ReportFacts, number: int, step: NextStep) -> str:
    return (
        f"<h3><span>{number}</span>{html.escaped(step.title)}</h3>{html.paragraph(step.text)}"
        + (html.command(step.command) if step.command else "")
        + html.shots(facts, step.examples)
    )


# Kinds of findings that change how far a score can be believed, and the sentence that says so.
WARNINGS = {
    "leakage": "But some test {many} are among the training {many}, or nearly: the score on the "
    "test set is too high.",
    "distribution-shift": "But the test {many} are unlike the training {many}: each score holds "
    "for its own kind only.",
    "spurious-correlation": "But it may have learnt the borders of the {many} instead of their "
    "subject.",
    "metadata-leakage": "But something about the files themselves gives {target} away; on other "
    "files that help is gone.",
    "preprocessing": "But the {many} may be preprocessed wrongly; another way did better.",
    "label-issue": "But some labels look wrong: where it seems to err it may be right, and the "
    "other way round.",
}
_TARGETS: dict[Task, str] = {
    "classify": "the class",
    "multilabel": "a label",
    "regress": "the number",
}


def warnings(facts: ReportFacts) -> list[str]:
    """A sentence for each such kind of finding."""
    kinds = {finding.kind for finding in facts.summary.findings}
    kinds -= set() if leaks_much(facts) else {"leakage"}
    words = {"target": _TARGETS[facts.summary.task], "many": facts.nouns.many}
    return [text.format(**words) for kind, text in WARNINGS.items() if kind in kinds]


# ---- The first screen of a classifier.


FEW = 0.05  # errors among the confident answers, up to which they need no review


def first_screen(facts: ReportFacts) -> str:
    """Readiness, the accuracy as a picture, usefulness, the next steps."""
    data = facts.summary.data
    sizes = f"{facts.nouns.count(data.train, 'training')}, {data.classes} classes"
    sizes += f", {facts.nouns.count(data.test, 'test')}" if data.test else ""
    return screen(facts, sizes, _picture(facts), would_use(facts), next_steps(facts))


def _picture(facts: ReportFacts) -> str:
    shuffled = against_shuffled(facts, "accuracy")
    if facts.summary.verdict.kind == "no-signal" and shuffled is not None:
        return captioned(shuffled[1], shuffled[2])
    estimate, test = facts.summary.estimate, facts.summary.test
    measures = []
    if test is not None:
        words = f"{interval(score_of(test), test.low, test.high, test.n)} on the test set"
        measures.append(MeasuredShare(words, score_of(test), test.low, test.high, is_main=False))
    if estimate is not None:
        words = f"accuracy {interval(estimate.value, estimate.low, estimate.high, estimate.n)}"
        measures.append(MeasuredShare(words, estimate.value, estimate.low, estimate.high))
    if not measures:
        return ""
    marks = probe_marks(facts)
    if facts.majority is not None:
        permutation_test = facts.evidence("permutation_test")
        n = permutation_test.n if permutation_test is not None else facts.summary.data.train
        name, share = facts.majority
        marks.insert(0, Mark(f"always predicting “{short(name, 14)}” {percent(share, n)}", share))
    texts = [*(one.words for one in measures), *(f"{one.words} for comparison" for one in marks)]
    title = "Accuracy, in per cent"
    picture = on_a_line(measures, marks, name="accuracy", title=title, about="; ".join(texts))
    return captioned(picture, _caption(facts))


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
    """Whether one would use the model, in sentences for a layman."""
    if not facts.ships:
        return [f"No: nothing was shipped, for {facts.summary.shipped.why.rstrip('.')}."]
    texts = [use_text(facts), _of_100(facts), confident_text(facts), *warnings(facts)]
    return [text for text in texts if text]


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


def confident_text(facts: ReportFacts) -> str:
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
