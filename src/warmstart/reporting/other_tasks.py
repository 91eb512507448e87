"""Reports of models that name several labels, or a number: what is said elsewhere of classes."""

from __future__ import annotations

from warmstart.formatting import interval
from warmstart.records.answer import NumberCalibration
from warmstart.records.summary import Estimate, LabelScore
from warmstart.reporting import html
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.figures import MeasuredShare, on_a_line, scatter
from warmstart.reporting.first_screen import probe_marks, screen, use_text, warnings
from warmstart.reporting.next_steps import NextStep, has_issues, labels_step, repair_step, use_step
from warmstart.reporting.proof import ledger_figure
from warmstart.tasks.words import TASK_WORDS, further, test_estimate


def first_screen(facts: ReportFacts) -> str:
    """Readiness, the score as a picture, how it may be used."""
    data = facts.summary.data
    words = TASK_WORDS[facts.summary.task].output.format(data.classes)
    sizes = f"{facts.nouns.count(data.train)} to learn from, {words}"
    return screen(facts, sizes, _picture(facts), would_use(facts), next_steps(facts))


def answers_section(facts: ReportFacts) -> str:
    """Each label with its figures, or numbers said against true ones."""
    return html.section(
        "answers",
        "Answers: how good they are, on examples held out",
        _test(facts),
        _labels(facts),
        _numbers(facts),
    )


def _claims(facts: ReportFacts) -> list[tuple[Estimate, str]]:
    found = []
    if facts.summary.test is not None:
        found.append((test_estimate(facts.summary.test), "on the test set"))
    if facts.summary.estimate is not None:
        found.append((facts.summary.estimate, "on examples it had not seen"))
    return found


def _picture(facts: ReportFacts) -> str:
    measures, told = [], []
    for claim, where in _claims(facts):
        words = f"{interval(claim.value, claim.low, claim.high, claim.n)} {where}"
        value, low, high = (min(max(x, 0.0), 1.0) for x in (claim.value, claim.low, claim.high))
        is_main = claim is facts.summary.estimate
        measures.append(MeasuredShare(words, value, low, high, is_main=is_main))
        told.append(words)
    if not measures:
        return ""
    title = f"{TASK_WORDS[facts.summary.task].name}, in per cent"
    marks = probe_marks(facts)
    picture = on_a_line(measures, marks, name="score", title=title, about="; ".join(told))
    caption = f"{title}; the bar shows where the truth lies with 95 % certainty."
    return f"<figure>{picture}<figcaption>{html.escaped(caption)}</figcaption></figure>"


def would_use(facts: ReportFacts) -> list[str]:
    """How far its answers can be used."""
    if not facts.ships:
        return [f"No: nothing was shipped, for {facts.summary.shipped.why.rstrip('.')}."]
    return [use_text(facts), _how_far(facts), *warnings(facts)]


def _how_far(facts: ReportFacts) -> str:
    calibration = facts.calibration
    if not isinstance(calibration, NumberCalibration):
        return (
            "Each label has a threshold of its own, set where it finds and names best (F1). The "
            "table below says label by label how far that can be trusted."
        )
    half = calibration.half_width
    if half is None:
        return "Too few examples to promise an interval: look at each answer yourself."
    return (
        f"The truth lies within ± {half:.3g} of 9 of 10 answers for {facts.nouns.many} like these: "
        "that is the interval that every answer comes with. Use it where that is near enough."
    )


def next_steps(facts: ReportFacts) -> tuple[NextStep, ...]:
    """The labels to look at, more images, use: three at most, the most urgent first."""
    labels, learning_curve, repair = (
        labels_step(facts),
        facts.evidence("learning_curve"),
        repair_step(facts),
    )
    more = (
        None
        if learning_curve is None
        else NextStep(title=f"More {facts.nouns.many}", text=learning_curve.meaning)
    )
    use = use_step(facts)
    ordered = (labels, more, use) if has_issues(facts) or not facts.ships else (more, labels, use)
    return tuple(step for step in (repair, *ordered) if step is not None)[:3]


def weights_section(facts: ReportFacts) -> str:
    """That the frozen weights are what they were."""
    return html.section("proof", "Proof: what became of the weights", ledger_figure(facts))


def _test(facts: ReportFacts) -> str:
    test = facts.summary.test
    text = "Each example was answered by a model that had not seen it."
    return html.paragraph(text if test is None else f"{text} On the test set: {further(test)}")


def _labels(facts: ReportFacts) -> str:
    if not facts.label_scores:
        return ""
    head = (
        "label",
        facts.nouns.many,
        "average precision",
        "F1",
        "precision",
        "found",
        "named from",
    )
    rows = [_label(score) for score in sorted(facts.label_scores, key=_weakness)]
    return html.table("Labels, the weakest first", head, rows)


def _weakness(score: LabelScore) -> tuple[float, str]:
    return score.average_precision or 0.0, score.label


def _label(score: LabelScore) -> tuple[str, ...]:
    average = "" if score.average_precision is None else f"{score.average_precision:.2f}"
    return (
        html.escaped(score.label),
        f"{score.n:,}",
        average,
        f"{score.f1:.2f}",
        f"{score.precision:.2f}",
        f"{score.recall:.2f}",
        f"{score.threshold:.2f}",
    )


def _numbers(facts: ReportFacts) -> str:
    if not facts.numbers:
        return ""
    calibration = facts.calibration
    half = calibration.half_width if isinstance(calibration, NumberCalibration) else None
    title = "Said against true"
    about = f"{len(facts.numbers):,} examples held out; on the line an answer is right."
    if half is not None:
        about += f" Within the band (± {half:.3g}) lie 9 of 10."
    picture = scatter(facts.numbers, half, name="said", title=title, about=about)
    return html.figure(title, picture, about)
