"""The first screen: is it of use, how often is it right, what to do next."""

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
from warmstart.reporting.pictures import shots
from warmstart.reporting.verdict import against_shuffled
from warmstart.tasks.words import score_of

# ---- The first screen of every report, whatever the model says: its pieces in their order.


def screen(
    facts: ReportFacts,
    sizes: str,
    picture: str,
    use: Sequence[str],
    steps: Sequence[NextStep],
) -> str:
    """Readiness, sizes, verdict, picture, whether one would use it, what to do next.

    `picture` is markup, the rest is plain text.
    """
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


def probe_marks(facts: ReportFacts) -> list[Mark]:
    """The linear probe on the line of the score, where something else ships."""
    probe = facts.summary.linear_probe
    if probe is None or facts.summary.shipped.strategy in ("head", "none"):
        return []
    place = min(max(probe.value, 0.0), 1.0)
    return [Mark(f"linear probe {percent(probe.value, probe.n)}", place)]


def use_text(facts: ReportFacts) -> str:
    """Whether one would use it, in a word; the reasons stand in the line above everything."""
    words: dict[Level, str] = {
        "ready": "Yes.",
        "review": "Yes, where a person looks at its answers before they matter.",
        "not-ready": "Not yet.",
    }
    return words[facts.summary.readiness.level]


def _card(facts: ReportFacts, number: int, step: NextStep) -> str:
    """One step with its command and pictures."""
    return (
        f"<h3><span>{number}</span>{html.escaped(step.title)}</h3>{html.paragraph(step.text)}"
        + (html.command(step.command) if step.command else "")
        + shots(facts, step.shown)
    )


# ---- What changes how far a figure can be believed, said beside it.


# Kinds of findings that change how far a figure can be believed, and what to say then.
WARNINGS = {
    "leakage": "But some test {many} are among the training {many}, or nearly: the test set flatters "
    "it.",
    "distribution-shift": "But the test {many} are unlike the training {many}: each figure holds for its own "
    "kind only.",
    "spurious-correlation": "But it may have learnt the borders of the {many} instead of their subject.",
    "metadata-leakage": "But something about the files themselves gives {given} away; on other files "
    "that help is gone.",
    "preprocessing": "But the {many} may be fed in wrongly; in another way it did better.",
    "label-issue": "But some labels look wrong: where it seems to err it may be right, and the "
    "other way round.",
}
_GIVEN: dict[Task, str] = {
    "classify": "the class",
    "multilabel": "a label",
    "regress": "the number",
}


def warnings(facts: ReportFacts) -> list[str]:
    """A sentence for each kind of finding."""
    kinds = {finding.kind for finding in facts.summary.findings}
    kinds -= set() if leaks_much(facts) else {"leakage"}
    given, many = _GIVEN[facts.summary.task], facts.nouns.many
    return [
        words.format(given=given, many=many) for kind, words in WARNINGS.items() if kind in kinds
    ]


FEW = 0.05  # wrong among the confident answers, up to which they may be taken as they are


def first_screen(facts: ReportFacts) -> str:
    """Readiness, the accuracy as a picture, whether one would use it, the next steps."""
    return screen(facts, _sizes(facts), _picture(facts), would_use(facts), next_steps(facts))


def _sizes(facts: ReportFacts) -> str:
    data = facts.summary.data
    words = f"{facts.nouns.count(data.train)} to learn from, {data.classes} classes"
    return words + (f", {facts.nouns.count(data.test, 'test')}" if data.test else "")


def _picture(facts: ReportFacts) -> str:
    """The accuracy on a line, beside what comes without learning."""
    shuffled = against_shuffled(facts, "accuracy")
    if facts.summary.verdict.kind == "no-signal" and shuffled is not None:
        return _shown(shuffled[1], shuffled[2])
    estimate, test = facts.summary.estimate, facts.summary.test
    measures, told = [], []
    if test is not None:
        shown = interval(score_of(test), test.low, test.high, test.n)
        words = f"{shown} on the test set"
        measures.append(MeasuredShare(words, score_of(test), test.low, test.high, is_main=False))
        told.append(words)
    if estimate is not None:
        shown = interval(estimate.value, estimate.low, estimate.high, estimate.n)
        words = f"{shown} right"
        measures.append(MeasuredShare(words, estimate.value, estimate.low, estimate.high))
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


def _marks(facts: ReportFacts) -> list[Mark]:
    if facts.guess is None:
        return []
    permutation_test = facts.evidence("permutation_test")
    n = permutation_test.n if permutation_test is not None else facts.summary.data.train
    name, share = facts.guess
    return [Mark(f"always answering “{short(name, 14)}” {percent(share, n)}", share)]


def _caption(facts: ReportFacts) -> str:
    estimate = facts.summary.estimate
    if estimate is None:
        return "Measured on the test set."
    n = facts.nouns.count(estimate.n)
    unseen = {"holdout": f"Measured on {n} held out"}.get(
        estimate.method, f"Cross-validated: measured on {n}, each by a model that had not seen it"
    )
    return f"{unseen}; the bar shows where the truth lies with 95 % certainty."


def would_use(facts: ReportFacts) -> list[str]:
    """Whether one would use it, in sentences for someone who never trained a network."""
    if not facts.ships:
        return [f"No: nothing was shipped, for {facts.summary.shipped.why.rstrip('.')}."]
    found = [use_text(facts), _of_100(facts), confident_text(facts), *warnings(facts)]
    return [text for text in found if text]


def _of_100(facts: ReportFacts) -> str:
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


def confident_text(facts: ReportFacts) -> str:
    """Which answers it is confident in, and what is promised for those."""
    calibration, held = facts.calibration, facts.held
    if calibration is None or not held:
        return ""
    if calibration.confident_from is None:
        return (
            "It calls no answer confident: there are too few examples to promise that one is "
            "right. Look at each of them yourself where a mistake matters."
        )
    share = sum(said.probability >= calibration.confident_from for said in held) / len(held)
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
